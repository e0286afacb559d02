import pytest
import torch
from diffusers import UNet2DConditionModel

from gd_core.distillation import sds_loss
from gd_core.distillation.sds import stable_diffusion_alphas_cumprod

MODES = {
    "recon_rescale0.5": {"guidance_scale": 50.0},
    "recon_rescale0": {"guidance_scale": 50.0, "std_rescale": 0.0},
    "recon_rescale0.2_cfg7.5": {"guidance_scale": 7.5, "std_rescale": 0.2},
    "sds_grad": {"guidance_scale": 50.0, "form": "classic"},
}


def loss_and_gradient(unet, latents, *args, **kwargs):
    latents = latents.detach().clone().requires_grad_()
    loss = sds_loss(unet, latents, *args, **kwargs)
    return loss.detach(), torch.autograd.grad(loss, latents)[0]


def call(golden, images=4, timestep=500, **changes):
    """Arguments of one golden case, with some of them changed."""
    positional = ["latents", "context", "negative_context", "c2w"]
    values = {
        "latents": golden[f"b{images}.latents"],
        "context": golden["text_cond"],
        "negative_context": golden["text_uncond"],
        "c2w": golden[f"b{images}.c2w"],
        "num_views": 4,
        "timestep": timestep,
        "noise": golden[f"b{images}.noise_t{timestep}"],
        "guidance_scale": 50.0,
    } | changes
    return [values.pop(name) for name in positional], values


@pytest.mark.parametrize("images", [4, 8])
@pytest.mark.parametrize("timestep", [100, 500, 980])
@pytest.mark.parametrize("mode", MODES)
def test_golden(unet_tiny, sds_golden, images, timestep, mode):
    args, kwargs = call(sds_golden, images, timestep, **MODES[mode])
    loss, gradient = loss_and_gradient(unet_tiny, *args, **kwargs)
    expected = sds_golden[f"b{images}.{mode}.t{timestep}.grad"]
    assert (gradient - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.allclose(loss, sds_golden[f"b{images}.{mode}.t{timestep}.loss"].squeeze(), rtol=1e-4)


@pytest.mark.parametrize("form", ["recon", "classic"])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_the_same_belief_in_another_parametrisation_gives_the_same_gradient(sds_golden, unet_tiny, form, prediction_type):
    """A UNet whose output is re-expressed as v or as x0 must pull the latents to the same place."""
    args, kwargs = call(sds_golden, form=form)
    alpha = stable_diffusion_alphas_cumprod()[500]

    class Reexpressed(torch.nn.Module):
        attn_processors, config, class_embedding = unet_tiny.attn_processors, unet_tiny.config, unet_tiny.class_embedding
        dtype = unet_tiny.dtype

        def forward(self, noisy, timestep, **conditions):
            noise = unet_tiny(noisy, timestep, **conditions)[0]
            clean = (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()
            return (clean,) if prediction_type == "sample" else (alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,)

    _, expected = loss_and_gradient(unet_tiny, *args, **kwargs)
    _, gradient = loss_and_gradient(Reexpressed(), *args, prediction_type=prediction_type, **kwargs)
    assert (gradient - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_objects_of_a_batch_do_not_see_each_other(unet_tiny, sds_golden):
    args, kwargs = call(sds_golden, 8)
    _, both = loss_and_gradient(unet_tiny, *args, **kwargs)
    latents, context, negative_context, c2w = args
    for half in (slice(0, 4), slice(4, 8)):
        settings = kwargs | {"noise": kwargs["noise"][half]}
        _, alone = loss_and_gradient(unet_tiny, latents[half], context, negative_context, c2w[half], **settings)
        assert torch.allclose(both[half] * 2, alone, atol=1e-4 * alone.abs().max())


def test_camera_distance_does_not_matter(unet_tiny, sds_golden):
    args, kwargs = call(sds_golden)
    further = args[3].clone()
    further[:, :3, 3] *= 7
    loss, _ = loss_and_gradient(unet_tiny, *args, **kwargs)
    loss_further, _ = loss_and_gradient(unet_tiny, *args[:3], further, **kwargs)
    assert torch.allclose(loss, loss_further, rtol=1e-5)


def test_no_gradient_reaches_the_model(unet_tiny, sds_golden):
    args, kwargs = call(sds_golden)
    loss_and_gradient(unet_tiny, *args, **kwargs)
    assert all(p.grad is None for p in unet_tiny.parameters())


def test_half_precision_latents_and_model(unet_tiny, sds_golden):
    args, kwargs = call(sds_golden)
    _, expected = loss_and_gradient(unet_tiny, *args, **kwargs)
    unet = UNet2DConditionModel.from_config(unet_tiny.config)
    unet.set_attn_processor(dict(unet_tiny.attn_processors))
    unet.load_state_dict(unet_tiny.state_dict())
    args[0] = args[0].half()
    loss, gradient = loss_and_gradient(unet.half(), *args, **kwargs)
    assert loss.dtype == torch.float32 and gradient.dtype == torch.float16
    cosine = torch.cosine_similarity(gradient.float().flatten(), expected.flatten(), dim=0)
    assert cosine > 0.999


def test_plain_stable_diffusion_unet_judges_single_views():
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    words = torch.randn(2, 1, 7, 16, generator=generator)
    settings = {"timestep": 300, "noise": noise, "guidance_scale": 7.5}
    _, gradient = loss_and_gradient(unet, latents, *words, None, num_views=1, **settings)
    assert gradient.abs().max() > 0
    with pytest.raises(ValueError, match="reads no cameras"):
        sds_loss(unet, latents, *words, torch.eye(4).repeat(2, 1, 1), num_views=2, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_views": 3}, "3 views"),
        ({"noise": torch.zeros(4, 4, 8, 8)}, "noise of shape"),
        ({"c2w": torch.zeros(3, 4, 4)}, "c2w of shape"),
        ({"timestep": 1000}, "0..999"),
        ({"std_rescale": 1.5}, "std_rescale"),
        ({"form": "vsd"}, "'vsd'"),
        ({"prediction_type": "flow"}, "'flow'"),
    ],
)
def test_bad_input(unet_tiny, sds_golden, changes, message):
    args, kwargs = call(sds_golden)
    args, kwargs = [changes.get("c2w", a) if a is args[3] else a for a in args], kwargs | changes
    kwargs.pop("c2w", None)
    with pytest.raises(ValueError, match=message):
        sds_loss(unet_tiny, *args, **kwargs)
