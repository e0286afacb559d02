"""The occupancy grid: where samples are worth taking. Carved from the masks, pruned by the field's own density."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..devices import NERFACC, backend
from .compositing import RaySamples, from_rays, pack
from .hull import cell_centres

HIDDEN_MARGIN = 3  # strata behind the first blocked one that are sampled all the same
MAX_OPTICAL_DEPTH = 9.0  # exp(-9): a ten-thousandth of the light is left


class OccupancyGrid(nn.Module):
    """G^3 cells over the box [-half_size, half_size]^3, axes in the order x, y, z.

    Buffers:
        hull: `[G, G, G]` bool, where matter may be at all.
        density: `[G, G, G]` float32, a decaying maximum of the densities measured in each cell, 1 / world unit.
        latest: `[G, G, G]` float32, the last density measured.
        occupied: `[G, G, G]` bool, where rays are sampled; always within `hull`.
        bounds: `[2, 3]` float32, lowest and highest corner of what is occupied, world units.
    """

    hull: Bool[Tensor, "G G G"]
    density: Float[Tensor, "G G G"]
    latest: Float[Tensor, "G G G"]
    occupied: Bool[Tensor, "G G G"]
    bounds: Float[Tensor, "2 3"]

    def __init__(self, resolution: int, half_size: float) -> None:
        super().__init__()
        self.half_size = half_size
        self._nerfacc_grids: dict = {}  # by device, not a submodule: its buffers are no part of a saved field
        shape = (resolution,) * 3
        self.register_buffer("hull", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("latest", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("bounds", half_size * torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))

    @property
    def resolution(self) -> int:
        return self.hull.shape[0]

    @torch.no_grad()
    def resized(self, resolution: int) -> OccupancyGrid:
        """The same in cells of another size, each as the nearest one was."""
        if resolution == self.resolution:
            return self
        made = OccupancyGrid(resolution, self.half_size).to(self.hull.device)
        for name in ("hull", "density", "latest", "occupied"):
            old = getattr(self, name)
            new = nn.functional.interpolate(old.float()[None, None], (resolution,) * 3, mode="nearest-exact")[0, 0]
            getattr(made, name).copy_(new.to(old.dtype))
        made._set_occupied(made.occupied.clone())
        return made

    def set_hull(self, hull: Bool[Tensor, "G G G"]) -> None:
        """Restrict matter to `hull` and forget the densities measured so far."""
        self.hull.copy_(hull)
        self.density.zero_()
        self.latest.zero_()
        self._set_occupied(self.hull)

    @torch.no_grad()
    def update(
        self, density_at: Callable[[Tensor], Tensor], threshold: float, generator: torch.Generator, decay: float = 0.95
    ) -> None:
        """Measure the density at a random point of every hull cell and keep the cells above `threshold` (1 / world unit).

        nerfacc's rule: cell = max(decay * cell, density). `generator` is on the CPU.
        """
        cells = self.hull.flatten().nonzero()[:, 0]
        jitter = torch.rand(len(cells), 3, generator=generator).to(cells.device) - 0.5
        points = cell_centres(self.resolution, cells.device).index_select(0, cells) + jitter * 2 / self.resolution
        values = torch.cat([density_at(p) for p in (points * self.half_size).split(65536)])
        density, latest = self.density.view(-1), self.latest.view(-1)
        density[cells] = torch.maximum(density[cells] * decay, values)
        latest[cells] = values
        self._set_occupied(self.hull & (self.density > threshold))

    def _set_occupied(self, occupied: Bool[Tensor, "G G G"]) -> None:
        self.occupied.copy_(occupied)
        cells = occupied.nonzero()
        if len(cells):
            corners = torch.stack((cells.amin(0), cells.amax(0) + 1))
            self.bounds.copy_((corners * (2 / self.resolution) - 1) * self.half_size)
        else:
            self.bounds.zero_()

    def lookup(self, points: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether the cell of each point is occupied; outside the box nothing is."""
        cell = ((points / self.half_size + 1) * (0.5 * self.resolution)).floor().long()
        inside = ((cell >= 0) & (cell < self.resolution)).all(-1)
        x, y, z = cell.clamp(0, self.resolution - 1).unbind(-1)
        return self.occupied[x, y, z] & inside

    @torch.no_grad()
    def march(
        self,
        origins: Float[Tensor, "R 3"],
        directions: Float[Tensor, "R 3"],
        step: float,
        generator: torch.Generator | None = None,
        span: tuple[Float[Tensor, " R"], Float[Tensor, " R"]] | None = None,
    ) -> RaySamples:
        """One sample in each stratum of length `step` whose sample falls in an occupied cell that the ray can still see.

        What lies behind cells whose measured density already stops the ray is left out: it could add nothing.

        Args:
            origins, directions: `[R, 3]` world units, directions of length one.
            step: world units.
            generator: on the CPU; puts a ray's samples at one random place in their strata. None: in the middle.
            span: distances between which the rays need to be looked at, if known; else where they cross `bounds`.
        """
        num_rays = len(origins)
        near, far = span or intersect_box(origins, directions, self.bounds)
        if generator is None:
            offset = torch.full_like(near, 0.5)
        else:
            offset = torch.rand(num_rays, generator=generator).to(near.device)
        if backend(NERFACC, origins.device).serves:
            return self._march_nerfacc(origins, directions, step, near + (offset - 0.5) * step, far)
        hits = None
        if span is None:  # half of a picture looks past the box
            hits = (near < far).nonzero()[:, 0]
            origins, directions = origins.index_select(0, hits), directions.index_select(0, hits)
            near, far, offset = (values.index_select(0, hits) for values in (near, far, offset))
        strata = max(int((far - near).max() / step) if len(near) else 0, HIDDEN_MARGIN) + 1
        t = torch.arange(strata, device=near.device, dtype=near.dtype) * step + (near + offset * step)[:, None]
        scale = 0.5 * self.resolution / self.half_size
        cell = torch.zeros(t.shape, dtype=torch.int32, device=t.device)
        for axis in range(3):  # an axis at a time: contiguous arithmetic is what makes this cheap
            start, slope = origins[:, axis] * scale + 0.5 * self.resolution, directions[:, axis] * scale
            cell = cell * self.resolution + torch.addcmul(start[:, None], slope[:, None], t).to(torch.int32)
        cell = cell.clamp_(0, self.resolution**3 - 1).view(-1)
        keep = self.occupied.view(-1).index_select(0, cell).view_as(t) & (t < far[:, None])
        blocking = self.latest.view(-1).index_select(0, cell).view_as(t) * keep
        hidden = blocking.cumsum(1) > MAX_OPTICAL_DEPTH / step
        hidden = nn.functional.pad(hidden, (HIDDEN_MARGIN, -HIDDEN_MARGIN))
        samples = pack(keep & ~hidden, t, step)
        return samples if hits is None else from_rays(hits.index_select(0, samples.ray), samples.t, step, num_rays)

    def _march_nerfacc(self, origins: Tensor, directions: Tensor, step: float, near: Tensor, far: Tensor) -> RaySamples:
        """nerfacc's traversal of the same cells; it does not skip what is hidden."""
        import nerfacc  # noqa: PLC0415  only where CUDA and the package are there

        grid = self._nerfacc_grids.get(origins.device)
        if grid is None:
            box = [-self.half_size] * 3 + [self.half_size] * 3
            grid = nerfacc.OccGridEstimator(box, resolution=self.resolution, levels=1).to(origins.device)
            self._nerfacc_grids[origins.device] = grid
        grid.binaries = self.occupied[None]  # not a copy
        ray, starts, ends = grid.sampling(
            origins, directions, t_min=near.clamp(min=0), t_max=torch.maximum(far, near), render_step_size=step
        )
        return from_rays(ray, (starts + ends) / 2, step, len(origins))


def intersect_box(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], bounds: Float[Tensor, "2 3"]
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Slab test: distances at which rays enter and leave a box, from 0 on; far <= near for a ray that misses."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    a, b = (bounds[0] - origins) / safe, (bounds[1] - origins) / safe
    near = torch.minimum(a, b).amax(-1).clamp(min=0)
    return near, torch.maximum(a, b).amin(-1)
