"""What sampling needs in memory, and two ways to need less: offloading, and decoding view by view. See `docs/memory.md`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from .model import MVDream

OFFLOADS = ("none", "parts", "all")

# Live floats at the peak of a pass without gradients, with fused attention, for Stable Diffusion's widths: counted over all
# tensors of a pass at real size. They grow with the first level's width.
_UNET_FLOATS_PER_CELL = 8400  # each latent cell of each image
_VAE_FLOATS_PER_PIXEL = 770  # each pixel of each image, decoding
_SD_UNET_WIDTH, _SD_VAE_WIDTH = 320, 128


@dataclass(frozen=True)
class ModelSize:
    """What an estimate must know of a model.

    Attributes:
        unet, text_encoder, vae: numbers of parameters.
        largest_layer: parameters of the largest single layer of all.
        text_channels: sum of the widths of all cross-attention layers.
        unet_width, vae_width: channels of the first level.
        image_size: pixels a side; vae_scale_factor: pixels a latent cell, each way.
    """

    unet: int
    text_encoder: int
    vae: int
    largest_layer: int
    text_channels: int
    unet_width: int = _SD_UNET_WIDTH
    vae_width: int = _SD_VAE_WIDTH
    image_size: int = 256
    vae_scale_factor: int = 8


MVDREAM_V21 = ModelSize(867_572_164, 340_387_840, 83_653_863, 50_593_792, 12_480)
MVDREAM_V15 = ModelSize(861_182_404, 123_060_480, 83_653_863, 37_945_344, 12_480)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the compute device: weights that stay there, and the most that the UNet's pass or the decoding adds.

    Tensors only: a CUDA context and the convolutions' workspaces take about half a gigabyte more.
    """

    weights: int
    unet_pass: int
    decoding: int

    @property
    def peak(self) -> int:
        return self.weights + max(self.unet_pass, self.decoding)


def size_of(model: MVDream) -> ModelSize:
    """The `ModelSize` of any model, a tiny one or one on the meta device too."""
    parts = (model.unet, model.text_encoder, model.vae)
    leaves = (module for part in parts for module in part.modules() if not any(module.children()))
    return ModelSize(
        unet=_count(model.unet),
        text_encoder=_count(model.text_encoder),
        vae=_count(model.vae),
        largest_layer=max(_count(leaf) for leaf in leaves),
        text_channels=sum(m.out_features for name, m in model.unet.named_modules() if name.endswith("attn2.to_k")),
        unet_width=model.unet.config.block_out_channels[0],
        vae_width=model.vae.config.block_out_channels[0],
        image_size=model.config.image_size,
        vae_scale_factor=model.vae_scale_factor,
    )


def estimate_sampling_memory(
    size: ModelSize = MVDREAM_V21,
    *,
    dtype: torch.dtype = torch.float16,
    num_objects: int = 1,
    num_views: int = 4,
    image_size: int | None = None,
    guidance: bool = True,
    offload: str = "none",
    vae_slicing: bool = False,
) -> MemoryEstimate:
    """What `sample_views` needs on the compute device, without refocusing.

    Args:
        size: `MVDREAM_V21`, `MVDREAM_V15` or `size_of(model)`.
        dtype: of weights and activations alike.
        num_objects, num_views: images in a batch; guidance doubles the UNet's.
        image_size: pixels a side; None is the model's own.
        offload: as in `offload_weights`.
        vae_slicing: with `model.vae.enable_slicing()`, which decodes image by image.

    Raises:
        ValueError: for an offload that there is not.
    """
    if offload not in OFFLOADS:
        raise ValueError(f"offload must be one of {', '.join(OFFLOADS)}, got '{offload}'")
    images = num_objects * num_views
    pixels = (image_size or size.image_size) ** 2
    cells = pixels // size.vae_scale_factor**2
    passes = images * (2 if guidance else 1)
    kept_text = 2 * passes * 77 * size.text_channels  # keys and values, see `text_kept`
    streamed = 2 * size.largest_layer  # one layer at work, the next one on its way
    weights = {
        "none": size.unet + size.text_encoder + size.vae,
        "parts": size.unet + streamed,
        "all": streamed,
    }[offload]
    unet_pass = passes * cells * _UNET_FLOATS_PER_CELL * size.unet_width // _SD_UNET_WIDTH + kept_text
    decoded = 1 if vae_slicing else images
    decoding = decoded * pixels * _VAE_FLOATS_PER_PIXEL * size.vae_width // _SD_VAE_WIDTH
    return MemoryEstimate(*(count * dtype.itemsize for count in (weights, unet_pass, decoding)))


def offload_weights(model: MVDream, device: torch.device | str, offload: str) -> None:
    """Let weights wait in main memory and come to `device` layer by layer while they are used; for a model on the CPU.

    Args:
        offload: "parts", text encoder and VAE only, which costs little since they run once; "all", the UNet too, which then
            moves all of its weights at every step; "none" moves the model to `device` whole.

    Raises:
        ValueError: for an offload that there is not.
    """
    if offload not in OFFLOADS:
        raise ValueError(f"offload must be one of {', '.join(OFFLOADS)}, got '{offload}'")
    device = torch.device(device)
    waiting: dict[str, tuple[nn.Module, ...]] = {
        "none": (),
        "parts": (model.text_encoder, model.vae),
        "all": (model.text_encoder, model.vae, model.unet),
    }
    for part in (model.unet, model.text_encoder, model.vae):
        if part in waiting[offload]:
            apply_group_offloading(part, device, offload_type="leaf_level", use_stream=device.type == "cuda")
        else:
            part.to(device)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
