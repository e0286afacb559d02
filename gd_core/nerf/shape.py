"""The shape of a field: a signed distance on a pyramid of grids, and the density that it stands for.

    sigma(x) = Psi(-d(x) / beta) / beta,    Psi the logistic function

as in VolSDF (Yariv et al. 2106.12052, equations 2 and 3, whose Psi is Laplace's) and NeuS (Wang et al. 2106.10689, section 3.1,
whose density is logistic). beta is how soft the surface is, world units. A distance, unlike a density, can be smooth and have a
sharp surface all the same: bending it costs, so that four views are joined by the smoothest surface that explains them. And
it has normals, by which light falls on it (`lighting.py`).

The distance is the sum of grids from coarse to fine. Coarse ones move much at once, so that a few hundred steps suffice; the
finest starts with what the masks carve. Where the views are finer than these, a shell around the surface adds detail
(`shell.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor, nn

from ..settings.fit import ShapeConfig as ShapeConfig
from .shell import ShellGrid, cells_near_surface

START_INSET = 0.15  # world units from the hull's surface in to where the soft surface starts: rays see some way through
SHELL_REACH = 2  # cells of half the shell's resolution beyond the surface
SEEN = 3.0  # softnesses beyond the surface up to which a ray that only grazes it is stopped
FLAT = 1e-3  # slope in cells, below which it has no direction
THIN = 0.2  # world units of matter from an underside up, below which it may be a plate
GRAZING = 0.05  # cosine between a surface's normal and the direction of a view from which on the view counts as seeing it


class SignedDistanceGrid(nn.Module):
    """Signed distance in the box, negative inside, world units; constant beyond the outermost cells' centres.

    Parameters: `grids`, `[1, 1, r, r, r]` each, axes in the order x, y, z; and those of `shell`, where there is one. Buffer:
    `softness`, beta in world units.
    """

    softness: Float[Tensor, ""]

    def __init__(self, config: ShapeConfig, half_size: float) -> None:
        super().__init__()
        self.half_size = half_size
        self.grids = nn.ParameterList(torch.zeros(1, 1, r, r, r) for r in config.resolutions)
        nn.init.constant_(self.grids[-1], START_INSET)
        self.register_buffer("softness", torch.tensor(0.1))
        self.shell: ShellGrid | None = None
        self._kept: tuple | None = None

    @property
    def spacing(self) -> float:
        """Of the finest grid of the pyramid, world units."""
        return 2 * self.half_size / self.grids[-1].shape[-1]

    @torch.no_grad()
    def add_shell(self, resolution: int, hull: Bool[Tensor, "G G G"]) -> None:
        """Let a lattice of `resolution` cells a side add detail around the surface, at first none. Makes new parameters."""
        half = (resolution // 2,) * 3
        distance = F.interpolate(self.dense(), half, mode="trilinear", align_corners=False)[0, 0]
        self.set_shell(resolution, cells_near_surface(distance, hull, resolution, SHELL_REACH))

    def set_shell(self, resolution: int, cells: Int[Tensor, " C"]) -> None:
        """A shell of these cells (see `ShellGrid`)."""
        self.shell = ShellGrid(resolution, self.half_size, self.grids[-1].shape[-1] / resolution, cells)

    @torch.no_grad()
    def start_from(self, parts: Bool[Tensor, "S G G G"]) -> None:
        """Begin with the signed distance of the nearest part (any resolution), its surface `START_INSET` further in."""
        distances = []
        for part in parts.cpu().numpy():
            filled = np.pad(part, 1)  # what is beyond the box is empty
            distances.append(ndimage.distance_transform_edt(~filled) - ndimage.distance_transform_edt(filled))
        cells = torch.from_numpy(np.min(distances, axis=0)[1:-1, 1:-1, 1:-1]).float()[None, None]
        distance = START_INSET + cells * (2 * self.half_size / parts.shape[-1])
        for grid in self.grids:
            grid.zero_()
        finest = self.grids[-1]
        finest.copy_(F.interpolate(distance, finest.shape[2:], mode="trilinear", align_corners=False))

    def dense(self) -> Float[Tensor, "1 1 r r r"]:
        """The distance at the cell centres of the finest grid."""
        if self._kept is not None:
            return self._kept[0]
        distance = self.grids[-1][0, 0]
        for grid in self.grids[:-1]:
            values = grid[0, 0]
            stretch = interpolation(len(values), len(distance)).to(values)
            # One axis after another, each by a product with a matrix: a fraction of the time of F.interpolate.
            for _ in range(3):
                values = (stretch @ values.flatten(1)).unflatten(1, values.shape[1:]).movedim(0, -1)
            distance = distance + values
        return distance[None, None]

    def slopes(self) -> Float[Tensor, "1 3 r r r"]:
        """How much the distance grows from the cell before to the one behind, world units, along each axis and at the same
        centres; 0 across the box's faces. Points along the normal."""
        if self._kept is not None:
            return self._kept[1]
        distance, size = self.dense()[0], self.grids[-1].shape[-1]
        slopes = []
        for axis in (1, 2, 3):
            change = distance.narrow(axis, 2, size - 2) - distance.narrow(axis, 0, size - 2)
            slopes.append(F.pad(change, [0, 0] * (3 - axis) + [1, 1]))
        return torch.stack(slopes, dim=1)

    def _shell_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """The shell's values, those of their neighbours, and its slopes."""
        if self._kept is not None:
            return self._kept[2]
        values, around = self.shell.tables()
        return values, around, self.shell.slopes(around)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While it is open the grids are not summed anew: for all that is asked between two changes of them."""
        before = self._kept
        if before is None:
            self._kept = self.dense(), self.slopes(), self._shell_tables() if self.shell is not None else None
        try:
            yield
        finally:
            self._kept = before

    def forward(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Distance at points in world units."""
        distance = self._sample(self.dense(), points)[0]
        if self.shell is not None:
            distance = distance + self.shell.sample(self._shell_tables()[0], *self.shell.place(points))
        return distance

    def normals(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Unit outward normals at points in world units; shorter than one where the distance is all but flat."""
        slopes = self._sample(self.slopes(), points)
        if self.shell is not None:
            detail = self.shell.sample(self._shell_tables()[2], *self.shell.place(points))
            slopes = slopes + 2 * self.spacing * detail.T
        return (slopes * self._shortening(*slopes)).T

    def _sample(self, lattice: Float[Tensor, "1 C r r r"], points: Float[Tensor, "N 3"]) -> Float[Tensor, "C N"]:
        where = (points / self.half_size).flip(-1)[None, :, None, None]
        return F.grid_sample(lattice, where, align_corners=False, padding_mode="border")[0, :, :, 0, 0]

    def _shortening(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """One over the length of slopes: a tenth of the time of F.normalize, which is slow along an axis of three."""
        return (x * x + y * y + z * z + (FLAT * self.spacing) ** 2).rsqrt()

    def density(self, distance: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """1 / world unit."""
        return torch.sigmoid(-distance / self.softness) / self.softness

    def bending(self) -> Tensor:
        """Scalar: mean squared second derivative of the distance along the axes, 1 / world unit^2."""
        distance = self.dense()
        bending = sum(distance.diff(n=2, dim=axis).square().mean() for axis in (2, 3, 4)) / self.spacing**4
        return bending if self.shell is None else bending + self.shell.bending(*self._shell_tables()[:2])

    def filled_share(self, cells: Bool[Tensor, "G G G"]) -> Tensor:
        """Scalar: the share of the box, 0..1, that is filled among `cells` of any resolution, as a camera sees it: up to three
        softnesses beyond the surface."""
        size = (self.grids[-1].shape[-1],) * 3
        counted = F.interpolate(cells.to(self.softness)[None, None], size, mode="nearest-exact").flatten()
        filled = torch.sigmoid((SEEN * self.softness - self.dense().flatten()) / self.spacing)
        return counted @ filled / filled.numel()

    def hidden_underside(self, towards: Float[Tensor, "V 3"]) -> Tensor:
        """Scalar: the filled share of the box, 0..1, each cell weighed by how its normal points down and away from every view.

        The weights are taken as given, so that descent pulls such surfaces in and leaves all others where they are. Matter
        thinner than `THIN` is all but left alone: views from above see a table's top, and one with a hole in it, alike.

        Args:
            towards: unit vectors from the box to each of the V views.
        """
        with torch.no_grad():
            x, y, z = slopes = self.slopes()[0, :, 1:-1, 1:-1, 1:-1].flatten(1)
            shorten = self._shortening(x, y, z)
            facing = (towards @ slopes).amax(0) * shorten
            hidden = (1 - facing / GRAZING).clamp(0, 1) * (-z * shorten).clamp(min=0)
            inside = self.dense()[0, 0] < 0
            above = F.pad(inside, (0, round(THIN / self.spacing)))[..., -inside.shape[-1] :]
            hidden = hidden * above[1:-1, 1:-1, 1:-1].flatten()
        filled = torch.sigmoid(-self.dense()[0, 0, 1:-1, 1:-1, 1:-1].flatten() / self.spacing)
        return (hidden @ filled) / self.grids[-1].numel()


@cache
@torch.inference_mode(False)  # it is kept, and whoever asks first may be in that mode
def interpolation(coarse: int, fine: int) -> Float[Tensor, "fine coarse"]:
    """The matrix that takes values at the centres of `coarse` cells to those of `fine` ones over the same length, linearly."""
    return F.interpolate(torch.eye(coarse)[:, None], fine, mode="linear", align_corners=False)[:, 0].T.contiguous()
