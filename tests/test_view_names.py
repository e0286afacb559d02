"""Views by name: Hunyuan3D's azimuths against ours, and pictures on white."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gd_core.cameras import orbit_cameras
from gd_core.view_names import AZIMUTH_FROM_FRONT, centred_on_white, named_pictures, views_by_name
from gd_core.views import ViewSet
from tools.tiny.renderer import render
from tools.tiny.scenes import Solid

HUNYUAN_ORDER = ["front", "left", "back", "right"]  # of Hunyuan3Dv2ConditioningMultiView's inputs


def blank_views(cameras, size: int = 16) -> ViewSet:
    mask = torch.zeros(len(cameras), size, size)
    mask[:, 4:9, 5:8] = 1
    return ViewSet(torch.rand(len(cameras), size, size, 3, generator=torch.Generator().manual_seed(0)), mask, cameras)


def test_the_table_is_in_hunyuans_order_and_has_left_where_the_front_points_to_the_left():
    """The object looks to -y, where its front's camera stands, and has a red nose there. In "left" the nose is on the left."""
    assert list(AZIMUTH_FROM_FRONT) == HUNYUAN_ORDER
    nose = Solid("sphere", "red", "", 0.2, (0.0, -0.5, 0.0), 0.0)
    body = Solid("sphere", "blue", "", 0.5, (0.0, 0.0, 0.0), 0.0)
    cameras = orbit_cameras(4, 0.0, 90.0)
    images, coverage = render([nose, body], cameras, 64)
    chosen = views_by_name(ViewSet(images, coverage.sum(1).clamp(0, 1), cameras), front_azimuth_deg=0.0)
    column = torch.arange(64.0)
    where = {name: coverage[index, 0].sum(0) for name, index in chosen.items()}
    assert where["back"].sum() == 0 < where["front"].sum()
    assert (
        (where["left"] * column).sum() / where["left"].sum() < 24 < 40 < (where["right"] * column).sum() / where["right"].sum()
    )
    assert cameras.positions[chosen["left"]][0] > 2.9  # azimuth 90: +x, the own left of what looks to -y with +z up


@pytest.mark.parametrize(
    ("front", "indices"), [(90, [0, 1, 2, 3]), (0, [3, 0, 1, 2]), (180, [1, 2, 3, 0]), (-90, [2, 3, 0, 1])]
)
def test_every_side_can_be_the_front(front, indices):
    assert list(views_by_name(blank_views(orbit_cameras(4)), front).values()) == indices


@given(st.floats(-720, 720), st.floats(-19, 19), st.integers(1, 3))
def test_the_nearest_views_are_taken(front, off, more):
    views = blank_views(orbit_cameras(4 * more, 15.0, front + off / more))
    assert sorted(views_by_name(views, front).values()) == [more * k for k in range(4)]


@pytest.mark.parametrize(
    "cameras", [orbit_cameras(3), orbit_cameras(4, 15.0, 45.0), orbit_cameras(2), orbit_cameras(4, 15.0, 90.0, 180.0)]
)
def test_a_side_that_no_view_shows_is_named(cameras):
    with pytest.raises(ValueError, match="no view shows the object's (front|left|back|right)"):
        views_by_name(blank_views(cameras), 90.0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(64, 200), st.floats(0, 0.8))
def test_the_object_is_centred_with_its_margin(height, width, size, margin):
    mask = torch.zeros(64, 64)
    mask[10 : 10 + height, 3 : 3 + width] = 1
    picture, cut = centred_on_white(torch.zeros(64, 64, 3), mask, size, margin)
    assert picture.shape == (size, size, 3) and cut.shape == (size, size)
    rows, columns = (cut > 0.5).any(1).nonzero()[:, 0], (cut > 0.5).any(0).nonzero()[:, 0]
    for inside in (rows, columns):
        assert abs(int(inside[0]) - (size - 1 - int(inside[-1]))) <= 1
    assert max(len(rows), len(columns)) == round(size * (1 - margin))
    assert torch.allclose(picture, (1 - cut)[..., None].expand(-1, -1, 3), atol=1e-4)  # black before white


def test_an_empty_view_is_named():
    views = blank_views(orbit_cameras(4))
    views.masks[2] = 0
    with pytest.raises(ValueError, match="the object's back: a view shows no object"):
        named_pictures(views)
