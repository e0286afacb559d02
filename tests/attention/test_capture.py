"""Capture of cross-attention: what it sees, and that it leaves no trace."""

import pytest
import torch

from gd_core.attention import AttentionCapture
from gd_core.attention.capture import cross_attention_layers, layer_name
from gd_core.attention.refocus import frozen
from gd_core.diffusion import predict_noise
from tests.random_models import GEOMETRY, WIDTH, random_unet


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return random_unet(GEOMETRY).eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 4, 16, 12, generator=generator)
    return latents, 500, torch.randn(1, 77, WIDTH, generator=generator), torch.randn(4, 16, generator=generator), 4


@torch.no_grad()
def test_outputs_do_not_change_and_maps_are_probabilities(unet, inputs):
    expected = predict_noise(unet, *inputs)
    with AttentionCapture(unet, downscale=2, num_tokens=77) as capture:
        assert torch.equal(predict_noise(unet, *inputs), expected)
        maps = capture.take(16, 12)
    assert maps.shape == (4, 8, 6, 77) and maps.dtype == torch.float32
    assert torch.allclose(maps.sum(-1), torch.ones(4, 8, 6), atol=1e-5)
    with AttentionCapture(unet, downscale=2, num_tokens=5, last_images=2, stop=True) as capture:
        capture.run(predict_noise, unet, *inputs)
        assert torch.allclose(capture.take(16, 12), maps[2:, ..., :5], atol=1e-6)


def test_layers_come_in_the_order_of_a_pass(unet):
    names = list(cross_attention_layers(unet, 2))
    assert [name.split(".")[0] for name in names] == ["down_blocks", "mid_block", "up_blocks", "up_blocks"]
    with pytest.raises(ValueError, match="no cross-attention at 1/4 .*: choose from 2"):
        AttentionCapture(unet, downscale=4, num_tokens=77)


@torch.no_grad()
def test_the_layers_that_are_named_are_taken_and_no_others(unet, inputs):
    names = list(cross_attention_layers(unet, 2))
    assert [layer_name(name) for name in names][1:3] == ["mid_block.attentions.0", "up_blocks.0.attentions.0"]
    kept = []
    for name in names:
        with AttentionCapture(unet, downscale=2, num_tokens=77, layers=[layer_name(name)]) as capture:
            predict_noise(unet, *inputs)
            kept.append(capture.take(16, 12))
    assert not torch.allclose(kept[0], kept[-1])
    with AttentionCapture(unet, downscale=2, num_tokens=77, layers=[layer_name(names[0]), layer_name(names[-1])]) as capture:
        predict_noise(unet, *inputs)
        assert torch.allclose(capture.take(16, 12), (kept[0] + kept[-1]) / 2)
    with pytest.raises(ValueError, match="no cross-attention layer 'up_blocks.7' at 1/2: choose from down_blocks.1"):
        AttentionCapture(unet, downscale=2, num_tokens=77, layers=["up_blocks.7"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_stays_behind_an_exception(unet, inputs, checkpointing):
    before = dict(unet.attn_processors)
    hooks = sum(len(m._forward_hooks) for m in unet.modules())
    with (
        pytest.raises(KeyError),
        AttentionCapture(unet, downscale=2, num_tokens=77, stop=True, checkpointing=checkpointing) as capture,
    ):
        capture.run(predict_noise, unet, *inputs)
        raise KeyError
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
    assert sum(len(m._forward_hooks) for m in unet.modules()) == hooks
    assert not unet.is_gradient_checkpointing


@torch.no_grad()
def test_an_inner_capture_hides_its_passes_from_the_outer(unet, inputs):
    with AttentionCapture(unet, downscale=2, num_tokens=77) as outer:
        predict_noise(unet, *inputs)
        with AttentionCapture(unet, downscale=2, num_tokens=77, stop=True) as inner:
            inner.run(predict_noise, unet, inputs[0] * 2, *inputs[1:])
        first = outer.take(16, 12)
        predict_noise(unet, *inputs)
        assert torch.equal(outer.take(16, 12), first)


def test_stopping_skips_the_layers_behind(unet, inputs):
    ran = []
    hook = unet.conv_out.register_forward_hook(lambda *_: ran.append(True))
    with AttentionCapture(unet, downscale=2, num_tokens=77, stop=True) as capture:
        capture.run(predict_noise, unet, *inputs)
    hook.remove()
    assert not ran


def test_weights_are_frozen_only_inside(unet):
    trained = [p.requires_grad for p in unet.parameters()]
    with frozen(unet):
        assert not any(p.requires_grad for p in unet.parameters())
    assert [p.requires_grad for p in unet.parameters()] == trained and any(trained)
