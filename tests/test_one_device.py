"""Nothing that is made on one device may meet another, from prompt to mesh, without a GPU: see `pretended_device`.

Models are small ones of the real classes. What one stage makes the next one needs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gd_core.attention import RefocusConfig
from gd_core.cameras import orbit_cameras
from gd_core.diffusion import sample_views
from gd_core.distillation import Ramp, refine
from gd_core.mesh import MeshConfig, extract_mesh
from gd_core.metrics import evaluate_field
from gd_core.nerf import FitConfig, fit_views, load_field
from gd_core.nerf.encodings import EncodingConfig
from gd_core.nerf.field import FieldConfig
from gd_core.nerf.match import match_with_views
from gd_core.settings.sampling import SAMPLERS
from gd_core.views import ViewSet
from tests.pretended_device import DevicesMeet, PretendedTensor, pretended_device
from tests.random_models import random_mvdream

PROMPT = "a red cube and a blue sphere"


def ball(size: int = 24) -> ViewSet:
    cameras = orbit_cameras(4)
    origins, directions = cameras.rays(size, size)
    nearest = (origins - (origins * directions).sum(-1, keepdim=True) * directions).norm(dim=-1)
    masks = (nearest < 0.5).float()
    colour = torch.tensor([0.9, 0.2, 0.1])
    return ViewSet(masks[..., None] * colour + 1 - masks[..., None], masks, cameras, prompt=PROMPT)


def tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def lives_on(device: torch.device, *tensors: torch.Tensor) -> None:
    for tensor in tensors:
        assert tensor.device == device and isinstance(tensor, PretendedTensor) == (device.type != "cpu"), tensor.device


class Run:
    """What is made by one stage and needed by the next."""

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device, self.cpu = folder, device, torch.device("cpu")
        self.model = random_mvdream(folder / "tokenizer")
        self.views = ball()

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

    def fit(self) -> None:
        config = FitConfig(steps=6, rays_per_step=64, prune_after=2, prune_every=2, check_every=3)
        for encoding in (EncodingConfig(), EncodingConfig(kind="hash", levels=4, log2_table=12)):
            config = replace(config, field=FieldConfig(encoding=encoding))
            self.field = fit_views(self.views, config, resume=self.folder / "fit.checkpoint", device=self.device)
            lives_on(self.device, *tensors_of(self.field))
            fit_views(self.views, config, resume=self.folder / "fit.checkpoint", device=self.device)  # reads what was left
            (self.folder / "fit.checkpoint").unlink()
        fit_views(self.views.to(self.device), config, device="cpu")
        detailed = fit_views(ball(72), replace(config, quality="fine", field=FieldConfig()), device=self.device)
        assert detailed.shape.shell is not None
        lives_on(self.device, *tensors_of(detailed))

    def render(self) -> None:
        rendered = self.field.render(orbit_cameras(2), 16, 16, background=torch.ones(3).to(self.device))
        lives_on(self.device, rendered.rgb, rendered.alpha, rendered.depth, rendered.normal)
        match_with_views(self.field, self.views)
        evaluate_field(self.field, self.views)

    def refine(self) -> None:
        """With nothing and with the text encoder and the decoder waiting on the CPU; all terms of the loss are on."""
        config = replace(
            self.model.recipe.refine, steps=2, evaluate_every=2, milestones=((0.0, 0.25),), reference_rays=64,
            sds_weight=Ramp(0.1, 0.1), opacity_weight=0.1, orient_weight=0.1, random_background=0.5,
        )  # fmt: skip
        for preset in ("24GB", "8GB"):
            config = replace(config, preset=preset)
            refined = refine(self.field, self.views, self.model, config, lambda *_: None, self.folder / preset)
            lives_on(self.device, *tensors_of(refined), *tensors_of(self.model.vae), *tensors_of(self.model.text_encoder))
        refine(self.field, self.views, self.model, config, resume=self.folder / preset)  # reads what was left

    def mesh(self) -> None:
        for color in ("texture", "vertex"):
            mesh = extract_mesh(self.field, MeshConfig(resolution=16, target_faces=200, texture_size=64, color=color))
            lives_on(self.cpu, mesh.vertices, mesh.faces, mesh.normals)

    def save_and_load(self) -> None:
        path = self.folder / "field.safetensors"
        self.field.save(path)
        lives_on(self.cpu, *tensors_of(load_field(path, "cpu")))
        lives_on(self.device, *tensors_of(load_field(path, self.device)))


STAGES = ("load", "sample", "refocus", "fit", "render", "refine", "mesh", "save_and_load")


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


def test_the_pretended_device_multiplies_no_matrices_of_integers():
    with pretended_device() as device, pytest.raises(RuntimeError, match="not implemented for torch.int64"):
        torch.ones(3, 4, dtype=torch.int64, device=device) @ torch.ones(4, dtype=torch.int64, device=device)


def test_the_pretended_device_computes():
    with pretended_device() as device:
        there = torch.ones(3, 4, device=device).requires_grad_()
        assert ((there * torch.tensor(2.0) + 1)[torch.tensor([0, 2])].cpu() == 3).all()
        (there @ torch.full((4,), 2.0).to(device)).square().sum().backward()
        assert there.grad.tolist() == [[32.0] * 4] * 3
