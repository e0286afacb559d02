"""Original layouts converted to stock classes: text towers, autoencoder, tokenizer."""

import gzip
import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from gd_core.diffusion.checkpoint import load_strictly
from gd_core.diffusion.loaders import load_unet
from gd_core.diffusion.text_tower import build_text_encoder, portable_weights, text_encoder_from_original
from gd_core.diffusion.tokenizer import clip_tokenizer, load_tokenizer, save_tokenizer
from gd_core.diffusion.unet_keys import diffusers_unet_config, diffusers_unet_key, infer_original_config
from gd_core.diffusion.vae_keys import diffusers_vae
from tests.original_layout import (
    SMALL_UNETS,
    SMALL_VAE,
    clip_shapes,
    openclip_shapes,
    random_weights,
    unet_shapes,
    vae_shapes,
)

DATA = Path(__file__).parents[1] / "data"
REAL_UNET = {"model_channels": 320, "channel_mult": (1, 2, 4, 4), "num_res_blocks": 2, "attention_resolutions": (4, 2, 1)}
REAL_VAE = {"ch": 128, "ch_mult": (1, 2, 4, 4), "num_res_blocks": 2}


@pytest.mark.parametrize("family, context_dim", [("sd21", 1024), ("sd15", 768)])
def test_our_original_layout_is_the_published_one(family, context_dim):
    published = json.loads((DATA / "unet_keys" / f"{family}_unet_keys.json").read_text())
    ours = unet_shapes(**REAL_UNET, context_dim=context_dim, linear=family == "sd21")
    assert ours == {name: tuple(shape) for name, shape in published.items()}


@pytest.mark.parametrize("family", SMALL_UNETS)
def test_unet_names_agree_with_diffusers_own_converter(family):
    unet = random_weights(unet_shapes(**SMALL_UNETS[family], linear=family == "sd21"), 0)
    original = infer_original_config(unet, None, "it")
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()}
    theirs = convert_ldm_unet_checkpoint(prefixed, {"layers_per_block": original["num_res_blocks"]})
    ours = {diffusers_unet_key(name, original["num_res_blocks"]): tensor for name, tensor in unet.items()}
    camera = {name for name in ours if name.startswith("class_embedding.")}
    assert len(camera) == 4 and ours.keys() - camera == theirs.keys()
    assert all(ours[name] is theirs[name] for name in theirs)
    assert original["attention_resolutions"] == list(SMALL_UNETS[family]["attention_resolutions"])
    assert len(diffusers_unet_config(original)["down_block_types"]) == 2
    load_unet(unet)


def test_vae_names_agree_with_diffusers_own_converter():
    weights = random_weights(vae_shapes(**SMALL_VAE), 0, "first_stage_model.")
    config, ours = diffusers_vae(weights, "it")
    theirs = convert_ldm_vae_checkpoint(dict(weights), config)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_real_vae_loads_strictly():
    weights = {f"first_stage_model.{name}": torch.empty(shape, device="meta") for name, shape in vae_shapes(**REAL_VAE).items()}
    config, weights = diffusers_vae(weights, "it")
    vae = load_strictly(lambda: AutoencoderKL(**config), weights, torch.float32, "it")
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863  # Stable Diffusion's kl-f8
    assert vae.config.block_out_channels == [128, 256, 512, 512] and vae.config.scaling_factor == 0.18215


def test_vae_middle_attention_is_the_original_formula():
    """The one layer whose weights change shape: 1x1 convolutions over pixels, softmax(q k / sqrt(C)) (LDM's `AttnBlock`)."""
    weights = random_weights(vae_shapes(**SMALL_VAE), 0, "first_stage_model.")
    config, converted = diffusers_vae(weights, "it")
    attention = load_strictly(lambda: AutoencoderKL(**config), converted, torch.float32, "it").encoder.mid_block.attentions[0]
    x = torch.randn(2, 64, 5, 3, generator=torch.Generator().manual_seed(0))
    part = {name.split("attn_1.")[1]: tensor for name, tensor in weights.items() if "encoder.mid.attn_1." in name}

    def conv(name, values):
        return nn.functional.conv2d(values, part[f"{name}.weight"], part[f"{name}.bias"])

    h = nn.functional.group_norm(x, 32, part["norm.weight"], part["norm.bias"], eps=1e-6)
    q, k, v = (conv(name, h).flatten(2) for name in "qkv")
    weights_of_pixels = torch.softmax(q.mT @ k / 64**0.5, dim=-1)
    expected = x + conv("proj_out", (v @ weights_of_pixels.mT).unflatten(2, (5, 3)))
    with torch.no_grad():
        torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=0)


@pytest.fixture
def openclip_tower(monkeypatch):
    """open_clip_torch's own class. Its package imports torchvision for its image towers: stand-ins do where there is none."""
    spec = find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip_torch, the reference of this test, is not installed")
    if find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = nn.Identity
    package = types.ModuleType("open_clip")  # without its `__init__`, which imports every model there is
    package.__path__ = [str(Path(spec.origin).parent)]
    for name in ("open_clip", "open_clip.transformer", "open_clip.utils", "open_clip.pos_embed"):
        monkeypatch.setitem(sys.modules, name, package)
        if name != "open_clip":
            monkeypatch.delitem(sys.modules, name)  # imported afresh, and forgotten again
    from open_clip.transformer import TextTransformer  # noqa: PLC0415

    torch.manual_seed(0)
    tower = TextTransformer(vocab_size=500, width=128, heads=2, layers=4, output_dim=64).eval()
    for parameter in tower.parameters():  # its initial biases and norms are zeros and ones, which would hide a mix-up
        nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    return tower


def test_openclip_tower_converts_exactly(openclip_tower):
    tower = openclip_tower
    tokens = torch.randint(1, 498, (3, 77), generator=torch.Generator().manual_seed(1))
    tokens[0, 9:] = 0  # padding
    with torch.no_grad():  # FrozenOpenCLIPEmbedder.encode_with_transformer, layer "penultimate"
        x = tower.token_embedding(tokens) + tower.positional_embedding
        for block in tower.transformer.resblocks[:-1]:
            x = block(x, attn_mask=tower.attn_mask)
        expected = tower.ln_final(x)
        whole = tower.ln_final(tower.transformer.resblocks[-1](x, attn_mask=tower.attn_mask))
    weights = {f"cond_stage_model.model.{name}": tensor for name, tensor in tower.state_dict().items()}
    stored = {"cond_stage_model.model.attn_mask": torch.zeros(77, 77), "cond_stage_model.model.logit_scale": torch.ones(())}
    for extra in ({}, stored):
        converted = text_encoder_from_original(weights | extra, torch.float32, "it")
        assert converted.config.num_hidden_layers == 3
        with torch.no_grad():
            states = converted(tokens).last_hidden_state
        assert (states - expected).abs().max() <= 1e-4
        assert (states - whole).abs().max() > 0.1  # the last block does matter


def test_clip_tower_converts_exactly():
    size = {"vocab_size": 500, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPTextConfig(**size, hidden_act="quick_gelu")
    torch.manual_seed(0)
    source = CLIPTextModel(config).eval()
    weights = {f"cond_stage_model.transformer.{name}": tensor for name, tensor in portable_weights(source).items()}
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    converted = text_encoder_from_original(weights, torch.float32, "it")
    tokens = torch.randint(0, 498, (2, 77), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(converted(tokens).last_hidden_state, source(tokens).last_hidden_state)


def test_real_towers_are_those_of_stable_diffusion():
    def config_of(shapes, prefix):
        weights = {f"cond_stage_model.{prefix}.{name}": torch.empty(shape, device="meta") for name, shape in shapes.items()}
        return text_encoder_from_original(weights, torch.float32, "it").config

    config = config_of(openclip_shapes(width=1024, layers=24), "model")
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (1024, 4096, 23)
    assert (config.num_attention_heads, config.hidden_act, config.vocab_size) == (16, "gelu", 49408)
    config = config_of(clip_shapes(width=768, layers=12), "transformer")
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (768, 3072, 12)
    assert (config.num_attention_heads, config.hidden_act, config.eos_token_id) == (12, "quick_gelu", 49407)


@pytest.mark.parametrize("names", ["text_model.", ""])
def test_text_weights_load_under_both_releases_names(names):
    config = CLIPTextConfig(vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
    source = CLIPTextModel(config).eval()
    weights = {f"{names}{n.removeprefix('text_model.')}": tensor for n, tensor in portable_weights(source).items()}
    loaded = build_text_encoder(config, weights, torch.float32, "it")
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    tokens = torch.tensor([[1, 7, 9]])
    assert torch.equal(loaded(tokens).last_hidden_state, source(tokens).last_hidden_state)


def test_tokenizer_pads_as_each_family_does(tmp_path):
    for pad_token, pad_id in (("<|endoftext|>", 49407), ("!", 0)):
        tokenizer = clip_tokenizer(pad_token)
        ids = tokenizer("A Red cube!", padding="max_length")["input_ids"]
        assert ids == [49406, 320, 736, 11353, 256, 49407] + 71 * [pad_id]  # "!" in a prompt is a word's end, 256
        assert len(tokenizer) == 49408
        save_tokenizer(tokenizer, tmp_path / str(pad_id))
        again = load_tokenizer(tmp_path / str(pad_id))
        assert again("A Red cube!", padding="max_length")["input_ids"] == ids
        assert (again.pad_token, again.model_max_length) == (pad_token, 77)


def test_tokenizer_is_openclips(tmp_path):
    """The vocabulary as OpenCLIP's `SimpleTokenizer` builds it: bytes, bytes that end a word, merges, start, end."""
    tokenizer = clip_tokenizer()
    ids = tokenizer.get_vocab()
    assert (ids["!"], ids["!</w>"], ids["<|startoftext|>"], ids["<|endoftext|>"]) == (0, 256, 49406, 49407)
    spec = find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip_torch, the reference of this test, is not installed")
    merges = gzip.open(Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read().split("\n")
    for k, merge in enumerate(merges[1 : 49152 - 256 - 2 + 1]):
        assert ids[merge.replace(" ", "")] == 512 + k
