"""Analytic views that every NeRF test fits or carves."""

import pytest
import torch

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.nerf import EncodingConfig, FieldConfig, FitConfig, ShapeConfig
from gd_core.views import ViewSet

SPHERES = (((-0.4, 0.0, 0.0), 0.35, (0.9, 0.1, 0.1)), ((0.45, 0.1, 0.0), 0.3, (0.1, 0.2, 0.9)))
SMALL = FieldConfig(
    EncodingConfig(resolution=32, channels=4), hidden=16, occupancy_resolution=32, step=0.06, shape=ShapeConfig((8, 16, 32))
)
QUICK = FitConfig(field=SMALL, steps=80, rays_per_step=256, prune_after=20, softness=(0.1, 0.04), bending=1e-4)


def draw(cameras: Cameras, size: int = 32, spheres=SPHERES, background: float = 1.0) -> ViewSet:
    """Plain spheres (centre, radius, colour), ray-traced."""
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays(size, size))
    nearest = torch.full((len(origins),), float("inf"))
    image = torch.full((len(origins), 3), background)
    for centre, radius, color in spheres:
        offset = origins - torch.tensor(centre)
        along = (offset * directions).sum(1)
        root = along**2 - offset.square().sum(1) + radius**2
        t = torch.where(root > 0, -along - root.clamp(min=0).sqrt(), float("inf"))
        image[t < nearest] = torch.tensor(color)
        nearest = torch.minimum(nearest, t)
    shape = (len(cameras), size, size)
    return ViewSet(image.reshape(*shape, 3), nearest.isfinite().float().reshape(shape), cameras)


@pytest.fixture(scope="session")
def views() -> ViewSet:
    return draw(orbit_cameras(4))


@pytest.fixture
def quick() -> FitConfig:
    return QUICK
