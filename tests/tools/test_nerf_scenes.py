"""The NeRF benchmark's scenes: what is drawn is what the surface is."""

import numpy as np
import pytest

from gd_core.cameras import orbit_cameras
from tools.nerf_scenes import mesh_views, surface_of_parts
from tools.tiny.renderer import placed, render
from tools.tiny.scenes import Solid
from tools.tiny.toys import PARTS


@pytest.mark.parametrize("shape", ["mug", "house", "mushroom", "tree", "table"])  # every kind of part among them
def test_the_surface_of_a_toy_has_its_outlines(shape):
    toy, cameras = Solid(shape, "blue", "", 0.8, (0.05, -0.1, 0.0), 0.4), orbit_cameras(4, [0.0, 20.0, 40.0, -20.0])
    drawn = render([toy], cameras, 96)[1][:, 0] > 0.5
    outlined = mesh_views(surface_of_parts([toy]), cameras, 96, "world", 0.0)[1] > 0.5
    iou = (drawn & outlined).sum((1, 2)) / (drawn | outlined).sum((1, 2))
    assert iou.min() > 0.995


def test_the_surface_of_a_mug_has_nothing_below_its_filling():
    mug = Solid("mug", "blue", "", 0.8, (0.05, -0.1, 0.0), 0.4)
    center, _, scale = placed(PARTS["mug"][0], mug)
    x, y, z = ((surface_of_parts([mug]).triangles_center - center) / scale).T
    within = np.hypot(x, y) < 0.9
    assert not (within & (abs(z) < 0.45)).any()
    assert (within & (z > 0.5)).any() and (within & (z < -0.9)).any()  # filling and bottom
