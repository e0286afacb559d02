"""`FitConfig`: every setting of the sparse-view fit and of the field that it fits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from .reading import RUN, check_ranges

QUALITIES = {"draft": 4, "standard": 2, "fine": 1}
"""Pixels of a view that a cell of the shape's finest grid may be wide at the origin, by the quality's name."""
ENCODINGS = ("vm", "hash")


@dataclass(frozen=True)
class EncodingConfig:
    """What an encoding is made of; stored in the header of a saved field.

    Attributes:
        kind: `"vm"` (plain torch, any device) or `"hash"` (tiny-cuda-nn where it serves, see `devices`, else plain torch).
        resolution: of the VM planes, in texels a side.
        channels: components of each VM plane; the encoding has three times as many features.
        levels, log2_table, base_resolution, level_scale: of the hash grid, two features a level. The defaults are those of
            MVDream-threestudio's `mvdream-sd21.yaml`.
    """

    kind: str = "vm"
    resolution: int = 96
    channels: int = 8
    levels: int = 16
    log2_table: int = 19
    base_resolution: int = 16
    level_scale: float = 1.447269237440378

    def __post_init__(self) -> None:
        if self.kind not in ENCODINGS:
            raise ValueError(f"unknown NeRF encoding {self.kind!r}: choose one of {', '.join(ENCODINGS)}")
        sizes = {"resolution": (2, 4096), "channels": (1, 256), "levels": (1, 32), "log2_table": (4, 28)}
        check_ranges(self, sizes | {"base_resolution": (1, 4096), "level_scale": (1, 8)}, "the encoding's")


@dataclass(frozen=True)
class ShapeConfig:
    """What a shape is made of; stored in the header of a saved field.

    Attributes:
        resolutions: cells a side of the pyramid's grids, the finest last.
        detail: cells a side of the lattice of the shell around the surface; 0 for none.
    """

    resolutions: tuple[int, ...] = (16, 32, 64)
    detail: int = 0

    def __post_init__(self) -> None:
        if not self.resolutions or min(self.resolutions) < 4 or max(*self.resolutions, self.detail) > 1024:
            raise ValueError(f"a shape needs grids of at least 4 cells a side, and at most 1024, got {self.resolutions}")


@dataclass(frozen=True)
class FieldConfig:
    """Shape of a field; stored in the header of its file.

    Attributes:
        encoding: of the albedo, see `EncodingConfig`.
        hidden: width of the one hidden layer of the albedo's MLP.
        half_size: the field lives in the box [-half_size, half_size]^3, world units.
        occupancy_resolution: cells a side of the occupancy grid.
        step: length of a sampling stratum along a ray, world units.
        shape: of the signed distance, see `ShapeConfig`.
    """

    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    hidden: int = 32
    half_size: float = 1.0
    occupancy_resolution: int = 64
    step: float = 0.02
    shape: ShapeConfig = field(default_factory=ShapeConfig)

    def __post_init__(self) -> None:
        sizes = {"hidden": (1, 4096), "half_size": (1e-3, 1e3), "occupancy_resolution": (2, 1024), "step": (1e-5, 1e2)}
        check_ranges(self, sizes, "the field's")


@dataclass(frozen=True)
class FitConfig:
    """Settings of `fit_views`.

    Attributes:
        quality: "draft", "standard" or "fine": a cell of the shape's finest grid is at most 4, 2 or 1 pixels of the views wide.
        field: shape of the field at the end of the fit, for views that a finest grid of 64 cells a side is fine enough for;
            `quality` and the views scale it, and the hard end of `softness` with it.
        steps: optimiser steps, unless `seconds` is given.
        seconds: wall-clock budget instead of `steps`. Results then depend on the machine and on what else it does.
        rays_per_step: rays drawn each step; more in proportion once a shape finer than 64 cells gets its detail.
        shape_lr, grid_lr, mlp_lr, light_lr: Adam's learning rates of the signed distance (world units), of the albedo's
            encoding, of its MLP and of the light, all of which decay to a tenth. With a `light_lr` of 0 shade is painted on.
        softness: of the surface at the start and at the end, world units; it hardens exponentially until `HARD_AT` of the fit.
        bending: weight of the mean squared second derivative of the signed distance.
        underside: weight of the volume above surfaces that face down and no view, as a share of the box: they are drawn flat.
        apart: weight of the volume that is no single subject's, as a share of the box; only views with words know of it.
        mask_weight: of the squared error of the opacity against the mask, beside that of the colour.
        color_smoothness: weight at the start of the albedo's mean difference between points one stratum apart.
        plane_variation: weight of the mean squared difference between neighbouring texels of VM planes and lines.
        coarse: (share of the fit, resolution as a share of the final one): VM planes have the resolution of the last entry
            whose share is over.
        prune_after, prune_every: steps before the occupancy grid is first re-measured, and between re-measurements.
        patience: checks of the held-back rays (every `check_every` steps) without progress after which the fit stops early;
            0 never stops.
        seed: of everything random here.
    """

    quality: str = "standard"
    field: FieldConfig = field(default_factory=FieldConfig)
    steps: int = 500
    seconds: float | None = dataclasses.field(default=None, metadata=RUN)
    rays_per_step: int = 1024
    shape_lr: float = 0.01
    grid_lr: float = 0.05
    mlp_lr: float = 0.02
    light_lr: float = 0.02
    softness: tuple[float, float] = (0.1, 0.01)
    bending: float = 2e-4
    underside: float = 0.05
    apart: float = 4.0
    mask_weight: float = 0.1
    color_smoothness: float = 2.0
    plane_variation: float = 0.3
    coarse: tuple[tuple[float, float], ...] = ((0.0, 0.5), (0.3, 1.0))
    prune_after: int = 100
    prune_every: int = 16
    patience: int = 8
    check_every: int = 100
    seed: int = dataclasses.field(default=0, metadata=RUN)

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            raise ValueError(f"unknown quality '{self.quality}' of the fit: choose one of {', '.join(QUALITIES)}")
        if self.steps < 1 or self.rays_per_step < 1:
            raise ValueError(f"a fit needs at least one step and one ray, got steps={self.steps}, rays={self.rays_per_step}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"the budget must be a positive number of seconds, got {self.seconds}")
        if not min(self.softness) > 0:
            raise ValueError(f"the surface's softness must be above 0 world units at both ends of the fit, got {self.softness}")
        if not self.coarse or self.coarse[0][0] != 0 or not all(0 <= a <= 1 and 0 < b <= 1 for a, b in self.coarse):
            raise ValueError(f"the fit's coarse must be pairs of shares, the first from 0 on, got {self.coarse}")
        counts = dict.fromkeys(("steps", "rays_per_step", "prune_after", "prune_every", "check_every"), (1, 10_000_000))
        rates = dict.fromkeys(("shape_lr", "grid_lr", "mlp_lr", "light_lr"), (0, 10))
        weights = ("bending", "underside", "apart", "mask_weight", "color_smoothness", "plane_variation", "patience")
        check_ranges(self, counts | rates | dict.fromkeys(weights, (0, 1e6)), "the fit's")
