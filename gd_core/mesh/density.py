"""The density field on a grid, coarse to fine, and the level of density that is called the surface.

Only the shell around the surface is evaluated at full resolution, as in multi-resolution isosurface extraction
(Mescheder et al. 2019, "Occupancy Networks", section 3.2): a cell whose eight corners are all empty or all solid is not
refined. The grid is stored as `log(density / threshold)`, clamped: a field's density grows about exponentially through the
surface, so that linear interpolation of its logarithm places the surface well inside a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

POINTS_PER_QUERY = 1 << 16  # bounds the memory of one query; larger ones are not faster on a CPU
LOG_LIMIT = 4.0  # log density is clamped to +-4 around the threshold: beyond, its exact value no longer moves the surface
FINEST_WHOLE_GRID = 128  # evaluated everywhere: nothing thicker than a cell of it is overlooked
OPACITY = 0.7  # of a ray that meets the surface; with 0.5 the surface of fitted fields lies a little too far out (docs/mesh.md)
PLATEAU = 0.005  # silhouette agreement within this of the best one counts as just as good


class Field(Protocol):
    """What a mesh is made from: any object with density and colour in a box around the origin, z up (`RadianceField`).

    More attributes are used where a field has them: `config.half_size`, the box's half side in world units (else 1); `device`,
    where it is asked (else the CPU); `kept()`, a context in which it changes no more; and `occupancy`, whose
    `lookup(points) -> [N] bool` says where its density can differ from 0 at all.
    """

    def density(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density in 1 / world unit, at least 0."""
        ...

    def color(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """sRGB colour, 0..1."""
        ...


def half_size(field: Field) -> float:
    """Half the side of the field's box, world units."""
    return float(getattr(getattr(field, "config", None), "half_size", 1.0))


def query(
    field: Field, name: str, points: Float[np.ndarray, "N 3"], tick: Callable[[float], None] | None = None
) -> np.ndarray:
    """What the field's method `name` says of many points in bounded memory, without gradients.

    `tick(fraction done)` is called after each chunk. Raises ValueError when the field answers NaN or infinity.
    """
    function, device = attrgetter(name)(field), getattr(field, "device", "cpu")
    parts = []
    with torch.no_grad():
        for start in range(0, len(points), POINTS_PER_QUERY):
            chunk = torch.from_numpy(np.ascontiguousarray(points[start : start + POINTS_PER_QUERY], dtype=np.float32))
            parts.append(function(chunk.to(device)).detach().float().cpu().numpy())
            if not np.isfinite(parts[-1]).all():
                raise ValueError(
                    f"the field's {name} is NaN or infinite in places: its fit went wrong, "
                    "fit it again with a smaller learning rate or another seed"
                )
            if tick is not None:
                tick(min(1.0, (start + POINTS_PER_QUERY) / len(points)))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def evaluate(field: Field, points: Float[np.ndarray, "N 3"], tick: Callable[[float], None] | None = None) -> np.ndarray:
    """Density of many points, `[N]`; where the field has an occupancy grid, only of those in occupied cells."""
    occupancy = getattr(field, "occupancy", None)
    if occupancy is None:
        return query(field, "density", points, tick).reshape(-1)
    occupied = query(field, "occupancy.lookup", points) > 0
    values = np.zeros(len(points), dtype=np.float32)
    values[occupied] = query(field, "density", points[occupied], tick).reshape(-1)
    return values


def grid_points(indices: np.ndarray, resolution: int, half: float) -> Float[np.ndarray, "N 3"]:
    """World positions of grid corners; index 0 is `-half` and index `resolution` is `+half`."""
    return (2 * half / resolution * indices - half).astype(np.float32)


def automatic_threshold(density: Float[np.ndarray, "n n n"], spacing: float) -> float:
    """The density whose level set has the silhouettes that the field itself would render.

    Args:
        density: the field at grid corners, 1 / world unit. spacing: of the corners, world units.

    Light is sent through the grid along x, y and z. Where more than `OPACITY` of it is absorbed a camera sees the object; a
    solid cut at density t covers the rays whose highest density reaches t. The threshold is the t for which the two
    silhouettes agree best (intersection over union); of equally good ones, the middle on a logarithmic scale.

    Raises ValueError, naming the highest density, when no ray is absorbed as far.
    """
    opaque = np.concatenate([(1 - np.exp(-density.sum(axis) * spacing) > OPACITY).ravel() for axis in range(3)])
    highest = np.concatenate([density.max(axis).ravel() for axis in range(3)])
    if not opaque.any():
        raise ValueError(
            f"the field is transparent: no ray through it loses {OPACITY:.0%} of its light, and its highest density is "
            f"{density.max():.4g}. Fit it for longer, or set a density threshold below that"
        )
    faintest = -np.log(1 - OPACITY) / (spacing * (density.shape[0] - 1))  # opaque only to a ray that crosses the whole box
    candidates = np.geomspace(faintest, highest.max() * 0.999, 128)
    seen = np.sort(highest[opaque])
    unseen = np.sort(highest[~opaque])
    inside = len(seen) - np.searchsorted(seen, candidates)
    outside = len(unseen) - np.searchsorted(unseen, candidates)
    agreement = inside / (len(seen) + outside)
    good = candidates[agreement >= agreement.max() - PLATEAU]
    return float(np.sqrt(good[0] * good[-1]))


def surface_cells(log_density: np.ndarray) -> Bool[np.ndarray, "n n n"]:
    """Cells (one fewer than corners along each axis) whose corners lie on both sides of 0, and their neighbours."""
    solid = log_density > 0
    cells = [
        solid[i : solid.shape[0] - 1 + i, j : solid.shape[1] - 1 + j, k : solid.shape[2] - 1 + k]
        for i in (0, 1)
        for j in (0, 1)
        for k in (0, 1)
    ]
    crossed = np.logical_or.reduce(cells) & ~np.logical_and.reduce(cells)
    return ndimage.binary_dilation(crossed, ndimage.generate_binary_structure(3, 1))


def refine(field: Field, log_density: np.ndarray, threshold: float, tick: Callable[[float], None]) -> np.ndarray:
    """Halve the spacing of the grid: corners of surface cells are evaluated, all others interpolated.

    `tick` may raise, and is called between the steps that take a second on a grid of 512.
    """
    cells = surface_cells(log_density)
    tick(0)
    size = 2 * cells.shape[0] + 1
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(log_density)[None, None], size=(size,) * 3, mode="trilinear", align_corners=True
    )[0, 0].numpy()
    tick(0)
    wanted = np.zeros(fine.shape, dtype=bool)
    children = cells.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    for i in (0, 1):
        for j in (0, 1):
            for k in (0, 1):
                wanted[i : size - 1 + i, j : size - 1 + j, k : size - 1 + k] |= children
    wanted[::2, ::2, ::2] = False  # known from the coarser grid
    tick(0)
    indices = np.argwhere(wanted)
    fine[wanted] = log_ratio(evaluate(field, grid_points(indices, size - 1, half_size(field)), tick), threshold)
    return fine


def log_ratio(density: np.ndarray, threshold: float) -> np.ndarray:
    """log(density / threshold), clamped: positive inside, 0 on the surface, negative outside."""
    ratio = np.maximum(density / threshold, np.exp(-LOG_LIMIT, dtype=np.float64))
    return np.minimum(np.log(ratio), LOG_LIMIT).astype(np.float32)


def density_grid(
    field: Field, resolution: int, threshold: float | None, tick: Callable[[float], None]
) -> tuple[Float[np.ndarray, "n n n"], float, float]:
    """The field on `(resolution + 1)^3` grid corners as log(density / threshold).

    Args:
        resolution: cells along each side of the box, a multiple of 4, at most 512.
        threshold: density of the surface, or None to choose it (`automatic_threshold`).
        tick: called with the fraction done.

    Returns:
        the grid, the threshold, and the highest density met.
    """
    half, halvings = half_size(field), 0
    while resolution >> halvings > FINEST_WHOLE_GRID:
        halvings += 1
    coarse = resolution >> halvings
    corners = np.stack(np.meshgrid(*[np.arange(coarse + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    density = evaluate(field, grid_points(corners, coarse, half), lambda part: tick(part / (halvings + 1)))
    density = density.reshape((coarse + 1,) * 3)
    highest = float(density.max())
    if threshold is None:
        threshold = automatic_threshold(density, 2 * half / coarse)
    elif highest <= threshold:
        raise ValueError(
            f"nothing in the field reaches the density threshold {threshold:g}: its highest density is {highest:.4g}. "
            "Lower the threshold, or leave it at automatic"
        )
    grid = log_ratio(density, threshold)
    for level in range(1, halvings + 1):
        grid = refine(field, grid, threshold, lambda part, level=level: tick((level + part) / (halvings + 1)))
    return grid, threshold, highest
