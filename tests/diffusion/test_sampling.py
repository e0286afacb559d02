"""The denoising loop against MVDream's own sampler, and views from prompts."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from gd_core.cameras import orbit_cameras
from gd_core.diffusion import SAMPLERS, load_unet
from gd_core.diffusion.batch import initial_noise, latent_preview
from gd_core.diffusion.denoising import alpha_cumprod, make_sampler, mvdream_noise_schedule, rescale_guidance, sample_latents
from gd_core.diffusion.sampling import sample_objects, sample_views
from tests.random_models import GEOMETRY, random_mvdream

DATA = Path(__file__).parents[1] / "data"
GOLDEN = load_file(DATA / "ddim_tiny" / "ddim.safetensors")
PROMPT = "a red cube and a blue sphere"


@pytest.fixture(scope="module")
def unet():
    return load_unet(DATA / "unet_tiny").eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"), ray_geometry=GEOMETRY)


def golden_run(unet, steps, guidance, **settings):
    return sample_latents(
        unet, GOLDEN["x_T"], GOLDEN["context_cond"], GOLDEN["context_uncond"], GOLDEN["camera"],
        num_views=4, steps=steps, guidance_scale=guidance, **settings,
    )  # fmt: skip


@pytest.mark.parametrize(("steps", "guidance"), [(5, 7.5), (4, 1.0)])
def test_ddim_follows_mvdreams_trajectory(unet, steps, guidance):
    previews = []
    latents = golden_run(unet, steps, guidance, on_step=lambda step, x0: previews.append((step, x0)))
    case = f"s{steps}_cfg{guidance}"
    expected = GOLDEN[f"{case}.x"][-1]
    assert (latents - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert [step for step, _ in previews] == list(range(1, steps + 1))
    for (_, x0), expected in zip(previews, GOLDEN[f"{case}.pred_x0"], strict=True):
        assert (x0 - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_noise_schedule_and_timesteps_are_mvdreams():
    schedule = mvdream_noise_schedule()
    assert torch.allclose(schedule.alphas_cumprod, GOLDEN["alphas_cumprod"], atol=1e-6)
    for steps in (20, 25, 50):
        timesteps = make_sampler(schedule, "ddim", steps, torch.device("cpu")).timesteps
        assert sorted(timesteps.tolist()) == sorted(GOLDEN[f"timesteps_{steps}"].tolist())


class GaussianUNet(torch.nn.Module):
    """The exact denoiser of data N(mean, 0.5^2): tells a right sampler from a wrong one without a trained model."""

    mean = torch.tensor([0.5, -1.0, 0.3, 0.0]).reshape(1, 4, 1, 1)

    def __init__(self, prediction_type):
        super().__init__()
        self.prediction_type, self.class_embedding, self.attn_processors = prediction_type, None, {}
        self.alphas = mvdream_noise_schedule().alphas_cumprod

    def forward(self, latents, timestep, **_):
        a = self.alphas[int(timestep)]
        x0 = self.mean + a.sqrt() * 0.25 / (a * 0.25 + 1 - a) * (latents - a.sqrt() * self.mean)
        epsilon = (latents - a.sqrt() * x0) / (1 - a).sqrt()
        return (epsilon if self.prediction_type == "epsilon" else a.sqrt() * epsilon - (1 - a).sqrt() * x0,)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_reaches_the_data(sampler, prediction_type):
    schedule = DDIMScheduler.from_config(mvdream_noise_schedule().config, prediction_type=prediction_type)
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(1, 77, 8)
    x0s = []
    latents = sample_latents(
        GaussianUNet(prediction_type), noise, context, context, None, num_views=4, steps=50, guidance_scale=1.0,
        sampler=sampler, schedule=schedule, on_step=lambda _, x0: x0s.append(x0),
    )  # fmt: skip
    assert (latents.mean((0, 2, 3)) - GaussianUNet.mean.flatten()).abs().max() < 0.1
    assert abs(latents.std((0, 2, 3)).mean() - 0.5) < 0.05
    assert (x0s[-1] - latents).abs().max() < 0.1


def test_guidance_rescale_matches_the_objects_spread():
    generator = torch.Generator().manual_seed(1)
    conditional, guided = (torch.randn(8, 4, 6, 6, generator=generator) * scale for scale in (1.0, 5.0))
    assert rescale_guidance(guided, conditional, 0.0, 4) is guided
    full = rescale_guidance(guided, conditional, 1.0, 4)
    for k in (slice(0, 4), slice(4, 8)):
        assert torch.isclose(full[k].std(), conditional[k].std())
        ratio = full[k] / guided[k]
        assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio))


def test_views_from_a_prompt(model):
    seen = []
    views = sample_views(model, PROMPT, seed=3, progress=lambda *report: seen.append(report))
    assert views.images.shape == (4, 64, 64, 3) and views.masks.shape == (4, 64, 64)
    assert views.latents.shape == (4, 4, 16, 16)
    assert (views.prompt, views.seed) == (PROMPT, 3)
    assert [(step, total) for step, total, _ in seen] == [(k, 4) for k in range(1, 5)]
    assert all(preview.shape == (64, 256, 3) and 0 <= preview.min() <= preview.max() <= 1 for *_, preview in seen)
    last = seen[-1][2].reshape(64, 4, 64, 3).movedim(1, 0)
    assert (last - views.images).abs().mean() < 0.05  # x0 of the last step is nearly the result
    assert not views.images.requires_grad


def test_same_seed_same_views_alone_or_in_a_batch(model):
    torch.manual_seed(5)
    one = sample_views(model, PROMPT, seed=7)
    torch.manual_seed(6)
    again = sample_views(model, PROMPT, seed=7)
    assert torch.equal(one.images, again.images)
    batch = sample_objects(model, ["a green cube", PROMPT], seeds=[1, 7])
    assert torch.allclose(batch[1].images, one.images, atol=1e-4)
    assert (batch[0].images - one.images).abs().max() > 1e-3
    assert not torch.equal(initial_noise(1, 2, 4)[0], initial_noise(1, 2, 4)[1])


def test_any_number_of_views(model):
    for count in (1, 6):
        assert len(sample_views(model, PROMPT, seed=0, steps=2, cameras=orbit_cameras(count))) == count


def test_negative_prompt_and_guidance_matter(model):
    plain = sample_views(model, PROMPT, seed=0)
    assert (sample_views(model, PROMPT, seed=0, negative_prompt="big").latents - plain.latents).abs().max() > 1e-3
    alone = sample_views(model, PROMPT, seed=0, guidance_scale=1.0)
    assert torch.allclose(
        alone.latents, sample_views(model, PROMPT, seed=0, guidance_scale=1.0, negative_prompt="big").latents
    )


def test_large_autoencoders_preview_linearly(model, monkeypatch):
    x0 = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("gd_core.diffusion.batch.SMALL_VAE_PARAMETERS", 0)
    preview = latent_preview(model, x0, 2)
    assert preview.shape == (128, 128, 3) and 0 <= preview.min() <= preview.max() <= 1


def test_cancelling_stops_at_once_and_leaves_the_model_clean(model):
    class Cancelled(Exception):
        pass

    def cancel(step, total, preview):
        if step == 2:
            raise Cancelled

    before = dict(model.unet.attn_processors)
    expected = sample_views(model, PROMPT, seed=1)
    with pytest.raises(Cancelled):
        sample_views(model, PROMPT, seed=1, progress=cancel)
    assert all(model.unet.attn_processors[name] is processor for name, processor in before.items())
    assert torch.equal(sample_views(model, PROMPT, seed=1).images, expected.images)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("  ", {}, "prompt is empty"),
        (PROMPT, {"steps": 0}, "steps must be between 1 and 1000, got 0"),
        (PROMPT, {"steps": 1001}, "steps must be between"),
        (PROMPT, {"seed": -1}, "seed must be between 0"),
        (PROMPT, {"guidance_scale": 0.5}, "guidance_scale must be between 1"),
        (PROMPT, {"guidance_scale": float("nan")}, "guidance_scale must be between 1"),
        (PROMPT, {"guidance_rescale": 1.5}, "guidance_rescale must be between 0 and 1"),
        (PROMPT, {"sampler": "dpm"}, "no sampler 'dpm': choose one of ddim, dpmpp_2m, euler, unipc"),
    ],
)
def test_bad_settings_are_named(model, prompt, settings, message):
    with pytest.raises(ValueError, match=message):
        sample_views(model, prompt, **{"seed": 0, **settings})


def test_wrong_number_of_cameras_or_seeds(model, unet):
    with pytest.raises(ValueError, match="3 cameras came for 4 views"):
        sample_latents(
            unet, GOLDEN["x_T"], GOLDEN["context_cond"], GOLDEN["context_uncond"], GOLDEN["camera"][:3],
            num_views=4, steps=2, guidance_scale=1.0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="not made of objects with 3 views"):
        sample_latents(
            unet, GOLDEN["x_T"], GOLDEN["context_cond"], GOLDEN["context_uncond"], None,
            num_views=3, steps=2, guidance_scale=1.0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="2 prompts came with 1 seeds"):
        sample_objects(model, [PROMPT, PROMPT], seeds=[1])


def test_a_model_that_makes_nan_says_so(model):
    weight = model.unet.conv_out.bias
    kept = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(ValueError, match="NaN.*float32"):
            sample_views(model, PROMPT, seed=0, steps=1)
    finally:
        weight.data.copy_(kept)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler", "unipc"])
@pytest.mark.parametrize("steps", [101, 250, 334, 400, 600, 999, 1000])
def test_many_steps_begin_in_noise_and_stay_on_the_schedule(sampler, steps):
    made = make_sampler(mvdream_noise_schedule(), sampler, steps, torch.device("cpu"))
    assert 900 <= made.timesteps[0] <= 999 and all(0 < alpha_cumprod(made, t) < 1 for t in made.timesteps)
