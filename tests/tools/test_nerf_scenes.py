"""The NeRF benchmark's scenes: what is drawn is what the surface is."""

import pytest

from gd_core.cameras import orbit_cameras
from tools.nerf_scenes import mesh_views, surface_of_parts
from tools.tiny.renderer import render
from tools.tiny.scenes import Solid


@pytest.mark.parametrize("shape", ["mug", "house", "mushroom", "tree", "cat"])  # every kind of part among them
def test_the_surface_of_a_toy_has_its_outlines(shape):
    toy, cameras = Solid(shape, "blue", "", 0.8, (0.05, -0.1, 0.0), 0.4), orbit_cameras(3, [0.0, 20.0, 40.0])
    drawn = render([toy], cameras, 96)[1][:, 0] > 0.5
    surface = surface_of_parts([toy], cells=112)
    assert surface.is_watertight and surface.volume > 0
    outlined = mesh_views(surface, cameras, 96, "world", 0.0)[1] > 0.5
    assert (drawn & outlined).sum() / (drawn | outlined).sum() > 0.97
