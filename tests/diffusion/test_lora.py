"""LoRA: files of every layout say the same, the model below stays as it was, and what does not fit is one clear error."""

from __future__ import annotations

import gc
import json
import math
import weakref

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from gd_core.diffusion import apply_lora, convert, load_mvdream, predict_noise, sample_views
from gd_core.diffusion.bundle import save_bundle
from gd_core.diffusion.lora import added_weights, parse_lora
from gd_core.diffusion.model import MVDream, MVDreamConfig
from gd_core.diffusion.multiview import install_multiview_attention
from gd_core.diffusion.unet_keys import diffusers_unet_config, infer_original_config
from tests.diffusion.test_conversion import REAL_UNET
from tests.original_layout import unet_shapes
from tests.random_models import random_mvdream

RANKS = {"attn1": 4, "attn2": 2, "self_attn": 2}  # other layers: 4
ALPHAS = {"to_q": 2.0, "fc1": 8.0}  # other layers: their rank


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"))


def lora_layers(model) -> dict[str, dict[str, tuple[torch.Tensor, torch.Tensor, float]]]:
    """Seeded (down, up, alpha) for the layers that kohya's trainer takes, by part and module."""
    generator = torch.Generator().manual_seed(5)
    found: dict = {"unet": {}, "text_encoder": {}}
    for part, layers in found.items():
        for name, module in getattr(model, part).named_modules():
            inside = part == "text_encoder" or ".attentions." in name
            if not inside or not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            rank = next((r for sign, r in RANKS.items() if sign in name), 4)
            shape = (rank, *module.weight.shape[1:])
            down = torch.randn(shape, generator=generator) * 0.3
            up = torch.randn(len(module.weight), rank, *(1 for _ in shape[2:]), generator=generator) * 0.3
            layers[name] = down, up, next((a for sign, a in ALPHAS.items() if sign in name), float(rank))
    return found


def kohya(layers) -> dict[str, torch.Tensor]:
    weights = {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for name, (down, up, alpha) in layers[part].items():
            stem = prefix + name.removeprefix("text_model.").replace(".", "_")
            weights |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}
    return weights


def diffusers_names(layers, *, with_alphas: bool) -> dict[str, torch.Tensor]:
    weights = {}
    for part, root in (("unet", "unet."), ("text_encoder", "text_encoder.text_model.")):
        for name, (down, up, alpha) in layers[part].items():
            stem = root + name.removeprefix("text_model.")
            weights[f"{stem}.lora_A.weight"] = down
            weights[f"{stem}.lora_B.weight"] = up if with_alphas else up * (alpha / len(down))
            if with_alphas:
                weights[f"{stem}.alpha"] = torch.tensor(alpha)
    return weights


def diffusers_0_20(layers) -> dict[str, torch.Tensor]:
    """The names that diffusers wrote from release 0.17 to 0.21: processors of the UNet, linear layers elsewhere."""
    weights = {}
    for name, (down, up, alpha) in layers["unet"].items():
        stem, _, leaf = name.partition(".to_")
        stem = f"unet.{stem}.processor.to_{leaf.removesuffix('.0')}_lora" if leaf else f"unet.{name}.lora"
        weights |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up * (alpha / len(down))}
    for name, (down, up, alpha) in layers["text_encoder"].items():
        stem = f"text_encoder.text_model.{name.removeprefix('text_model.')}.lora_linear_layer"
        weights |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up * (alpha / len(down))}
    return weights


LAYOUTS = {
    "kohya": kohya,
    "diffusers": lambda layers: diffusers_names(layers, with_alphas=False),
    "diffusers with alphas": lambda layers: diffusers_names(layers, with_alphas=True),
    "diffusers 0.20": diffusers_0_20,
}


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    for layout, write in LAYOUTS.items():
        save_file({name: t.contiguous() for name, t in write(lora_layers(model)).items()}, folder / f"{layout}.safetensors")
    return folder


def merged_by_hand(model: MVDream, folder, strength: float) -> MVDream:
    """A copy of the model whose weights are W + s alpha / r B A."""
    copy = random_mvdream(folder)
    for part, layers in lora_layers(model).items():
        for name, (down, up, alpha) in layers.items():
            weight = getattr(copy, part).get_submodule(name).weight
            with torch.no_grad():
                weight += strength * alpha / len(down) * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return copy


@torch.no_grad()
def outputs(model: MVDream) -> tuple[torch.Tensor, torch.Tensor]:
    """What one pass of each part gives."""
    latents = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    context = model.encode_prompt("a red cube and a blue sphere").embeddings
    noise = predict_noise(model.unet, latents, 500, context, model.default_cameras().conditioning(), 4)
    return context, noise


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_weights_plus_the_product(layout, model, files, tmp_path):
    with_lora = apply_lora(model, files / f"{layout}.safetensors", 0.5)
    plain, expected = outputs(model), outputs(merged_by_hand(model, tmp_path, 0.5))
    for before, now, right in zip(plain, outputs(with_lora), expected, strict=True):
        assert torch.allclose(now, right, atol=2e-5) and (now - before).abs().max() > 0.05


def test_kohyas_names_are_diffusers_names(model, files):
    theirs, ours = (outputs(apply_lora(model, files / f"{name}.safetensors")) for name in ("kohya", "diffusers with alphas"))
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))


def test_alphas_in_the_header_of_a_file_count(model, tmp_path):
    layers = {part: {n: (d, u, 8.0) for n, (d, u, _) in of.items()} for part, of in lora_layers(model).items()}
    layers["unet"] = {n: (d, u, 3.0 if "to_v" in n else 8.0) for n, (d, u, _) in layers["unet"].items()}
    bare = diffusers_names(
        {p: {n: (d, u, len(d)) for n, (d, u, _) in of.items()} for p, of in layers.items()}, with_alphas=False
    )
    header = {"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_v": 3}, "text_encoder.lora_alpha": 8}
    save_file(bare, tmp_path / "header.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    save_file(kohya(layers), tmp_path / "kohya.safetensors")
    one, other = (outputs(apply_lora(model, tmp_path / f"{name}.safetensors")) for name in ("header", "kohya"))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("strength", [0, 0.0, -0.0])
def test_strength_0_is_the_model_itself(model, files, strength):
    assert apply_lora(model, files / "kohya.safetensors", strength) is model


def test_the_model_below_is_shared_and_stays_as_it_was(model, files):
    state = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    flags = [p.requires_grad for p in model.unet.parameters()]
    before = outputs(model)
    with_lora = apply_lora(model, files / "kohya.safetensors")
    two = apply_lora(with_lora, files / "diffusers.safetensors", 0.25)
    outputs(two)
    assert {name: tensor.data_ptr() for name, tensor in model.unet.named_parameters()}.items() <= {
        name.replace(".base_layer", ""): tensor.data_ptr() for name, tensor in two.unet.named_parameters()
    }.items()
    assert model.unet.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.unet.state_dict().items())
    assert [p.requires_grad for p in model.unet.parameters()] == flags and model.config.name == "random MVDream"
    assert not hasattr(model.unet, "peft_config")
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(model), strict=True))
    numbers = sum(d.numel() + u.numel() for part in lora_layers(model).values() for d, u, _ in part.values())
    assert sum(p.numel() for p in added_weights(two, with_lora).parameters()) == numbers
    gone = weakref.ref(next(added_weights(two, with_lora).parameters()))
    del two, with_lora
    gc.collect()
    assert gone() is None


def test_stacked_loras_add_up_and_opposites_cancel(model, files):
    half = apply_lora(model, files / "kohya.safetensors", 0.5)
    twice, whole = (
        outputs(m) for m in (apply_lora(half, files / "kohya.safetensors", 0.5), apply_lora(model, files / "kohya.safetensors"))
    )
    none = outputs(apply_lora(half, files / "diffusers.safetensors", -0.5))
    for plain, two, one, cancelled in zip(outputs(model), twice, whole, none, strict=True):
        assert torch.allclose(two, one, atol=2e-5) and torch.allclose(cancelled, plain, atol=2e-5)


def test_sampling_with_refocusing_and_gradients_pass_through(model, files):
    with_lora = apply_lora(model, files / "kohya.safetensors")
    views = sample_views(with_lora, "a red cube and a blue sphere", seed=0, steps=2)
    assert views.provenance["model"] == "random MVDream + kohya 1" and {"cube", "sphere"} <= set(views.attention)
    latents = torch.zeros(4, 4, 16, 16, requires_grad=True)
    context = torch.zeros(1, 77, 32)
    predict_noise(with_lora.unet, latents, 500, context, with_lora.default_cameras().conditioning(), 4).sum().backward()
    assert latents.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in added_weights(with_lora, model).parameters())


def test_a_converted_model_has_its_loras_baked_in(model, files, tmp_path):
    save_bundle(model, tmp_path / "model")
    lora = f"{files / 'kohya.safetensors'}:0.5"
    convert(tmp_path / "model", tmp_path / "baked", dtype="fp32", loras=[lora])
    baked, live = load_mvdream(tmp_path / "baked"), load_mvdream(tmp_path / "model", loras=[lora])
    assert baked.unet.state_dict().keys() == model.unet.state_dict().keys()
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(outputs(baked), outputs(live), strict=True))


def real_model(family: str) -> MVDream:
    """At its real size, on the meta device."""
    width, layers, activation = {"sd21": (1024, 23, "gelu"), "sd15": (768, 12, "quick_gelu")}[family]
    shapes = unet_shapes(**REAL_UNET, context_dim=width, linear=family == "sd21")
    config = infer_original_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, None, family)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**diffusers_unet_config(config))
        text = CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
            hidden_act=activation,
        )  # fmt: skip
        text_encoder = CLIPTextModel(text)
    install_multiview_attention(unet)
    return MVDream(unet, nn.Module(), text_encoder, None, None, MVDreamConfig(name=family))


def kohya_shapes(family: str) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Down and up shapes of a file of rank 1 of kohya's trainer, from the published architecture: 192 modules in the UNet, and
    six in each layer of the text encoder."""
    width, layers = {"sd21": (1024, 23), "sd15": (768, 12)}[family]
    one = () if family == "sd21" else (1, 1)  # proj_in and proj_out are convolutions in 1.5
    shapes = {}

    def add(name: str, out: int, into: int, kernel: tuple = ()) -> None:
        shapes[name] = (1, into, *kernel), (out, 1, *kernel)

    places = [(f"down_blocks_{b}_attentions_{a}", 320 * 2**b) for b in range(3) for a in range(2)]
    places += [("mid_block_attentions_0", 1280)]
    places += [(f"up_blocks_{b}_attentions_{a}", 320 * 2 ** (3 - b)) for b in range(1, 4) for a in range(3)]
    for place, channels in places:
        stem = f"lora_unet_{place}"
        for proj in ("proj_in", "proj_out"):
            add(f"{stem}_{proj}", channels, channels, one)
        block = f"{stem}_transformer_blocks_0"
        for attention, source in (("attn1", channels), ("attn2", width)):
            for leaf, into in (("to_q", channels), ("to_k", source), ("to_v", source), ("to_out_0", channels)):
                add(f"{block}_{attention}_{leaf}", channels, into)
        add(f"{block}_ff_net_0_proj", 8 * channels, channels)
        add(f"{block}_ff_net_2", channels, 4 * channels)
    for layer in range(layers):
        stem = f"lora_te_text_model_encoder_layers_{layer}"
        for leaf in ("q", "k", "v", "out"):
            add(f"{stem}_self_attn_{leaf}_proj", width, width)
        add(f"{stem}_mlp_fc1", 4 * width, width)
        add(f"{stem}_mlp_fc2", width, 4 * width)
    return shapes


@pytest.mark.parametrize(("family", "modules"), [("sd21", 192 + 6 * 23), ("sd15", 192 + 6 * 12)])
def test_a_whole_file_of_kohyas_trainer_loads_at_real_size(family, modules, tmp_path):
    shapes = kohya_shapes(family)
    assert len(shapes) == modules
    weights = {}
    for name, (down, up) in shapes.items():
        weights |= {f"{name}.lora_down.weight": torch.zeros(down, dtype=torch.float16)}
        weights |= {f"{name}.lora_up.weight": torch.zeros(up, dtype=torch.float16), f"{name}.alpha": torch.tensor(1.0)}
    save_file(weights, tmp_path / "style.safetensors")
    model = real_model(family)
    with_lora = apply_lora(model, tmp_path / "style.safetensors")
    added = list(added_weights(with_lora, model).parameters())
    assert len(added) == 2 * modules and sum(p.numel() for p in added) == sum(
        math.prod(d) + math.prod(u) for d, u in shapes.values()
    )


def test_a_lora_of_convolutions_loads(model, tmp_path):
    """kohya's "conv_dim": 3 x 3 convolutions of the residual blocks, their time embeddings and shortcuts, and resampling."""
    weights, found = {}, set()
    for name, module in model.unet.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and ("resnets" in name or "samplers" in name):
            stem = f"lora_unet_{name.replace('.', '_')}"
            shape = (1, *module.weight.shape[1:])
            weights |= {f"{stem}.lora_down.weight": torch.ones(shape)}
            weights |= {f"{stem}.lora_up.weight": torch.ones(len(module.weight), 1, *(1 for _ in shape[2:]))}
            found.add(name.rpartition(".")[2])
    assert found == {"conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv"}
    save_file(weights, tmp_path / "conv.safetensors")
    with_lora = apply_lora(model, tmp_path / "conv.safetensors", 1e-3)
    assert len(list(added_weights(with_lora, model).parameters())) == len(weights)
    assert not torch.equal(outputs(with_lora)[1], outputs(model)[1])


def pair(stem: str, out: int, into: int, kohya_names: bool = False) -> dict[str, torch.Tensor]:
    """One layer of rank 1."""
    down, up = ("lora_down", "lora_up") if kohya_names else ("lora_A", "lora_B")
    return {f"{stem}.{down}.weight": torch.ones(1, into), f"{stem}.{up}.weight": torch.ones(out, 1)}


def bad_weights(model) -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """Files that are no LoRA of this model, and what the error says."""
    good = kohya(lora_layers(model))
    first = next(iter(good)).removesuffix(".lora_down.weight")
    block = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    one = pair(f"{block}.to_k", 64, 32)
    sdxl = pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 640, 2048, True)
    wider = {name: torch.cat((t, t)) if "attn1_to_q.lora_up" in name else t for name, t in good.items()}
    return {
        "empty": ({}, "is empty"),
        "SDXL of kohya": (sdxl, "Stable Diffusion XL"),
        "SDXL of diffusers": (pair(f"{block}.to_k", 640, 2048), "Stable Diffusion XL"),
        "SDXL, text encoders alone": (pair("lora_te2_text_model_encoder_layers_0_mlp_fc1", 64, 1280, True), "Diffusion XL"),
        "SD 2.1": (pair(f"{block}.to_k", 640, 1024), "Stable Diffusion 2.x"),
        "SD 1.5": (pair(f"{block}.to_k", 640, 768), "Stable Diffusion 1.x"),
        "Flux": (pair("transformer.single_transformer_blocks.0.attn.to_q", 8, 8), "no layer"),
        "Flux of kohya": (pair("lora_unet_double_blocks_0_img_attn_proj", 8, 8, True), "no layer"),
        "deeper": ({name.replace("down_blocks_1", "down_blocks_7"): t for name, t in good.items()}, "no layer"),
        "wider": (wider, "does not fit"),
        "one matrix": (one | {f"{block}.to_v.lora_A.weight": torch.ones(1, 32)}, "one of its two matrices"),
        "NaN": ({name: t * math.nan if first in name else t for name, t in good.items()}, "NaN"),
        "LoHa": ({f"{first}.hada_w1_a": torch.ones(4, 4)}, "LoHa"),
        "LoKr": ({f"{first}.lokr_w1": torch.ones(4, 4)}, "LoKr"),
        "DoRA": (good | {f"{first}.dora_scale": torch.ones(4)}, "DoRA"),
        "a checkpoint": ({"model.diffusion_model.out.2.weight": torch.ones(4)}, "is not a LoRA"),
        "norms": (one | pair("unet.conv_norm_out", 8, 8), "no layer"),
    }


KINDS = (
    "empty", "SDXL of kohya", "SDXL of diffusers", "SDXL, text encoders alone", "SD 2.1", "SD 1.5", "Flux", "Flux of kohya",
    "deeper", "wider", "one matrix", "NaN", "LoHa", "LoKr", "DoRA", "a checkpoint", "norms",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_lora_of_this_model_is_one_clear_error(kind, model, tmp_path):
    weights, complaint = bad_weights(model)[kind]
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "bad.safetensors")
    for strength in (1.0, 0.0):
        with pytest.raises(ValueError, match=complaint) as error:
            apply_lora(model, tmp_path / "bad.safetensors", strength)
        assert "bad.safetensors" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600
    assert not hasattr(model.unet, "peft_config") and not hasattr(model.text_encoder, "peft_config")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(share, model, files, tmp_path):
    whole = (files / "kohya.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="cut short"):
        apply_lora(model, tmp_path / "half.safetensors")


@pytest.mark.parametrize("strength", [1e9, -1e9, 10.1, math.inf, math.nan])
def test_a_strength_out_of_range_is_refused(strength, model, files):
    with pytest.raises(ValueError, match="strength of kohya.safetensors must be between -10 and 10"):
        apply_lora(model, files / "kohya.safetensors", strength)


def test_a_lora_that_is_not_there(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no LoRA at"):
        apply_lora(model, tmp_path / "missing.safetensors")


@settings(max_examples=40, deadline=None)
@given(st.from_regex(r"[\w./ :\\-]*[\w]\.safetensors", fullmatch=True), st.floats(-10, 10))
def test_a_file_and_its_strength_are_told_apart(file, strength):
    assert [str(parse_lora(text)[0]) for text in (file, f"{file}:{strength!r}")] == [str(parse_lora(file)[0])] * 2
    assert parse_lora(file)[1] == 1.0 and parse_lora(f"{file}:{strength!r}")[1] == strength


def test_a_colon_of_the_path_is_no_strength(tmp_path):
    assert parse_lora("C:\\loras\\style.safetensors")[1] == 1.0
    (tmp_path / "a:2").touch()
    assert parse_lora(str(tmp_path / "a:2")) == (tmp_path / "a:2", 1.0)
    with pytest.raises(ValueError, match="FILE or FILE:STRENGTH"):
        parse_lora(":0.5")
