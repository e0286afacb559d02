"""Load LoRA for MVDream: a new model over the same weights, and ComfyUI moves and counts each weight once."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tests.nodes.conftest import folder

STEM = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def loras(base, pack):
    path = folder(base / "models/loras/style.safetensors")
    generator = torch.Generator().manual_seed(2)
    weights = {f"{STEM}.lora_A.weight": torch.randn(4, 32, generator=generator)}
    weights |= {f"{STEM}.lora_B.weight": torch.randn(64, 4, generator=generator)}
    save_file(weights, path)
    save_file({f"{STEM}.lora_A.weight": torch.ones(4, 2048)}, path.with_name("sdxl.safetensors"))
    return path.parent


@pytest.fixture(scope="module")
def model(nodes, loras):
    with torch.inference_mode():
        return nodes["LoadMVDream"].execute(model="small", download=False, precision="auto").args[0]


def sample(run, model):
    prompt = run("FocusPrompt", prompt="a red cube and a blue sphere", focus="").args[0]
    (views,) = run("SampleViews", model=model, prompt=prompt, steps=2).args[0]
    return views


def test_the_model_upstream_stays_as_it_was(run, model, loras):
    before = sample(run, model)
    with_lora = run("LoadLoRA", model=model, lora="style.safetensors", strength=2.0).args[0]
    changed = sample(run, with_lora)
    again = sample(run, model)
    assert torch.equal(before.images, again.images) and not torch.equal(before.images, changed.images)
    assert changed.provenance["model"] == "random MVDream + style 2" and again.provenance["model"] == "random MVDream"


def test_strength_0_hands_the_model_on(run, model, loras):
    assert run("LoadLoRA", model=model, lora="style.safetensors", strength=0.0).args[0] is model


def test_every_weight_is_counted_once(run, model, loras):
    one = run("LoadLoRA", model=model, lora="style.safetensors").args[0]
    two = run("LoadLoRA", model=one, lora="style.safetensors", strength=0.5).args[0]
    assert two.patchers[:2] == one.patchers and one.patchers[:1] == model.patchers
    counted = [parameter for patcher in two.patchers for parameter in patcher.model.parameters()]
    assert {id(p) for p in counted} == {id(p) for p in two.parts.parameters()} and len({id(p) for p in counted}) == len(counted)
    assert sum(p.numel() for p in two.patchers[-1].model.parameters()) == 4 * (32 + 64)


def test_an_eviction_of_the_shared_weights_is_made_good(run, model, loras):
    with_lora = run("LoadLoRA", model=model, lora="style.safetensors").args[0]
    before = sample(run, with_lora)
    with torch.inference_mode():  # ComfyUI moves what it counts, and buffers are not shared
        for patcher in with_lora.patchers:
            patcher.model.to(torch.float64).to(torch.float32)
    assert torch.equal(sample(run, with_lora).images, before.images)


def test_a_cancelled_run_with_a_lora_stops_between_two_layers(run, model, loras):
    from comfy import model_management  # noqa: PLC0415

    with_lora = run("LoadLoRA", model=model, lora="style.safetensors").args[0]
    hook = with_lora.parts.unet.mid_block.resnets[0].register_forward_pre_hook(
        lambda layer, inputs: setattr(model_management, "interrupted", True)
    )
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            sample(run, with_lora)
    finally:
        hook.remove()
    assert not any(layer._forward_pre_hooks for layer in with_lora.parts.modules())


@pytest.mark.parametrize("name", ["missing.safetensors", "../../etc/passwd", ""])
def test_a_lora_that_is_not_in_the_folder_is_refused_before_anything_runs(run, nodes, model, loras, name):
    assert "no LoRA" in nodes["LoadLoRA"].validate_inputs(lora=name)
    with pytest.raises(ValueError, match="no LoRA"):
        run("LoadLoRA", model=model, lora=name)


@pytest.mark.parametrize(
    ("lora", "strength", "complaint"),
    [("sdxl.safetensors", 1.0, "Stable Diffusion XL"), ("style.safetensors", 1e9, "between -10 and 10")],
)
def test_a_wrong_lora_or_strength_is_one_sentence(run, model, loras, lora, strength, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        run("LoadLoRA", model=model, lora=lora, strength=strength)
    assert "\n" not in str(error.value)
