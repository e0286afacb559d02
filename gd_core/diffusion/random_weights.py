"""A model of MVDream v2.1's size with random weights: for memory, time and rehearsals, where the real weights are not needed.

It is built from the published configs by the same loaders as a checkpoint. Its pictures are noise.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .denoising import mvdream_noise_schedule
from .model import MVDream, MVDreamConfig
from .multiview import install_multiview_attention
from .text_tower import build_text_encoder
from .tokenizer import clip_tokenizer
from .unet_keys import diffusers_unet_config
from .vae_keys import SCALING_FACTOR

NAME = "random weights of MVDream v2.1's size"
# The constructors' arguments in the published configs: MVDream's sd-v2-base.yaml, Stable Diffusion's v2-inference.yaml.
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "attention_resolutions": [1, 2, 4],
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "transformer_depth": 1,
    "context_dim": 1024,
    "camera_dim": 16,
}
VAE_WIDTH, VAE_LEVELS = 128, (1, 2, 4, 4)
TEXT = {  # OpenCLIP's ViT-H without its last block, as MVDream reads it
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 1024,
    "max_position_embeddings": 77,
}
PARTS = ("unet", "vae", "text_encoder")
TILE = 1 << 20  # random numbers that are drawn; they repeat, since drawing 1.3 billion takes a minute


def random_mvdream(dtype: torch.dtype, *, width: int = 320, parts: Collection[str] = PARTS) -> MVDream:
    """The model on the CPU.

    Args:
        dtype: of the weights.
        width: channels of the UNet's first level in place of 320, a multiple of 64; the autoencoder is scaled along, the text
            encoder is not.
        parts: those that get weights; the others are on the meta device.
    """
    model = empty_mvdream(dtype, width=width)
    for name in parts:
        part = getattr(model, name)
        weights = random_weights(part, dtype)
        if name == "text_encoder":
            model.text_encoder = build_text_encoder(part.config, weights, dtype, NAME).requires_grad_(False)
        else:
            part.load_state_dict(weights, assign=True)
            part.requires_grad_(False)
    return model


def empty_mvdream(dtype: torch.dtype, *, width: int = 320) -> MVDream:
    """The same without weights, on the meta device: for counting."""
    vae_width = max(32, VAE_WIDTH * width // UNET["model_channels"] // 32 * 32)
    vae = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [vae_width * multiple for multiple in VAE_LEVELS],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * len(VAE_LEVELS),
        "up_block_types": ["UpDecoderBlock2D"] * len(VAE_LEVELS),
        "sample_size": 256,
        "scaling_factor": SCALING_FACTOR,
    }
    tokenizer = clip_tokenizer("!")
    words = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    schedule = mvdream_noise_schedule()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**diffusers_unet_config({**UNET, "model_channels": width}))
        install_multiview_attention(unet)
        model = MVDream(
            unet=unet,
            vae=AutoencoderKL(**vae),
            text_encoder=CLIPTextModel(CLIPTextConfig(**words, **TEXT)),
            tokenizer=tokenizer,
            scheduler=schedule,
            config=MVDreamConfig(name=NAME),
        )
    for part in PARTS:
        nn.Module.to(getattr(model, part), dtype).eval()  # diffusers' own `to` warns of casts, which do no harm here
    return model


def random_weights(part: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights for every parameter of `part`, which may have none: normal, over the square root of the inputs that they sum;
    norms are the identity, biases small."""
    tile = torch.randn(TILE, generator=torch.Generator().manual_seed(0))
    weights = {}
    for name, parameter in part.state_dict().items():
        shape = parameter.shape
        if parameter.ndim < 2:
            scale, offset = 0.01, float("norm" in name and name.endswith("weight"))
        else:
            scale, offset = 1 / math.sqrt(math.prod(shape[1:])), 0.0
        numbers = (tile * scale + offset).to(dtype)
        weights[name] = numbers.repeat(-(-parameter.numel() // TILE))[: parameter.numel()].reshape(shape).clone()
    return weights
