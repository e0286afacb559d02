import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from gd_core.distillation import MEMORY_PRESETS, Guidance, RefineConfig
from gd_core.distillation.memory import choose_preset, estimate_memory, offloaded, smaller_preset
from gd_core.distillation.objective import reference_rays, render_views
from gd_core.distillation.sds import stable_diffusion_alphas_cumprod


@pytest.fixture(scope="module")
def real_size() -> Guidance:
    """MVDream's sizes in fp16, without memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True, class_embed_type="projection", projection_class_embeddings_input_dim=16,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    context = torch.zeros(1, 77, 1024)
    return Guidance(unet.half(), vae.half(), context, context, stable_diffusion_alphas_cumprod(), "epsilon", 4, 256)


def test_each_preset_of_real_weights_fits_its_gpu(real_size, field, views):
    reference = reference_rays(views, field.device)
    totals = []
    for preset in MEMORY_PRESETS:
        estimate = estimate_memory(field, reference, real_size, RefineConfig(), preset)
        totals.append(estimate.weights + estimate.added)
        assert totals[-1] < 0.9 * int(preset.name.removesuffix("GB")) * 2**30
    assert totals == sorted(totals, reverse=True)


def test_the_largest_preset_that_fits_is_chosen(real_size, field, views, caplog):
    reference, config = reference_rays(views, field.device), RefineConfig()
    needs = [estimate_memory(field, reference, real_size, config, p).added for p in MEMORY_PRESETS]
    for preset, need in zip(MEMORY_PRESETS, needs, strict=True):
        assert choose_preset(field, reference, real_size, config, free=int(need / 0.89)) is preset
    assert choose_preset(field, reference, real_size, config, free=1000) is MEMORY_PRESETS[-1]
    assert "only 0.00 GB are free" in caplog.text
    assert choose_preset(field, reference, real_size, RefineConfig(preset="12GB"), free=2**40) is MEMORY_PRESETS[1]


def test_presets_end():
    assert [smaller_preset(p) for p in MEMORY_PRESETS] == [*MEMORY_PRESETS[1:], None]


def test_chunks_change_memory_not_the_result(field, views):
    background = torch.tensor([0.2, 0.5, 0.7])

    def gradient(rays_per_chunk):
        field.zero_grad()
        rgb, alpha = render_views(field, views.cameras, 16, background, torch.Generator().manual_seed(0), rays_per_chunk)
        (rgb.square().mean() + alpha.mean()).backward()
        grads = [p.grad.clone() for p in field.parameters()]
        field.zero_grad()
        return rgb.detach(), grads

    whole, chunked = gradient(10_000), gradient(100)
    assert torch.allclose(whole[0], chunked[0], atol=1e-5)
    for a, b in zip(whole[1], chunked[1], strict=True):
        assert torch.allclose(a, b, atol=1e-5 * max(1.0, float(a.abs().max())))


def test_offloading_is_undone_after_an_error(tiny_mvdream):
    with pytest.raises(KeyError), offloaded(tiny_mvdream):
        raise KeyError
    assert tiny_mvdream.text_encoder.device == tiny_mvdream.unet.device
