"""The count of memory against every tensor of real passes, of Stable Diffusion's structure at a fraction of its width."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from gd_core import memory
from gd_core.attention import AttentionCapture
from gd_core.attention.refocus import frozen
from gd_core.diffusion import predict_noise
from gd_core.diffusion.multiview import text_kept
from gd_core.diffusion.random_weights import empty_mvdream, random_mvdream
from gd_core.settings.refocus import RefocusConfig
from tests.live_bytes import LiveBytes

VIEWS, LATENT, PIXELS = 2, 32, 64


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return random_mvdream(torch.float32, width=64, parts=("unet",)).unet


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return random_mvdream(torch.float32, width=64, parts=("vae",)).vae


def one_pass(unet, latents=None):
    latents = torch.randn(VIEWS, 4, LATENT, LATENT) if latents is None else latents
    context = torch.randn(VIEWS, 77, 1024)
    predict_noise(unet, latents, 500, context, torch.randn(VIEWS, 16), VIEWS)


def test_a_pass_of_the_unet(unet):
    with torch.no_grad(), LiveBytes(unet) as live:
        one_pass(unet)
    assert live.peak == pytest.approx(memory.unet_pass(unet, VIEWS, LATENT), rel=0.1)


def test_text_is_counted_once(unet):
    model = replace(empty_mvdream(torch.float32, width=64), unet=unet)
    need = memory.sampling(model, num_views=VIEWS, guidance=False).unet_pass
    text = need - memory.unet_pass(unet, VIEWS, model.latent_size)
    context = torch.randn(VIEWS, 77, 1024)
    with torch.no_grad(), LiveBytes(unet) as live, text_kept(unet, context):
        predict_noise(unet, torch.randn(VIEWS, 4, LATENT, LATENT), 500, context, torch.randn(VIEWS, 16), VIEWS)
        kept = live.now - context.nbytes  # which is seen through the passes' views of it
    assert kept == pytest.approx(text, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("downscale", [1, 2, 4])
def test_an_update_of_refocusing(unet, downscale, checkpointing):
    settings = {"downscale": downscale, "num_tokens": 12, "stop": True, "checkpointing": checkpointing}
    latents = torch.randn(VIEWS, 4, LATENT, LATENT, requires_grad=True)
    with LiveBytes(unet) as live, torch.enable_grad(), frozen(unet), AttentionCapture(unet, **settings) as capture:
        capture.run(one_pass, unet, latents)
        capture.close()
        torch.autograd.grad(capture.take(LATENT, LATENT).square().sum(), latents)
    config = RefocusConfig(downscale=downscale, checkpointing=checkpointing)
    assert live.peak == pytest.approx(memory.refocusing_pass(unet, VIEWS, LATENT, config), rel=0.15)


def test_decoding(vae):
    with torch.no_grad(), LiveBytes(vae) as live:
        vae.decode(torch.randn(VIEWS, 4, PIXELS // 8, PIXELS // 8))
    assert live.peak == pytest.approx(memory.decoding(vae, VIEWS, PIXELS), rel=0.1)


def test_encoding_for_a_gradient(vae):
    pixels = torch.rand(VIEWS, 3, PIXELS, PIXELS, requires_grad=True)
    with LiveBytes(vae) as live:
        torch.autograd.grad(vae.encode(pixels).latent_dist.parameters.sum(), pixels)
    assert live.peak == pytest.approx(memory.encoding(vae, VIEWS, PIXELS), rel=0.1)


def test_published_sizes():
    """The published checkpoints' own numbers of parameters."""
    model = empty_mvdream(torch.float16)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.unet, model.text_encoder, model.vae)]
    assert counts == [867_572_164, 340_387_840, 83_653_863]
    assert memory.of_weights(model.unet, model.text_encoder, model.vae) == pytest.approx(2 * sum(counts), rel=1e-3)


def test_each_choice_needs_less():
    half, full = empty_mvdream(torch.float16), empty_mvdream(torch.float32)
    refocus = RefocusConfig()
    need = memory.sampling(half, refocus=refocus)
    assert memory.sampling(full, refocus=refocus).peak == pytest.approx(2 * need.peak, rel=1e-3)
    assert memory.sampling(half, refocus=replace(refocus, checkpointing=True)).peak < need.peak
    assert memory.sampling(half).peak < need.peak
    assert memory.sampling(half, guidance=False).unet_pass == memory.sampling(half).unet_pass // 2
    assert memory.sampling(half, num_objects=2).decoding == memory.sampling(half).decoding, "views are decoded one by one"
    assert need.working == need.added + memory.WORKSPACE
    assert memory.to_refine(half) > need.unet_pass


def test_one_count_for_sampling_and_refinement():
    model = empty_mvdream(torch.float16)
    unet, vae = memory.distillation(model.unet, model.vae, model.image_size)
    assert unet == memory.unet_pass(model.unet, 8, model.latent_size)
    assert memory.distillation(model.unet, model.vae, model.image_size, encoded=1)[1] == vae // 4
