"""Scenes of analytic solids for the mesh tests and benchmarks: their field, their true surface, their pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from gd_core.cameras import Cameras
from gd_core.views import ViewSet

LIGHT = torch.nn.functional.normalize(torch.tensor([0.4, -0.5, 0.8]), dim=0)


@dataclass(frozen=True)
class Solid:
    """`kind` is "sphere", "cube", "box" or "cylinder" (upright); `color` sRGB 0..1.

    `size`: the radius or half side, of a box the three half sides.
    """

    kind: str
    center: tuple[float, float, float]
    size: float | tuple[float, float, float]
    color: tuple[float, float, float]

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance `[N]`, negative inside."""
        local = points - torch.tensor(self.center)
        if self.kind == "sphere":
            return local.norm(dim=1) - self.size
        if self.kind in ("cube", "box"):
            outside = local.abs() - torch.tensor(self.size)
            return outside.clamp(min=0).norm(dim=1) + outside.amax(1).clamp(max=0)
        sides = torch.stack((local[:, :2].norm(dim=1) - 0.7 * self.size, local[:, 2].abs() - self.size), dim=1)
        return sides.clamp(min=0).norm(dim=1) + sides.amax(1).clamp(max=0)


@dataclass(frozen=True)
class SolidScene:
    """A field made of solids: density rises from 0 to `peak` (1 / world unit) over about four `softness` (world units)."""

    solids: tuple[Solid, ...]
    peak: float = 100.0
    softness: float = 0.005

    def distance(self, points: Tensor) -> Tensor:
        return torch.stack([solid.distance(points) for solid in self.solids]).amin(0)

    def density(self, points: Tensor) -> Tensor:
        return self.peak * torch.sigmoid(-self.distance(points) / self.softness)

    def color(self, points: Tensor) -> Tensor:
        """The colour of the nearest solid."""
        nearest = torch.stack([solid.distance(points) for solid in self.solids]).argmin(0)
        return torch.tensor([solid.color for solid in self.solids])[nearest]

    def surface(self, resolution: int = 160) -> trimesh.Trimesh:
        """The true surface, at half density."""
        axis = torch.linspace(-1, 1, resolution + 1)
        points = torch.cartesian_prod(axis, axis, axis)
        distance = torch.cat([self.distance(chunk) for chunk in points.split(1 << 18)]).view((resolution + 1,) * 3)
        vertices, faces, _, _ = marching_cubes(distance.numpy(), 0.0)
        return trimesh.Trimesh(vertices * 2 / resolution - 1, faces, process=False)

    def views(self, cameras: Cameras, size: int) -> ViewSet:
        """Pictures of the solids by sphere tracing, with one lamp, on white, 2 x 2 samples a pixel."""
        origins, directions = (rays.reshape(-1, 3) for rays in cameras.rays(2 * size, 2 * size))
        travelled = torch.full((len(origins),), 1.2)
        moving = torch.arange(len(origins))
        for _ in range(96):
            step = self.distance(origins[moving] + travelled[moving, None] * directions[moving])
            travelled[moving] += step
            moving = moving[(step > 1e-4) & (travelled[moving] < 5)]
        hit = travelled < 5
        points = origins[hit] + travelled[hit, None] * directions[hit]
        steps = 1e-3 * torch.eye(3)
        slopes = torch.stack([self.distance(points + step) - self.distance(points - step) for step in steps], dim=1)
        shade = 0.65 + 0.35 * (torch.nn.functional.normalize(slopes, dim=1) @ LIGHT).clamp(min=0)
        colors = torch.ones(len(origins), 3)
        colors[hit] = self.color(points) * shade[:, None]
        shape = (len(cameras), size, 2, size, 2)
        return ViewSet(colors.view(*shape, 3).mean((2, 4)), hit.float().view(shape).mean((2, 4)), cameras)


RED, GREEN, BLUE, YELLOW = (0.85, 0.1, 0.1), (0.1, 0.7, 0.2), (0.15, 0.2, 0.85), (0.9, 0.85, 0.15)

THREE_SOLIDS = SolidScene(
    (
        Solid("cube", (-0.45, -0.1, 0.0), 0.27, RED),
        Solid("sphere", (0.42, -0.2, 0.0), 0.34, BLUE),
        Solid("cylinder", (0.05, 0.5, 0.1), 0.32, GREEN),
    )
)
STACK = SolidScene((Solid("cube", (0.0, 0.0, -0.3), 0.35, YELLOW), Solid("sphere", (0.0, 0.0, 0.32), 0.3, BLUE)))
SCENES = {"three solids": THREE_SOLIDS, "stack": STACK}
CHAIR = SolidScene(
    (
        Solid("box", (0.0, 0.0, 0.0), (0.4, 0.4, 0.06), RED),
        Solid("box", (0.0, 0.34, 0.4), (0.4, 0.06, 0.35), BLUE),
        *(Solid("box", (x, y, -0.36), (0.06, 0.06, 0.32), GREEN) for x in (-0.34, 0.34) for y in (-0.34, 0.34)),
    )
)
RABBIT = SolidScene(
    (
        Solid("sphere", (0.0, 0.1, -0.3), 0.38, YELLOW),
        Solid("sphere", (0.0, -0.22, 0.18), 0.25, RED),
        *(Solid("box", (x, -0.15, 0.6), (0.07, 0.04, 0.26), BLUE) for x in (-0.13, 0.13)),
        Solid("sphere", (0.0, 0.5, -0.3), 0.13, GREEN),
    )
)
HIDING = {"chair": CHAIR, "rabbit": RABBIT}  # shapes that hide parts of themselves from every view


def psnr(image: np.ndarray | Tensor, reference: np.ndarray | Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in 0..1."""
    error = np.mean((np.asarray(image, dtype=np.float64) - np.asarray(reference, dtype=np.float64)) ** 2)
    return float(-10 * np.log10(max(error, 1e-12)))
