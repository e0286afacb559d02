"""How fine a fit is, counted in pixels of the views that it is fitted to."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from ..settings.fit import QUALITIES, FieldConfig, FitConfig
from ..views import ViewSet

logger = logging.getLogger(__name__)

PLAIN = 64  # cells a side of the finest grid of `FitConfig.field` as it stands
COARSEST, FINEST = 32, 256  # whatever the quality: a coarser shape is none, a finer one takes hours on a CPU
# Bytes of tensors alive at the peak of a fit, counted on balls; tests hold a fit to them.
BYTES_PER_CELL = 20  # of the lattice: where its shell is, what is occupied, and what is computed over all cells
BYTES_PER_SHELL_VALUE = 352  # values, gradients, moments, neighbours, corners, slopes
SHELL_VALUES = 40  # times the cells in a face of the box: a ball that fills it has 28
CARVING = 110_000_000  # bytes of the hull, before there is a lattice


def pixel_size(views: ViewSet) -> float:
    """World units that a pixel of the views covers at the origin, the mean over the views."""
    return float(views.cameras.frame_height.mean()) / views.height


def resolution_for(quality: str, views: ViewSet, half_size: float) -> int:
    """Cells a side of the shape's finest grid, a multiple of 16; never coarser than `PLAIN` but for a draft."""
    cells = 2 * half_size / (QUALITIES[quality] * pixel_size(views))
    least = COARSEST if quality == "draft" else PLAIN
    return min(max(16 * math.ceil(cells / 16), least), FINEST)


def memory_needed(resolution: int, shell: int | None = None) -> int:
    """Bytes of tensors that a fit takes at most on a shape of `resolution` cells a side; `shell` values, if they are known."""
    shell = SHELL_VALUES * resolution**2 if shell is None else shell
    return max(CARVING, resolution**3 * BYTES_PER_CELL + shell * BYTES_PER_SHELL_VALUE)


def scaled(field: FieldConfig, scale: float) -> FieldConfig:
    """`field` with cells and strata `scale` times as fine. What is finer than the pyramid of the shape goes into its shell, and
    the albedo's planes grow half as much: what is finer than they are comes from the views' own pixels."""
    finest = field.shape.resolutions[-1]
    if scale > 1:
        shape = replace(field.shape, detail=round(finest * scale))
    else:
        shape = replace(field.shape, resolutions=tuple(max(4, round(r * scale)) for r in field.shape.resolutions))
    return replace(
        field,
        encoding=replace(field.encoding, resolution=round(field.encoding.resolution * scale**0.5)),
        occupancy_resolution=round(field.occupancy_resolution * scale),
        step=field.step / scale,
        shape=shape,
    )


def undetailed(field: FieldConfig) -> FieldConfig:
    """What a fit of `field` begins with: no shell, and cells and strata as coarse as the pyramid."""
    if not field.shape.detail:
        return field
    scale = field.shape.detail / field.shape.resolutions[-1]
    return replace(
        field,
        occupancy_resolution=round(field.occupancy_resolution / scale),
        step=field.step * scale,
        shape=replace(field.shape, detail=0),
    )


def memory_to_fit(config: FitConfig, views: ViewSet) -> int:
    """Bytes that the quality of `config` needs on these views."""
    return memory_needed(resolution_for(config.quality, views, config.field.half_size))


def affordable(config: FitConfig, views: ViewSet, free: int | None) -> str:
    """The quality of `config`, or where `free` bytes are too few the next lower one that they hold; the lowest in any case."""
    lower = list(QUALITIES)[: list(QUALITIES).index(config.quality) + 1][::-1]
    fits = [q for q in lower if free is None or memory_to_fit(replace(config, quality=q), views) <= free]
    return fits[0] if fits else lower[-1]


def resolve(config: FitConfig, views: ViewSet, free: int | None) -> FitConfig:
    """`config` with the field that its quality asks for on these views.

    Args:
        free: bytes of memory on the device of the fit, None if unknown. A quality that needs more gives way to the next lower
            one, with a warning that says what it would need.
    """
    quality = affordable(config, views, free)
    cells = {name: resolution_for(name, views, config.field.half_size) for name in (config.quality, quality)}
    if free is not None and memory_needed(cells[config.quality]) > free:
        logger.warning(
            "quality '%s' needs %.1f GB of memory for views of %d x %d pixels, and %.1f GB are free: '%s' is fitted, which "
            "needs %.1f GB. Free some memory, or make the views smaller",
            config.quality,
            memory_needed(cells[config.quality]) / 1e9,
            views.width,
            views.height,
            (free or 0) / 1e9,
            quality,
            memory_needed(cells[quality]) / 1e9,
        )
    scale = cells[quality] / PLAIN
    soft, hard = config.softness
    return replace(config, quality=quality, field=scaled(config.field, scale), softness=(soft, hard / scale))
