"""Memory presets of the refinement, an estimate of what each needs, and the choice of the largest that fits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .. import memory
from ..devices import free_memory
from ..diffusion.model import MVDream
from ..memory import RefinementMemory, in_gb
from ..nerf.field import RadianceField
from ..settings.refine import RefineConfig
from .guidance import Guidance
from .objective import ReferenceRays

if TYPE_CHECKING:  # its import brings in every image processor of transformers
    from diffusers import StableDiffusionPipeline

logger = logging.getLogger(__name__)

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


def estimate_memory(
    field: RadianceField, reference: ReferenceRays, guidance: Guidance, config: RefineConfig, preset: MemoryPreset
) -> RefinementMemory:
    """What a refinement holds at its peak under `preset`; rays are measured on a few of the reference rays."""
    images = 4
    size = min(preset.max_image_size, round(guidance.image_size * max(s for _, s in config.milestones)))
    rays = min(preset.rays_per_chunk, images * size**2)
    unet, vae = guidance.unet, guidance.vae
    encoded = 1 if preset.checkpointing else images
    for_unet, for_vae = memory.distillation(unet, vae, guidance.image_size, images=images, encoded=encoded)
    return RefinementMemory(
        weights=memory.of_weights(unet, vae.encoder if preset.offload else vae),
        unet=for_unet,
        vae=for_vae,
        rays=rays * _bytes_per_ray(field, reference),
        field=4 * memory.of_weights(field),  # the field, its gradient and Adam's two moments
    )


def _bytes_per_ray(field: RadianceField, reference: ReferenceRays) -> int:
    """Bytes that autograd keeps for a ray, the mean over rays spread over the reference views."""
    held = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    pick = torch.arange(PROBE_RAYS, device=field.device) * (len(reference.masks) - 1) // (PROBE_RAYS - 1)  # in whole numbers
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
        logger.warning("memory preset %s needs %s, but only %s are free", preset.name, in_gb(estimate.added), in_gb(free))
    logger.info("refinement with memory preset %s: estimated peak %s, %s free", preset.name, estimate, in_gb(free))
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
