"""Memory presets of the refinement, an estimate of what each needs, and the choice of the largest that fits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..devices import free_memory
from ..diffusion.model import MVDream
from ..nerf.field import RadianceField
from ..settings.refine import RefineConfig
from .guidance import Guidance
from .objective import ReferenceRays

if TYPE_CHECKING:  # its import brings in every image processor of transformers
    from diffusers import StableDiffusionPipeline

logger = logging.getLogger(__name__)

# Floats held in the backward pass per pixel by Stable Diffusion's VAE encoder, and at the peak per latent cell and image by its
# UNet without gradients: counted over all live tensors of both at real size.
VAE_FLOATS_PER_PIXEL = 3050
UNET_FLOATS_PER_CELL = 52_000
VAE_SD_WIDTH, UNET_SD_WIDTH = 128, 320  # first widths that these counts belong to; they scale with the width
PROBE_RAYS = 256
USABLE_SHARE = 0.9  # of the free memory; the allocator's fragments need the rest
OOM_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class MemoryPreset:
    """How a refinement of real-size weights fits a GPU.

    Attributes:
        name: the memory of the GPU that it is meant for.
        rays_per_chunk: rays rendered together; with more than one chunk a view's activations are recomputed.
        max_image_size: pixels a side of the SDS renders (the model's image size is reached by interpolation).
        checkpointing: the VAE encodes image by image and is recomputed in the backward pass.
        offload: the text encoder and the VAE's decoder wait in main memory.
    """

    name: str
    rays_per_chunk: int
    max_image_size: int
    checkpointing: bool
    offload: bool


MEMORY_PRESETS = (
    MemoryPreset("24GB", rays_per_chunk=65536, max_image_size=256, checkpointing=False, offload=False),
    MemoryPreset("12GB", rays_per_chunk=32768, max_image_size=256, checkpointing=True, offload=True),
    MemoryPreset("8GB", rays_per_chunk=8192, max_image_size=128, checkpointing=True, offload=True),
)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what holds them; `weights` are there before refinement starts, the rest comes on top."""

    weights: int
    unet: int
    vae: int
    rays: int
    field: int

    @property
    def added(self) -> int:
        return self.unet + self.vae + self.rays + self.field

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_gb(value)}" for name, value in vars(self).items())
        return f"{_gb(self.weights + self.added)} ({parts})"


def _gb(number: int) -> str:
    return f"{number / 1e9:.2f} GB"


def estimate_memory(
    field: RadianceField, reference: ReferenceRays, guidance: Guidance, config: RefineConfig, preset: MemoryPreset
) -> MemoryEstimate:
    """What a refinement holds at its peak under `preset`; rays are measured on a few of the reference rays."""
    images = 4
    size = min(preset.max_image_size, round(guidance.image_size * max(s for _, s in config.milestones)))
    rays = min(preset.rays_per_chunk, images * size**2)
    unet, vae = guidance.unet, guidance.vae
    encoded = 1 if preset.checkpointing else images
    cells = 2 * images * guidance.latent_numel // vae.config.latent_channels  # 2: classifier-free guidance
    pixels = encoded * guidance.image_size**2
    unet_floats = UNET_FLOATS_PER_CELL * unet.config.block_out_channels[0] / UNET_SD_WIDTH * cells
    vae_floats = VAE_FLOATS_PER_PIXEL * vae.config.block_out_channels[0] / VAE_SD_WIDTH * pixels
    return MemoryEstimate(
        weights=_weights(unet) + _weights(vae.encoder if preset.offload else vae),
        unet=_bytes(unet_floats, unet),
        vae=_bytes(vae_floats, vae),
        rays=rays * _bytes_per_ray(field, reference),
        field=4 * _weights(field),  # the field, its gradient and Adam's two moments
    )


def _weights(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def _bytes(floats: float, module: nn.Module) -> int:
    return round(floats * next(module.parameters()).element_size())


def _bytes_per_ray(field: RadianceField, reference: ReferenceRays) -> int:
    """Bytes that autograd keeps for a ray, the mean over rays spread over the reference views."""
    held = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    pick = torch.linspace(0, len(reference.masks) - 1, PROBE_RAYS, device=field.device).long()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        field.render_rays(reference.origins[pick], reference.directions[pick])
    return held // PROBE_RAYS


def choose_preset(
    field: RadianceField, reference: ReferenceRays, guidance: Guidance, config: RefineConfig, free: int | None = None
) -> MemoryPreset:
    """The preset that `config` names, or the largest whose estimate fits into `free` bytes; logs the estimate."""
    free = free_memory(field.device) if free is None else free
    candidates = [p for p in MEMORY_PRESETS if config.preset in ("auto", p.name)]
    for preset in candidates:
        estimate = estimate_memory(field, reference, guidance, config, preset)
        if estimate.added <= USABLE_SHARE * free:
            break
    else:
        logger.warning("memory preset %s needs %s, but only %s are free", preset.name, _gb(estimate.added), _gb(free))
    logger.info("refinement with memory preset %s: estimated peak %s, %s free", preset.name, estimate, _gb(free))
    return preset


def preset_named(name: str) -> MemoryPreset:
    return next(p for p in MEMORY_PRESETS if p.name == name)


def smaller_preset(preset: MemoryPreset) -> MemoryPreset | None:
    """One preset down, or None from the smallest."""
    index = MEMORY_PRESETS.index(preset) + 1
    return MEMORY_PRESETS[index] if index < len(MEMORY_PRESETS) else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class of its own for it, the CPU allocator only words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OOM_WORDS)


@contextmanager
def offloaded(model: MVDream | StableDiffusionPipeline) -> Iterator[None]:
    """Move what refinement does not need (text encoder, VAE decoder) to main memory, and back at the end."""
    device = model.unet.device
    parts = (model.text_encoder, model.vae.decoder)
    for part in parts:
        part.to("cpu")
    try:
        yield
    finally:
        for part in parts:
            part.to(device)
