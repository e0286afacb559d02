"""The memory estimate against every tensor of real passes, and offloading against the plain model."""

import weakref
from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL
from packaging.version import Version
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from gd_core.diffusion import load_unet, predict_noise, sample_views
from gd_core.diffusion.checkpoint import load_strictly
from gd_core.diffusion.memory import MVDREAM_V15, MVDREAM_V21, estimate_sampling_memory, offload_weights, size_of
from gd_core.diffusion.multiview import text_kept
from gd_core.diffusion.vae_keys import diffusers_vae
from tests.original_layout import clip_shapes, openclip_shapes, random_weights, unet_shapes, vae_shapes
from tests.random_models import random_mvdream


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive that were made inside, and their peak."""

    def __init__(self, *ignored: torch.nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self.known = {t.untyped_storage()._cdata for module in ignored for t in module.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage):
        address, size = storage._cdata, storage.nbytes()

        def freed():
            self.now -= size
            self.known.discard(address)

        self.known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, freed)


@pytest.fixture
def model(tmp_path):
    return random_mvdream(tmp_path)


def test_estimate_is_what_passes_hold():
    """On Stable Diffusion's structure at a fraction of its width, every tensor counted."""
    structure = {"channel_mult": (1, 2, 4, 4), "num_res_blocks": 2}
    shapes = unet_shapes(**structure, model_channels=64, attention_resolutions=(1, 2, 4), context_dim=1024, linear=True)
    unet = load_unet(random_weights(shapes, 0))
    size = replace(MVDREAM_V21, unet_width=64, vae_width=32, text_channels=12_480 // 5)
    estimate = estimate_sampling_memory(size, dtype=torch.float32, num_views=2, image_size=128, guidance=False)
    context = torch.randn(2, 77, 1024)
    with torch.no_grad(), LiveBytes(unet) as live, text_kept(unet, context):
        predict_noise(unet, torch.randn(2, 4, 16, 16), 500, context, torch.randn(2, 16), 2)
    assert live.peak == pytest.approx(estimate.unet_pass, rel=0.1)

    weights = random_weights(vae_shapes(ch=32, ch_mult=(1, 2, 4, 4), num_res_blocks=2), 0, "first_stage_model.")
    config, weights = diffusers_vae(weights, "it")
    vae = load_strictly(lambda: AutoencoderKL(**config), weights, torch.float32, "it")
    estimate = estimate_sampling_memory(size, dtype=torch.float32, num_views=2, image_size=64)
    with torch.no_grad(), LiveBytes(vae) as live:
        vae.decode(torch.randn(2, 4, 8, 8))
    assert live.peak == pytest.approx(estimate.decoding, rel=0.1)


def test_published_sizes():
    def count(shapes):
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    unused = 4096 * 1024 * 2 + 4096 + 1024 + 4 * (1024 * 1024 + 1024) + 4 * 1024  # the last block of OpenCLIP's tower
    openclip = count(openclip_shapes(width=1024, layers=24)) - unused - 1024 * 1024 - 1
    assert (MVDREAM_V21.text_encoder, MVDREAM_V15.text_encoder) == (openclip, count(clip_shapes(width=768, layers=12)) - 77)
    vae = count(vae_shapes(ch=128, ch_mult=(1, 2, 4, 4), num_res_blocks=2))
    assert MVDREAM_V21.vae == MVDREAM_V15.vae == vae
    assert (MVDREAM_V21.largest_layer, MVDREAM_V15.largest_layer) == (49408 * 1024, 49408 * 768)


def test_a_models_size_is_read_from_it(model):
    size = size_of(model)
    assert size.unet == sum(p.numel() for p in model.unet.parameters())
    assert (size.unet_width, size.text_channels) == (32, 3 * 64 + 64)
    assert size.image_size == model.config.image_size


def test_each_choice_needs_less():
    def peak(**choice):
        return estimate_sampling_memory(**choice).peak

    assert peak(dtype=torch.float32) == 2 * peak()
    assert peak() > peak(offload="parts") > peak(offload="all")
    assert peak(num_objects=8, vae_slicing=True) < peak(num_objects=8)
    assert peak(guidance=False, vae_slicing=True) < peak(vae_slicing=True)
    assert peak(image_size=512) > peak()
    with pytest.raises(ValueError, match="offload must be one of none, parts, all, got 'disk'"):
        estimate_sampling_memory(offload="disk")


@pytest.mark.parametrize("offload", ["none", "parts", "all"])
def test_offloading_changes_no_image(model, offload):
    old = Version(diffusers.__version__) < Version("0.37")
    if offload != "none" and old and torch.accelerator.current_accelerator() is None:
        pytest.skip("this release of diffusers offloads to an accelerator only, and there is none")
    settings = {"seed": 3, "steps": 2, "guidance_scale": 3.0}
    expected = sample_views(model, "a red cube", **settings)
    offload_weights(model, "cpu", offload)
    model.vae.enable_slicing()
    assert model.device == torch.device("cpu")
    assert torch.allclose(sample_views(model, "a red cube", **settings).images, expected.images, atol=1e-5)


def test_offload_is_checked(model):
    with pytest.raises(ValueError, match="offload must be one of"):
        offload_weights(model, "cpu", "gpu")
