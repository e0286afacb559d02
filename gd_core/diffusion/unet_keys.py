"""MVDream's original UNet (LDM names) -> diffusers' `UNet2DConditionModel`: config from shapes, and key names.

The original layout is Stable Diffusion's `UNetModel` with `camera_embed`, a second MLP whose output is added to the time
embedding (bytedance/MVDream, `mvdream/ldm/modules/diffusionmodules/openaimodel.py`); diffusers calls that `class_embedding`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

UNET_PREFIX = "model.diffusion_model."
_REMEDY = "give MVDream's text-to-image checkpoint (sd-v2.1-base-4view or sd-v1.5-4view)"

# The two published families. Head counts leave no trace in shapes, so they are known by the width of the text encoder.
_HEADS_OF_CONTEXT = {1024: {"num_head_channels": 64}, 768: {"num_heads": 8}}

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1",
    "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}


def original_unet_weights(weights: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The UNet's part of an original-layout checkpoint, prefix removed.

    Raises:
        ValueError: there is no such part, or it is of another model than MVDream; `what` names the source.
    """
    unet = {name.removeprefix(UNET_PREFIX): tensor for name, tensor in weights.items() if name.startswith(UNET_PREFIX)}
    unet = unet or {name: tensor for name, tensor in weights.items() if not name.startswith(("first_stage", "cond_stage"))}
    if "input_blocks.0.0.weight" not in unet:
        raise ValueError(f"{what} has no UNet in MVDream's original layout (no 'input_blocks.0.0.weight'): {_REMEDY}")
    if any(name.startswith(("image_embed.", "ip_")) or "_ip." in name for name in unet):
        raise ValueError(f"{what} is an ImageDream checkpoint (image-prompt 'ip' weights), which needs an image: {_REMEDY}")
    if "camera_embed.0.weight" not in unet:
        raise ValueError(f"{what} is a Stable Diffusion checkpoint without 'camera_embed', not MVDream: {_REMEDY}")
    return unet


def infer_original_config(unet: Mapping[str, Tensor], given: Mapping | None, what: str) -> dict:
    """The original constructor's config, read from the shapes of `unet` (original names, no prefix) as far as they tell.

    Heads come from `given` (`num_head_channels` or `num_heads`) or, for MVDream's own two text widths, are known.

    Raises:
        ValueError: the shapes are not of such a UNet, the heads are not known, or `given` contradicts the shapes.
    """
    try:
        inferred = _from_shapes(unet)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"the UNet weights of {what} are incomplete ({error}): download the checkpoint again") from error
    given = dict(given or {})
    for name, value in inferred.items():
        told = given.get(name)
        if isinstance(value, list | tuple) and told is not None:
            told = list(told)
            value, told = (sorted(value), sorted(told)) if name == "attention_resolutions" else (value, told)
        if told is not None and told != value:
            raise ValueError(
                f"the UNet config of {what} says {name} = {told}, but its weights have {value}: give the config they came with"
            )
    heads = {name: given[name] for name in ("num_head_channels", "num_heads") if given.get(name, -1) not in (None, -1)}
    heads = heads or _HEADS_OF_CONTEXT.get(inferred["context_dim"])
    if not heads:
        raise ValueError(
            f"the number of attention heads of {what} cannot be read from its weights (text width {inferred['context_dim']}): "
            "give the UNet's config with 'num_head_channels' or 'num_heads'"
        )
    return inferred | heads


def _from_shapes(unet: Mapping[str, Tensor]) -> dict:
    model_channels = unet["input_blocks.0.0.weight"].shape[0]
    count = 1 + max(int(name.split(".")[1]) for name in unet if name.startswith("input_blocks."))
    is_downsample = [f"input_blocks.{i}.0.op.weight" in unet for i in range(count)]
    num_res_blocks = is_downsample.index(True) - 1 if any(is_downsample) else count - 1
    channel_mult, attention_resolutions = [], []
    for level in range(sum(is_downsample) + 1):
        first = 1 + level * (num_res_blocks + 1)
        channel_mult.append(unet[f"input_blocks.{first}.0.out_layers.3.weight"].shape[0] // model_channels)
        if f"input_blocks.{first}.1.norm.weight" in unet:
            attention_resolutions.append(2**level)
    middle = "middle_block.1.transformer_blocks."
    return {
        "in_channels": unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": unet["out.2.weight"].shape[0],
        "model_channels": model_channels,
        "num_res_blocks": num_res_blocks,
        "channel_mult": channel_mult,
        "attention_resolutions": attention_resolutions,
        "use_linear_in_transformer": unet["middle_block.1.proj_in.weight"].ndim == 2,
        "transformer_depth": len({name.split(".")[3] for name in unet if name.startswith(middle)}),
        "context_dim": unet[f"{middle}0.attn2.to_k.weight"].shape[1],
        "camera_dim": unet["camera_embed.0.weight"].shape[1],
    }


def diffusers_unet_config(original: Mapping) -> dict:
    """Keyword arguments of `UNet2DConditionModel` for a config in the original constructor's names."""
    widths = [original["model_channels"] * multiple for multiple in original["channel_mult"]]
    has_attention = [2**level in original["attention_resolutions"] for level in range(len(widths))]
    if "num_head_channels" in original:
        heads: int | list[int] = [width // original["num_head_channels"] for width in widths]
    else:
        heads = original["num_heads"]
    return {
        "sample_size": 32,  # latents of the 256 px that MVDream was trained at; nothing depends on it
        "in_channels": original["in_channels"],
        "out_channels": original["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": original["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in has_attention],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(has_attention)],
        "transformer_layers_per_block": original["transformer_depth"],
        "attention_head_dim": heads,  # diffusers' historical name for the number of heads
        "cross_attention_dim": original["context_dim"],
        "use_linear_projection": original["use_linear_in_transformer"],
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": original["camera_dim"],
    }


def diffusers_unet_key(name: str, num_res_blocks: int) -> str:
    """diffusers' name of an original UNet weight (no prefix). Transformer blocks have the same names inside.

    Raises:
        KeyError: the name is of no part that this UNet has.
    """
    stem, _, leaf = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{leaf}"
    match = re.match(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)|middle_block\.(\d)\.(.+)", name)
    if match is None:
        raise KeyError(name)
    side, block, part, rest, middle_part, middle_rest = match.groups()
    if side is None:
        return f"{_MIDDLE[middle_part]}.{_inside(middle_rest)}"
    # input_blocks.0 is conv_in, and each level ends in a block that resamples; output_blocks resample in their last block.
    level, layer = divmod(int(block) - (side == "input_blocks"), num_res_blocks + 1)
    where = f"down_blocks.{level}" if side == "input_blocks" else f"up_blocks.{level}"
    if rest.startswith("op."):
        return f"{where}.downsamplers.0.conv.{leaf}"
    if rest.startswith("conv."):
        return f"{where}.upsamplers.0.conv.{leaf}"
    return f"{where}.{'resnets' if part == '0' else 'attentions'}.{layer}.{_inside(rest)}"


def _inside(rest: str) -> str:
    """Name inside a ResBlock, which diffusers renamed, or inside a transformer, which it did not."""
    stem, _, leaf = rest.rpartition(".")
    return f"{_RESNET[stem]}.{leaf}" if stem in _RESNET else rest
