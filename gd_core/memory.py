"""What a stage needs in memory beside the weights: one count for sampling, refocusing, refinement and ComfyUI's nodes.

The numbers are bytes of tensors alive at the peak of a pass, counted on random weights of narrow models of Stable Diffusion's
structure. They grow with the first level's width and with the number of latent cells or pixels, so that they hold for MVDream
and for narrower models; tests hold them to such passes. A CUDA context and the convolutions' workspaces are no tensors and
come on top (`WORKSPACE`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from .settings.refocus import RefocusConfig

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

# Live floats at the peak for Stable Diffusion's widths, with fused attention.
UNET_FLOATS_PER_CELL = 8400  # each latent cell of each image, without gradients
# The same, held for the gradient of the latents up to the last layer whose maps are read, by how much smaller than the latents
# these maps are; second, with each block recomputed in the backward pass.
REFOCUS_FLOATS_PER_CELL = {1: (89_000, 23_200), 2: (57_900, 13_300), 4: (42_500, 13_300)}
DECODER_FLOATS_PER_PIXEL = 770  # each pixel of each image, without gradients
ENCODER_FLOATS_PER_PIXEL = 3050  # the same, held for the gradient of the pixels
UNET_WIDTH, VAE_WIDTH = 320, 128  # channels of the first level that these counts belong to
TEXT_TOKENS = 77
WORKSPACE = 500_000_000  # bytes beside tensors on an accelerator


class ImageModel(Protocol):
    """What is asked of a model: `diffusion.MVDream` has it."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: nn.Module

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def latent_size(self) -> int: ...

    @property
    def image_size(self) -> int: ...


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes on the compute device: weights that stay there, and what each part of sampling adds, one after another."""

    weights: int
    unet_pass: int
    refocusing: int
    decoding: int

    @property
    def added(self) -> int:
        return max(self.unet_pass, self.refocusing, self.decoding)

    @property
    def working(self) -> int:
        """What must be free beside the weights on an accelerator."""
        return self.added + WORKSPACE

    @property
    def peak(self) -> int:
        return self.weights + self.added


@dataclass(frozen=True)
class RefinementMemory:
    """Bytes by what holds them, all at a time; `weights` are there before refinement starts, the rest comes on top."""

    weights: int
    unet: int
    vae: int
    rays: int
    field: int

    @property
    def added(self) -> int:
        return self.unet + self.vae + self.rays + self.field

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {in_gb(value)}" for name, value in vars(self).items())
        return f"{in_gb(self.weights + self.added)} ({parts})"


def in_gb(number: int) -> str:
    """Bytes for people, in units of 10^9."""
    return f"{number / 1e9:.2f} GB"


def of_weights(*modules: nn.Module) -> int:
    """Bytes of the modules' parameters and buffers; on the meta device too."""
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    return sum(t.numel() * t.element_size() for t in tensors)


def unet_pass(unet: UNet2DConditionModel, images: int, latent_size: int) -> int:
    """Bytes that one pass over so many images adds, without gradients; under guidance there are twice as many images."""
    return _unet_bytes(unet, images, latent_size, UNET_FLOATS_PER_CELL)


def refocusing_pass(unet: UNet2DConditionModel, images: int, latent_size: int, config: RefocusConfig) -> int:
    """Bytes that one update of the latents adds: a conditional pass up to the last layer whose maps are read, and back."""
    known = max(downscale for downscale in REFOCUS_FLOATS_PER_CELL if downscale <= config.downscale)
    floats = REFOCUS_FLOATS_PER_CELL[known][config.checkpointing]
    return _unet_bytes(unet, images, latent_size, floats)


def decoding(vae: AutoencoderKL, images: int, image_size: int) -> int:
    """Bytes that decoding so many images at a time adds."""
    return _vae_bytes(vae, images, image_size, DECODER_FLOATS_PER_PIXEL)


def encoding(vae: AutoencoderKL, images: int, image_size: int) -> int:
    """Bytes that encoding so many images holds for the backward pass."""
    return _vae_bytes(vae, images, image_size, ENCODER_FLOATS_PER_PIXEL)


def sampling(
    model: ImageModel,
    *,
    num_objects: int = 1,
    num_views: int = 4,
    guidance: bool = True,
    refocus: RefocusConfig | None = None,
) -> SamplingMemory:
    """What `sample_objects` needs on the compute device for objects in one batch, with the model's image size and dtype.

    Args:
        model: one on the meta device serves, too.
        guidance: classifier-free, which is on by default and doubles the UNet's batch.
        refocus: None samples plainly.
    """
    images = num_objects * num_views
    batch = images * (2 if guidance else 1)
    cross_attentions = (m for name, m in model.unet.named_modules() if name.endswith("attn2.to_k"))
    keys_and_values = 2 * sum(m.out_features for m in cross_attentions)  # kept over the steps, see `text_kept`
    refocusing = 0
    if refocus is not None:
        refocusing = refocusing_pass(model.unet, images, model.latent_size, refocus)
    kept_text = batch * TEXT_TOKENS * keys_and_values * model.dtype.itemsize
    return SamplingMemory(
        weights=of_weights(model.unet, model.text_encoder, model.vae),
        unet_pass=kept_text + unet_pass(model.unet, batch, model.latent_size),
        refocusing=kept_text + refocusing if refocusing else 0,
        decoding=decoding(model.vae, 1, model.image_size),  # view by view
    )


def distillation(
    unet: UNet2DConditionModel, vae: AutoencoderKL, image_size: int, *, images: int = 4, encoded: int = 4
) -> tuple[int, int]:
    """Bytes that a step of score distillation adds for the UNet's pass and for the encoder, which are there together.

    Args:
        image_size: pixels a side of what the VAE encodes. images: views that are judged together.
        encoded: images whose activations are held at a time.
    """
    latent_size = image_size // 2 ** (len(vae.config.block_out_channels) - 1)
    return unet_pass(unet, 2 * images, latent_size), encoding(vae, encoded, image_size)


def to_refine(model: ImageModel) -> int:
    """What must be free beside the weights on an accelerator for a refinement; its presets fit it into less."""
    return sum(distillation(model.unet, model.vae, model.image_size)) + WORKSPACE


def _unet_bytes(unet: UNet2DConditionModel, images: int, latent_size: int, floats: int) -> int:
    cells = images * latent_size**2
    return cells * floats * unet.config.block_out_channels[0] // UNET_WIDTH * unet.dtype.itemsize


def _vae_bytes(vae: AutoencoderKL, images: int, image_size: int, floats: int) -> int:
    pixels = images * image_size**2
    return pixels * floats * vae.config.block_out_channels[0] // VAE_WIDTH * vae.dtype.itemsize
