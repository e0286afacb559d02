"""The finest part of a shape: a correction of its signed distance, stored only around its surface.

A lattice of 256^3 is 17 million values, of which a surface needs half a million. Here are kept the vertices all of whose cells
are in the shell; beyond it the correction is zero, so that it is continuous. All that is asked of the lattice is a gather of
rows, forward and backward: what a vertex adds to its neighbours is what those, as neighbours, take from it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

AXES = 3
CORNERS = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])


class ShellGrid(nn.Module):
    """Correction of the distance at the vertices of a lattice of `resolution`^3 cells over the box, world units.

    Parameter: `values`, `[K]`, in units of `scale` world units. Buffers: `cells`, `[C]` int64, the cells of the shell, x
    slowest; the rest follows from them and is not saved.
    """

    cells: Int[Tensor, " C"]
    lookup: Int[Tensor, " r3"]
    corners: Int[Tensor, "C1 8"]
    neighbours: Int[Tensor, "6 K"]

    def __init__(self, resolution: int, half_size: float, scale: float, cells: Int[Tensor, " C"]) -> None:
        super().__init__()
        self.resolution, self.half_size, self.scale = resolution, half_size, scale
        self.register_buffer("cells", cells)
        inner, corners, neighbours = lattice_tables(cells, resolution)
        self.values = nn.Parameter(torch.zeros(inner, device=cells.device))
        lookup = torch.full((resolution**3,), len(cells), dtype=torch.int32, device=cells.device)
        lookup[cells] = torch.arange(len(cells), dtype=torch.int32, device=cells.device)
        for name, table in (("lookup", lookup), ("corners", corners), ("neighbours", neighbours)):
            self.register_buffer(name, table, persistent=False)

    @property
    def spacing(self) -> float:
        """World units."""
        return 2 * self.half_size / self.resolution

    def tables(self) -> tuple[Float[Tensor, " K1"], Float[Tensor, "6 K"]]:
        """The correction of every vertex, world units, a zero at the end for all others; and that of its six neighbours."""
        return neighbour_tables(self.values * self.scale, self.neighbours)

    def slopes(self, around: Float[Tensor, "6 K"]) -> Float[Tensor, "K1 3"]:
        """How much the correction grows along each axis, world units a world unit."""
        slopes = (around[1::2] - around[::2]).T / (2 * self.spacing)
        return torch.cat((slopes, slopes.new_zeros(1, AXES)))

    def bending(self, values: Float[Tensor, " K1"], around: Float[Tensor, "6 K"]) -> Tensor:
        """Scalar: squared second derivative along the axes, 1 / world unit^2, its mean over the box."""
        bend = around[::2] + around[1::2] - 2 * values[:-1]
        return bend.square().sum() / (self.resolution**3 * self.spacing**4)

    def place(self, points: Float[Tensor, "N 3"]) -> tuple[Int[Tensor, " N8"], Float[Tensor, "N 8"]]:
        """Rows of the eight vertices around each point, and their weights."""
        where = (points / self.half_size + 1).mul_(0.5 * self.resolution).clamp_(0, self.resolution - 1e-3)
        first = where.floor()
        x, y, z = (where - first).unbind(1)
        i, j, k = first.to(torch.int32).unbind(1)
        cell = self.lookup.index_select(0, (i * self.resolution + j) * self.resolution + k)
        low = torch.stack((1 - x, x), 1)
        plane = (low[:, :, None] * torch.stack((1 - y, y), 1)[:, None]).flatten(1)
        weights = (plane[:, :, None] * torch.stack((1 - z, z), 1)[:, None]).flatten(1)
        return self.corners.index_select(0, cell).view(-1), weights

    def sample(
        self, table: Float[Tensor, "K1 ..."], rows: Int[Tensor, " N8"], weights: Float[Tensor, "N 8"]
    ) -> Float[Tensor, "N ..."]:
        """What a table of vertices holds, between them."""
        picked = table.index_select(0, rows).unflatten(0, weights.shape)
        return torch.einsum("nk,nk...->n...", weights, picked)


def neighbour_tables(
    values: Float[Tensor, " K"], neighbours: Int[Tensor, "6 K"]
) -> tuple[Float[Tensor, " K1"], Float[Tensor, "6 K"]]:
    """`values` with a zero at the end, and `values[neighbours]`."""
    return torch.cat((values, values.new_zeros(1))), _Neighbours.apply(values, neighbours)


class _Neighbours(torch.autograd.Function):
    """`values[neighbours]`, a zero standing for vertices that there are not; its gradient is a gather as well."""

    @staticmethod
    def forward(ctx, values: Tensor, neighbours: Tensor) -> Tensor:
        ctx.save_for_backward(neighbours)
        padded = torch.cat((values, values.new_zeros(1)))
        return torch.stack([padded.index_select(0, rows) for rows in neighbours])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (neighbours,) = ctx.saved_tensors
        padded = torch.cat((gradient, gradient.new_zeros(len(gradient), 1)), 1)
        total = torch.zeros_like(gradient[0])
        for side in range(2 * AXES):
            total += padded[side].index_select(0, neighbours[side ^ 1])
        return total, None


def lattice_tables(cells: Int[Tensor, " C"], resolution: int) -> tuple[int, Int[Tensor, "C1 8"], Int[Tensor, "6 K"]]:
    """The number of vertices with all of their eight cells among `cells`, and where to find them.

    Returns:
        K; the rows of each cell's corners, those that are not kept K, and a last cell of such; the rows of each vertex's
        neighbours before and behind along x, y and z, K where there is none.
    """
    side = resolution + 1
    strides = torch.tensor([side * side, side, 1], device=cells.device)
    position = torch.stack((cells // resolution**2, cells // resolution % resolution, cells % resolution), 1)
    # Not `@`: CUDA has no product of matrices of integers.
    corner = (position * strides).sum(1)[:, None] + (CORNERS.to(cells.device) * strides).sum(1)
    vertices, row, times = corner.view(-1).unique(return_inverse=True, return_counts=True)
    kept = times == 8
    inner = int(kept.sum())
    number = torch.where(kept, kept.cumsum(0) - 1, inner).to(torch.int32)
    corners = torch.cat((number[row].view(-1, 8), number.new_full((1, 8), inner)))
    own = vertices[kept]
    found = []
    for stride in strides:
        for sign in (-1, 1):
            wanted = own + sign * stride  # a kept vertex is never on the box's faces, so it has all its neighbours
            found.append(number[torch.searchsorted(vertices, wanted)])
    return inner, corners, torch.stack(found)


def cells_near_surface(
    distance: Float[Tensor, "n n n"], hull: Bool[Tensor, "h h h"], resolution: int, reach: int
) -> Int[Tensor, " C"]:
    """The cells of a lattice that a surface may move through.

    Args:
        distance: signed, at the cell centres of a coarser lattice over the same box. hull: where matter may be.
        reach: cells of the coarser lattice that the shell goes beyond the surface.
    """
    inside = (distance < 0).float()[None, None]
    pool = nn.functional.max_pool3d
    around = pool(inside, 3, 1, 1) + pool(-inside, 3, 1, 1) > 0  # both signs among a cell and its neighbours
    near = pool(around.float(), 2 * reach + 1, 1, reach) * pool(_resized(hull.float()[None, None], around.shape[-1]), 3, 1, 1)
    return (_resized(near, resolution) > 0).flatten().nonzero()[:, 0]


def _resized(grid: Float[Tensor, "1 1 a a a"], side: int) -> Float[Tensor, "1 1 b b b"]:
    """The nearest cell's value."""
    return nn.functional.interpolate(grid, (side,) * 3, mode="nearest-exact")
