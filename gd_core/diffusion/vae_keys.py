"""The original autoencoder (LDM names) -> diffusers' `AutoencoderKL`: config from shapes, and key names.

MVDream uses Stable Diffusion's kl-f8 autoencoder unchanged. diffusers' own converter is not part of its public interface and
passes over weights that it does not know; this table refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

VAE_PREFIX = "first_stage_model."
SCALING_FACTOR = 0.18215  # Stable Diffusion's `scale_factor`, which MVDream keeps

_PARTS = (
    (r"\.down\.(\d+)\.block\.(\d+)\.", r".down_blocks.\1.resnets.\2."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.(\d+)\.", r".up_blocks.\1.resnets.\2."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
)


def diffusers_vae(weights: Mapping[str, Tensor], what: str) -> tuple[dict, dict[str, Tensor]]:
    """`AutoencoderKL`'s keyword arguments and weights from an original-layout checkpoint.

    Raises:
        ValueError: the checkpoint has no autoencoder, or an incomplete one; `what` names it.
    """
    vae = {name.removeprefix(VAE_PREFIX): tensor for name, tensor in weights.items() if name.startswith(VAE_PREFIX)}
    if not vae:
        raise ValueError(f"{what} has no autoencoder ('{VAE_PREFIX}...'): give MVDream's whole checkpoint, not its UNet alone")
    try:
        config = _from_shapes(vae)
    except (KeyError, IndexError) as error:
        raise ValueError(f"the autoencoder of {what} is incomplete ({error}): download the checkpoint again") from error
    levels = len(config["block_out_channels"])
    return config, dict(_renamed(name, tensor, levels) for name, tensor in vae.items())


def _from_shapes(vae: Mapping[str, Tensor]) -> dict:
    levels = len({name.split(".")[2] for name in vae if name.startswith("encoder.down.")})
    widths = [vae[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    return {
        "in_channels": vae["encoder.conv_in.weight"].shape[1],
        "out_channels": vae["decoder.conv_out.weight"].shape[0],
        "latent_channels": vae["post_quant_conv.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": len({name.split(".")[4] for name in vae if name.startswith("encoder.down.0.block.")}),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": 32,
        "sample_size": 256,
        "scaling_factor": SCALING_FACTOR,
    }


def _renamed(name: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    for pattern, replacement in _PARTS:
        name = re.sub(pattern, replacement, name)
    # LDM counts decoder levels from the finest, diffusers from the coarsest, in the order in which they run.
    name = re.sub(r"\.up_blocks\.(\d+)\.", lambda match: f".up_blocks.{levels - 1 - int(match[1])}.", name)
    if ".attentions." in name and tensor.ndim == 4:
        tensor = tensor[:, :, 0, 0]  # a 1x1 convolution there, a linear layer here
    return name, tensor
