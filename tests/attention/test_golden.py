"""Refocusing against Attend-and-Excite's own code: its functions, gradients through the UNet, and its loop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gd_core.attention import AttentionCapture, Focus, RefocusConfig, Refocuser, refocus_loss, word_presence
from gd_core.diffusion import load_unet, predict_noise, sample_latents

DATA = Path(__file__).parents[1] / "data"
FUNCTIONS, GRADIENTS, LOOP = (
    load_file(DATA / "attend_excite" / f"{name}.safetensors") for name in ("ae_functions", "mv_gradients", "mv_loop")
)
PAPER = RefocusConfig.attend_and_excite()
LAST_COLUMN = 76  # the SD 1.x form drops the last column alone: padding and end token compete
SCALE = 0.05  # step size of the recorded loops; 20 is chaotic on random weights


@pytest.fixture(scope="module")
def unet():
    return load_unet(DATA / "unet_tiny").eval()


def a_focus(data, end_slice, prefix=""):
    end_token = int(data[f"{prefix}ntok{'_with_sot_eot' if prefix else ''}"]) - 1 if end_slice else LAST_COLUMN
    return Focus.on_tokens(data[f"{prefix}indices"].tolist(), end_token)


@pytest.mark.parametrize("end_slice", [0, 1])
def test_functions(end_slice):
    case = f"a.smooth1_eot{end_slice}"
    focus = a_focus(FUNCTIONS, end_slice, "a.")
    latents = FUNCTIONS["a.latents"].clone().requires_grad_(True)
    pixels = latents[0].flatten(1).T
    maps = torch.stack([(pixels @ w).softmax(-1) for w in FUNCTIONS["a.W"]]).mean(0).reshape(1, 16, 16, 77)
    assert torch.allclose(maps[0], FUNCTIONS["a.agg"], atol=1e-6)
    present = word_presence(maps, focus, PAPER, focus.words)
    assert torch.allclose(present[0], FUNCTIONS[f"{case}.max"], atol=1e-5)
    loss = refocus_loss(maps, focus, PAPER)
    assert torch.allclose(loss, FUNCTIONS[f"{case}.loss"][0], atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, latents)
    expected = FUNCTIONS[f"{case}.grad"]
    assert (gradient - expected).abs().max() <= 1e-4 * expected.abs().max()
    step = Refocuser(None, None, [focus], PAPER, num_views=4, steps=50).step_sizes[7]
    assert abs(step - float(FUNCTIONS["a.step_size_i7"])) < 1e-4
    updated = latents.detach() - step * gradient
    assert torch.allclose(updated, FUNCTIONS[f"{case}.latents_new"], atol=1e-4)


def capture_gradients(unet, downscale, focus, config):
    latents = GRADIENTS["x"].clone().requires_grad_(True)
    with AttentionCapture(unet, downscale=downscale, num_tokens=77, stop=True, checkpointing=config.checkpointing) as capture:
        capture.run(predict_noise, unet, latents, int(GRADIENTS["t"]), GRADIENTS["context_cond"], GRADIENTS["camera"], 4)
        capture.close()
        maps = capture.take(16, 16)
        (gradient,) = torch.autograd.grad(refocus_loss(maps, focus, config), latents)
    return maps.detach(), gradient


@pytest.mark.parametrize("end_slice", [0, 1])
@pytest.mark.parametrize("objective", ["mean_views", "per_view_mean"])
@pytest.mark.parametrize("downscale", [2, 4])
def test_gradients_through_the_unet(unet, downscale, objective, end_slice):
    focus = a_focus(GRADIENTS, end_slice)
    maps, gradient = capture_gradients(unet, downscale, focus, replace(PAPER, objective=objective))
    case = f"res{16 // downscale}"
    assert torch.allclose(maps, GRADIENTS[f"{case}.per_view"], atol=1e-5)
    losses = 1 - word_presence(maps, focus, replace(PAPER, objective=objective), focus.words)
    assert torch.allclose(losses, GRADIENTS[f"{case}.{objective}_eot{end_slice}.losses"].reshape(losses.shape), atol=1e-4)
    expected = GRADIENTS[f"{case}.{objective}_eot{end_slice}.grad"]
    assert (gradient - expected).abs().max() <= 2e-3 * expected.abs().max()


def test_checkpointing_gives_the_same_gradient(unet):
    focus = a_focus(GRADIENTS, 1)
    _, plain = capture_gradients(unet, 2, focus, PAPER)
    _, checkpointed = capture_gradients(unet, 2, focus, replace(PAPER, checkpointing=True))
    assert (plain - checkpointed).abs().max() <= 1e-5 * plain.abs().max()
    assert not unet.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("case", "config", "tolerance"),
    [
        ("plain", replace(PAPER, share=0.0, thresholds=()), 6e-3),
        ("alter2_norefine", replace(PAPER, share=0.5, thresholds=()), 2e-2),
        ("refine3", replace(PAPER, share=0.25, thresholds=((0.0, 0.9),), max_refinements=3), 1.2),
    ],
)
def test_the_loop(unet, case, config, tolerance):
    """Tolerances are ten times the recorded loop's own sensitivity to a relative 1e-6 in its noise."""
    config = replace(config, step_size=SCALE)
    losses = []

    class Recorded(Refocuser):
        def _update(self, start, latents, gradient, losses_, *rest):
            losses.append(losses_[0])
            return super()._update(start, latents, gradient, losses_, *rest)

    focus = a_focus(LOOP, 1)

    def predict(latents, timestep):
        return predict_noise(unet, latents, timestep, LOOP["context_cond"], LOOP["camera"], 4)

    refocuser = Recorded(unet, predict, [focus], config, num_views=4, steps=4)
    latents = sample_latents(
        unet, LOOP["x_T"], LOOP["context_cond"], LOOP["context_uncond"], LOOP["camera"],
        num_views=4, steps=4, guidance_scale=3.0, adjust=refocuser, num_adjusted=refocuser.num_altered,
    )  # fmt: skip
    expected = LOOP[f"{case}.losses_at_updates"].tolist()
    assert losses[:1] == pytest.approx(expected[:1], abs=1e-4)
    assert losses == pytest.approx(expected, abs=5e-3)
    assert (latents - LOOP[f"{case}.x"][-1]).abs().max() <= tolerance
