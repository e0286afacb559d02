"""MVDream's text encoders as transformers' `CLIPTextModel`, from either original layout.

SD 2.1: an OpenCLIP tower of which all but the last block is run, then `ln_final` (`FrozenOpenCLIPEmbedder`, layer
"penultimate"), so the converted model has one block less and its last hidden state is MVDream's context. SD 1.5: transformers'
own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from .checkpoint import empty_model, load_strictly

OPENCLIP_PREFIX = "cond_stage_model.model."
CLIP_PREFIX = "cond_stage_model.transformer."

_HEAD_CHANNELS = 64  # of every CLIP text tower that was published
_OPENCLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPENCLIP_TOP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPENCLIP_UNUSED = ("text_projection", "logit_scale", "attn_mask")  # for comparison with images; and a constant


def text_encoder_from_original(weights: Mapping[str, Tensor], dtype: torch.dtype, what: str) -> CLIPTextModel:
    """The text encoder of an original-layout checkpoint.

    Raises:
        ValueError: the checkpoint has none, or one of another kind; `what` names it.
    """
    openclip = {name.removeprefix(OPENCLIP_PREFIX): t for name, t in weights.items() if name.startswith(OPENCLIP_PREFIX)}
    clip = {name.removeprefix(CLIP_PREFIX): t for name, t in weights.items() if name.startswith(CLIP_PREFIX)}
    if not openclip and not clip:
        raise ValueError(f"{what} has no text encoder ('cond_stage_model...'): give MVDream's whole checkpoint, not the UNet's")
    try:
        converted = _from_openclip(openclip) if openclip else _without_root(clip)
        config = _config_from_shapes(converted, "gelu" if openclip else "quick_gelu")
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"the text encoder of {what} is not CLIP's ({error}): give MVDream's checkpoint") from error
    return build_text_encoder(config, converted, dtype, what)


def build_text_encoder(config: CLIPTextConfig, weights: Mapping[str, Tensor], dtype: torch.dtype, what: str) -> CLIPTextModel:
    """A `CLIPTextModel` of `weights`, whose names may or may not start with `text_model.`."""
    what = f"the text encoder of {what}"
    skeleton = empty_model(lambda: CLIPTextModel(config), what)
    # transformers 5 dropped the level `text_model` between `CLIPTextModel` and its layers.
    root = "text_model." if any(name.startswith("text_model.") for name in skeleton.state_dict()) else ""
    weights = {f"{root}{name}": tensor for name, tensor in _without_root(weights).items()}
    model = load_strictly(lambda: skeleton, weights, dtype, what)
    # A buffer that no checkpoint keeps, so building on the meta device left it without values.
    positions = torch.arange(config.max_position_embeddings)[None]
    model.get_submodule(f"{root}embeddings").register_buffer("position_ids", positions, persistent=False)
    return model


def portable_weights(model: CLIPTextModel) -> dict[str, Tensor]:
    """The model's weights under the names that transformers wrote before release 5 and still reads."""
    return {f"text_model.{name}": tensor for name, tensor in _without_root(model.state_dict()).items()}


def _without_root(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names below `text_model`; `position_ids` was saved by old releases and is no weight."""
    return {name.removeprefix("text_model."): t for name, t in weights.items() if not name.endswith("position_ids")}


def _from_openclip(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    last = max(int(match[1]) for match in (re.match(r"transformer\.resblocks\.(\d+)\.", name) for name in tower) if match)
    converted = {}
    for name, tensor in tower.items():
        match = re.match(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)$", name)
        if name in _OPENCLIP_UNUSED or (match and int(match[1]) == last):
            continue
        if not match:
            converted[_OPENCLIP_TOP[name]] = tensor
            continue
        block, part, leaf = match.groups()
        if part == "attn.in_proj":
            for projection, third in zip("qkv", tensor.chunk(3), strict=True):
                converted[f"encoder.layers.{block}.self_attn.{projection}_proj.{leaf}"] = third
        else:
            converted[f"encoder.layers.{block}.{_OPENCLIP_BLOCK[part]}.{leaf}"] = tensor
    return converted


def _config_from_shapes(weights: Mapping[str, Tensor], activation: str) -> CLIPTextConfig:
    words, width = weights["embeddings.token_embedding.weight"].shape
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len({name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}),
        num_attention_heads=max(1, width // _HEAD_CHANNELS),
        max_position_embeddings=weights["embeddings.position_embedding.weight"].shape[0],
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
    )
