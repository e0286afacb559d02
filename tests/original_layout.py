"""Checkpoints in MVDream's original layout, of any width, with seeded random weights.

Written from LDM's constructors, not from the conversion tables that they test; the UNet's names and shapes are held to the
published models' in `test_conversion.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

_SMALL = {"channel_mult": (1, 2), "num_res_blocks": 1}
SMALL_UNETS = {
    "sd21": {**_SMALL, "model_channels": 64, "attention_resolutions": (1,), "context_dim": 1024},
    "sd15": {**_SMALL, "model_channels": 32, "attention_resolutions": (2,), "context_dim": 768},
}
SMALL_VAE = {"ch": 32, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 1}


def unet_shapes(
    *, model_channels: int, channel_mult, num_res_blocks: int, attention_resolutions, context_dim: int, linear: bool
) -> Shapes:
    """Names and shapes of LDM's `UNetModel` with a camera embedding, no prefix."""
    shapes: Shapes = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    def resblock(name: str, inner: int, outer: int) -> None:
        layer(f"{name}.in_layers.0", inner)
        layer(f"{name}.in_layers.2", outer, inner, 3, 3)
        layer(f"{name}.emb_layers.1", outer, 4 * model_channels)
        layer(f"{name}.out_layers.0", outer)
        layer(f"{name}.out_layers.3", outer, outer, 3, 3)
        if inner != outer:
            layer(f"{name}.skip_connection", outer, inner, 1, 1)

    def transformer(name: str, width: int) -> None:
        kernel = () if linear else (1, 1)
        layer(f"{name}.norm", width)
        layer(f"{name}.proj_in", width, width, *kernel)
        block = f"{name}.transformer_blocks.0"
        for attention, source in (("attn1", width), ("attn2", context_dim)):
            shapes[f"{block}.{attention}.to_q.weight"] = (width, width)
            shapes[f"{block}.{attention}.to_k.weight"] = (width, source)
            shapes[f"{block}.{attention}.to_v.weight"] = (width, source)
            layer(f"{block}.{attention}.to_out.0", width, width)
        layer(f"{block}.ff.net.0.proj", 8 * width, width)
        layer(f"{block}.ff.net.2", width, 4 * width)
        for k in (1, 2, 3):
            layer(f"{block}.norm{k}", width)
        layer(f"{name}.proj_out", width, width, *kernel)

    for embed, inner in (("time_embed", model_channels), ("camera_embed", 16)):
        layer(f"{embed}.0", 4 * model_channels, inner)
        layer(f"{embed}.2", 4 * model_channels, 4 * model_channels)
    layer("input_blocks.0.0", model_channels, 4, 3, 3)
    skips, width, index = [model_channels], model_channels, 1
    for level, multiple in enumerate(channel_mult):
        for _ in range(num_res_blocks):
            resblock(f"input_blocks.{index}.0", width, multiple * model_channels)
            width = multiple * model_channels
            if 2**level in attention_resolutions:
                transformer(f"input_blocks.{index}.1", width)
            skips.append(width)
            index += 1
        if level < len(channel_mult) - 1:
            layer(f"input_blocks.{index}.0.op", width, width, 3, 3)
            skips.append(width)
            index += 1
    resblock("middle_block.0", width, width)
    transformer("middle_block.1", width)
    resblock("middle_block.2", width, width)
    index = 0
    for level, multiple in reversed(list(enumerate(channel_mult))):
        for k in range(num_res_blocks + 1):
            resblock(f"output_blocks.{index}.0", width + skips.pop(), multiple * model_channels)
            width, part = multiple * model_channels, 1
            if 2**level in attention_resolutions:
                transformer(f"output_blocks.{index}.1", width)
                part = 2
            if level and k == num_res_blocks:
                layer(f"output_blocks.{index}.{part}.conv", width, width, 3, 3)
            index += 1
    layer("out.0", width)
    layer("out.2", 4, width, 3, 3)
    return shapes


def vae_shapes(*, ch: int, ch_mult, num_res_blocks: int) -> Shapes:
    """Names and shapes of LDM's `AutoencoderKL` (z 4, double_z, attention in the middle only), no prefix."""
    shapes: Shapes = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    def resblock(name: str, inner: int, outer: int) -> None:
        layer(f"{name}.norm1", inner)
        layer(f"{name}.conv1", outer, inner, 3, 3)
        layer(f"{name}.norm2", outer)
        layer(f"{name}.conv2", outer, outer, 3, 3)
        if inner != outer:
            layer(f"{name}.nin_shortcut", outer, inner, 1, 1)

    def middle(name: str, width: int) -> None:
        resblock(f"{name}.mid.block_1", width, width)
        layer(f"{name}.mid.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.mid.attn_1.{part}", width, width, 1, 1)
        resblock(f"{name}.mid.block_2", width, width)

    layer("encoder.conv_in", ch, 3, 3, 3)
    width = ch
    for level, multiple in enumerate(ch_mult):
        for k in range(num_res_blocks):
            resblock(f"encoder.down.{level}.block.{k}", width, multiple * ch)
            width = multiple * ch
        if level < len(ch_mult) - 1:
            layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", width)
    layer("encoder.norm_out", width)
    layer("encoder.conv_out", 8, width, 3, 3)
    layer("decoder.conv_in", width, 4, 3, 3)
    middle("decoder", width)
    for level, multiple in reversed(list(enumerate(ch_mult))):
        for k in range(num_res_blocks + 1):
            resblock(f"decoder.up.{level}.block.{k}", width, multiple * ch)
            width = multiple * ch
        if level:
            layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    layer("decoder.norm_out", width)
    layer("decoder.conv_out", 3, width, 3, 3)
    layer("quant_conv", 8, 8, 1, 1)
    layer("post_quant_conv", 4, 4, 1, 1)
    return shapes


def clip_shapes(*, width: int, layers: int, words: int = 49408, tokens: int = 77) -> Shapes:
    """Names and shapes of transformers' CLIP text model as SD 1.x checkpoints hold it, no prefix."""
    shapes: Shapes = {
        "text_model.embeddings.position_ids": (1, tokens),
        "text_model.embeddings.token_embedding.weight": (words, width),
        "text_model.embeddings.position_embedding.weight": (tokens, width),
    }
    parts = {f"self_attn.{p}_proj": (width, width) for p in ("q", "k", "v", "out")}
    parts |= {"layer_norm1": (width,), "layer_norm2": (width,), "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    names = {f"encoder.layers.{k}.{part}": shape for k in range(layers) for part, shape in parts.items()}
    for name, shape in (names | {"final_layer_norm": (width,)}).items():
        shapes[f"text_model.{name}.weight"] = shape
        shapes[f"text_model.{name}.bias"] = shape[:1]
    return shapes


def openclip_shapes(*, width: int, layers: int, words: int = 49408, tokens: int = 77) -> Shapes:
    """Names and shapes of OpenCLIP's text tower as `FrozenOpenCLIPEmbedder` holds it, no prefix."""
    shapes: Shapes = {
        "positional_embedding": (tokens, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (words, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    parts = {"ln_1": (width,), "ln_2": (width,), "attn.out_proj": (width, width)}
    parts |= {"mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
    for k in range(layers):
        block = f"transformer.resblocks.{k}"
        shapes[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{block}.attn.in_proj_bias"] = (3 * width,)
        for part, shape in parts.items():
            shapes[f"{block}.{part}.weight"] = shape
            shapes[f"{block}.{part}.bias"] = shape[:1]
    return shapes


def random_weights(shapes: Shapes, seed: int, prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights near N(0, 1/fan_in), vectors near 1, biases small; exact in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            noise = noise / math.sqrt(math.prod(shape[1:]))
        else:
            noise = 0.1 * noise + (0 if name.endswith("bias") else 1)
        weights[prefix + name] = noise.to(dtype)
    return weights


def original_checkpoint(family: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A whole small checkpoint, "sd21" or "sd15", its contexts as wide as the published models' since that tells the family."""
    unet = SMALL_UNETS[family]
    weights = random_weights(unet_shapes(**unet, linear=family == "sd21"), 1, "model.diffusion_model.", dtype)
    weights |= random_weights(vae_shapes(**SMALL_VAE), 2, "first_stage_model.", dtype)
    if family == "sd21":
        # Few words, to be small: these models read token ids below 1000 and no real prompts.
        weights |= random_weights(openclip_shapes(width=1024, layers=2, words=1000), 3, "cond_stage_model.model.", dtype)
    else:
        weights |= random_weights(clip_shapes(width=768, layers=1, words=1000), 3, "cond_stage_model.transformer.", dtype)
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000) ** 2
    return weights | {"betas": betas, "alphas_cumprod": (1 - betas).cumprod(0)}

