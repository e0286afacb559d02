"""Nothing that is made on one device may meet another while views are sampled, without a GPU: see `pretended_device`.

The model is a small one of the real classes. It is loaded once and stays on the device.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gd_core.attention import RefocusConfig
from gd_core.diffusion import sample_views
from gd_core.settings.sampling import SAMPLERS
from tests.pretended_device import DevicesMeet, PretendedTensor, pretended_device
from tests.random_models import random_mvdream

PROMPT = "a red cube and a blue sphere"


def tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def lives_on(device: torch.device, *tensors: torch.Tensor) -> None:
    for tensor in tensors:
        assert tensor.device == device and isinstance(tensor, PretendedTensor) == (device.type != "cpu"), tensor.device


class Run:
    """A model, and what is done with it."""

    def __init__(self, folder: Path, device: torch.device):
        self.device, self.cpu = device, torch.device("cpu")
        self.model = random_mvdream(folder / "tokenizer")

    def load(self) -> None:
        for part in (self.model.unet, self.model.vae, self.model.text_encoder):
            part.requires_grad_(False).to(self.device)
            lives_on(self.device, *tensors_of(part))

    def sample(self) -> None:
        for sampler in SAMPLERS:
            views = sample_views(self.model, PROMPT, seed=0, steps=2, sampler=sampler, progress=lambda *_: None)
            lives_on(self.cpu, views.images, views.masks, views.latents, views.cameras.c2w, *views.attention.values())

    def refocus(self) -> None:
        config = RefocusConfig(share=1.0)
        for checkpointing in (False, True):
            views = sample_views(
                self.model, PROMPT, seed=0, steps=2, refocus=replace(config, checkpointing=checkpointing),
                on_report=lambda report: lives_on(self.cpu, *report.attention.values()),
            )  # fmt: skip
            assert views.provenance["refocus_report"]["updates"]


STAGES = ("load", "sample", "refocus")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("run"), torch.device("meta"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_stays_on_its_device(run, stage):
    with pretended_device():
        getattr(run, stage)()


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: there @ here,
        lambda there, here: torch.cat((there[0], here)),
        lambda there, here: torch.stack((there.sum(), here.sum())),
        lambda there, here: torch.nn.functional.linear(there, here[None]),
        lambda there, here: there.numpy(),
    ],
)
def test_the_pretended_device_refuses_what_a_real_one_would(mixed):
    with pretended_device() as device:
        there, here = torch.ones(3, 4, device=device), torch.ones(4)
        with pytest.raises((DevicesMeet, TypeError)):
            mixed(there, here)


def test_the_pretended_device_computes():
    with pretended_device() as device:
        there = torch.ones(3, 4, device=device).requires_grad_()
        assert ((there * torch.tensor(2.0) + 1)[torch.tensor([0, 2])].cpu() == 3).all()
        (there @ torch.full((4,), 2.0).to(device)).square().sum().backward()
        assert there.grad.tolist() == [[32.0] * 4] * 3
