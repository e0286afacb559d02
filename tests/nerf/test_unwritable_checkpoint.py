"""A checkpoint that cannot be written is a warning; the fit goes on to its end."""

import pytest
import torch

from gd_core.cameras import orbit_cameras
from gd_core.nerf import FitConfig, fit_views
from gd_core.views import ViewSet


@pytest.fixture(scope="module")
def views():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    masks = (x**2 + y**2 < 0.2).float().expand(4, 32, 32).clone()
    images = 1 - masks[..., None] * torch.tensor([0.1, 0.9, 0.9])
    return ViewSet(images, masks, orbit_cameras(4))


@pytest.mark.parametrize("place", ["missing/folder/x.safetensors", "taken.safetensors", "file/x.safetensors"])
def test_an_unwritable_checkpoint_is_a_warning(views, tmp_path, caplog, place):
    (tmp_path / "taken.safetensors.tmp").mkdir()
    (tmp_path / "file").touch()
    field = fit_views(views, FitConfig(steps=3), resume=tmp_path / place)
    assert "no checkpoint can be written" in caplog.text
    assert field.provenance["fit"]["steps"] == 3 and not (tmp_path / place).exists()
