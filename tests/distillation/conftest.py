from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gd_core.cameras import orbit_cameras
from gd_core.diffusion import load_unet
from gd_core.nerf import EncodingConfig, FieldConfig, FitConfig, ShapeConfig, fit_views
from gd_core.views import ViewSet
from tests.random_models import random_mvdream

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def sds_golden() -> dict[str, torch.Tensor]:
    return load_file(DATA / "sds_tiny" / "sds.safetensors")


@pytest.fixture(scope="session")
def unet_tiny():
    return load_unet(DATA / "unet_tiny").eval()


@pytest.fixture(scope="session")
def tiny_mvdream(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"), image_size=32)


def sphere_views(radius: float = 0.6, center: tuple = (0.0, 0.0, 0.0), size: int = 32) -> ViewSet:
    """Four views of a red sphere before white."""
    cameras = orbit_cameras()
    origins, directions = cameras.rays(size, size)
    local = origins - torch.tensor(center)
    along = (local * directions).sum(-1)
    masks = ((local.square().sum(-1) - along**2) < radius**2).float()
    images = torch.lerp(torch.ones(3), torch.tensor([0.9, 0.1, 0.1]), masks[..., None])
    return ViewSet(images, masks, cameras, prompt="a red sphere")


@pytest.fixture(scope="session")
def views() -> ViewSet:
    return sphere_views()


@pytest.fixture(scope="session")
def field(views):
    encoding, shape = EncodingConfig(resolution=24, channels=4), ShapeConfig((12, 24))
    config = FieldConfig(encoding, occupancy_resolution=32, step=0.06, shape=shape)
    return fit_views(views, FitConfig(field=config, steps=60, rays_per_step=512))
