"""The signed distance grid: what its pyramid sums to, how density follows, and what starting from a hull means."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.cameras import orbit_cameras
from gd_core.nerf import ShapeConfig
from gd_core.nerf.hull import cell_centres
from gd_core.nerf.shape import START_INSET, SignedDistanceGrid, interpolation


@torch.no_grad()
def set_distance(shape: SignedDistanceGrid, distance: torch.Tensor) -> None:
    shape.grids[-1].copy_(distance.view_as(shape.grids[-1]))


def ball(resolution: int = 32, radius: float = 0.5, softness: float = 0.01) -> SignedDistanceGrid:
    shape = SignedDistanceGrid(ShapeConfig((resolution,)), 1.0)
    set_distance(shape, cell_centres(resolution, torch.device("cpu")).norm(dim=1) - radius)
    shape.softness.fill_(softness)
    return shape


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 20), st.integers(4, 20))
def test_interpolation_is_torchs(coarse, fine):
    values = torch.randn(coarse, generator=torch.Generator().manual_seed(coarse * 100 + fine))
    expected = F.interpolate(values[None, None], fine, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(interpolation(coarse, fine) @ values, expected)


def test_who_asks_first_in_inference_mode_leaves_others_their_gradients():
    with torch.inference_mode():
        interpolation(3, 7)
    assert not interpolation(3, 7).is_inference()


def test_the_pyramid_sums_to_what_trilinear_interpolation_gives():
    shape = SignedDistanceGrid(ShapeConfig((5, 8, 20)), 1.0)
    for grid in shape.grids:
        torch.nn.init.normal_(grid, generator=torch.Generator().manual_seed(len(grid[0, 0])))
    expected = sum(F.interpolate(g, (20,) * 3, mode="trilinear", align_corners=False) for g in shape.grids)
    torch.testing.assert_close(shape.dense(), expected)


def test_what_is_kept_is_the_sum_and_forgotten_after_an_error():
    shape = ball()
    with pytest.raises(KeyError), shape.kept():
        assert shape.dense() is shape.dense()
        raise KeyError
    set_distance(shape, torch.ones(32**3))
    assert (shape(torch.zeros(1, 3)) == 1).all()


def test_a_point_reads_the_cell_that_it_lies_in_axes_in_the_order_x_y_z():
    shape = SignedDistanceGrid(ShapeConfig((8,)), 2.0)
    centres = cell_centres(8, torch.device("cpu"))
    set_distance(shape, centres @ torch.tensor([1.0, 10.0, 100.0]))
    torch.testing.assert_close(shape(2 * centres), centres @ torch.tensor([1.0, 10.0, 100.0]))


def test_density_is_half_of_its_most_on_the_surface_and_makes_the_inside_opaque():
    shape = ball()
    inside, surface, outside = shape.density(torch.tensor([-0.2, 0.0, 0.2]))
    assert surface == pytest.approx(50) and inside == pytest.approx(100, rel=1e-3) and outside < 1e-3


def test_a_hull_starts_with_a_soft_surface_further_in():
    hull = torch.zeros(16, 16, 16, dtype=torch.bool)
    hull[4:12, 4:12, 4:12] = True
    shape = SignedDistanceGrid(ShapeConfig((4, 16)), 1.0)
    torch.nn.init.ones_(shape.grids[0])
    shape.start_from(hull[None])
    distance = shape.dense()[0, 0].detach()
    assert (distance[~hull] > START_INSET + 0.1).all()
    torch.testing.assert_close(distance[8, 8, 2:8], START_INSET + torch.tensor([2, 1, -1, -2, -3, -4]) / 8)
    optical_depth = float((shape.density(distance[8, 8, 4:6]) * 2 / 16).sum())
    assert 0.5 < optical_depth < 2  # a quarter of a unit into the hull a ray is neither free nor stopped


def test_a_hull_that_fills_the_box_ends_at_its_faces():
    shape = SignedDistanceGrid(ShapeConfig((16,)), 1.0)
    shape.start_from(torch.ones(1, 16, 16, 16, dtype=torch.bool))
    along = shape.dense()[0, 0, 8, 8].detach()
    torch.testing.assert_close(along[:4], START_INSET - torch.tensor([1, 2, 3, 4]) / 8)
    torch.testing.assert_close(along, along.flip(0))


def test_parts_that_touch_start_apart_and_what_is_filled_between_them_is_pulled_out():
    parts = torch.zeros(2, 16, 16, 16, dtype=torch.bool)
    parts[0, 2:8, 4:12, 4:12] = parts[1, 8:14, 4:12, 4:12] = True
    shape = SignedDistanceGrid(ShapeConfig((16,)), 1.0)
    shape.start_from(parts)
    along = shape.dense()[0, 0, :, 8, 8].detach()
    assert along[7] > 0 and along[8] > 0 and along[4] < 0 and along[11] < 0
    cells = torch.zeros(8, 8, 8, dtype=torch.bool)
    cells[4, 4, 4] = True  # eight of the shape's
    share = shape.filled_share(cells)
    assert 0 < share < 8 / 16**3
    (gradient,) = torch.autograd.grad(share, shape.grids[-1])
    assert (gradient[0, 0, 8:10, 8:10, 8:10] < 0).all() and (gradient != 0).sum() == 8


def test_normals_of_a_ball_point_outward_at_any_scale_of_the_distance():
    points = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    for scale in (0.1, 1.0, 3.0):
        shape = ball(48, 0.6)
        set_distance(shape, scale * shape.dense())
        torch.testing.assert_close(shape.normals(0.6 * points), points, atol=0.02, rtol=0)
    flat = SignedDistanceGrid(ShapeConfig((16,)), 1.0)
    assert (flat.normals(points) == 0).all()


def test_only_an_underside_that_no_view_faces_is_pulled_in():
    shape = ball(32, 0.5)
    level = orbit_cameras(4, 15.0).positions
    towards = torch.nn.functional.normalize(level, dim=-1)
    (gradient,) = torch.autograd.grad(shape.hidden_underside(towards), shape.grids[-1])
    centres = cell_centres(32, torch.device("cpu")).view(32, 32, 32, 3)
    distance = centres.norm(dim=-1)
    pulled = (gradient[0, 0] < -1e-3 * gradient.abs().max()) & (distance > 0.35)  # a larger distance takes volume away
    assert pulled.any() and (gradient <= 0).all()
    assert (centres[..., 2] / distance)[pulled].max() < -0.9  # 15 degrees from straight down, and a little
    below = torch.cat((towards, torch.tensor([[0.0, 0.0, -1.0]])))
    assert shape.hidden_underside(below).item() < 1e-3 * shape.hidden_underside(towards).item()


def test_a_plate_is_hardly_pulled_in_from_below():
    towards = torch.nn.functional.normalize(orbit_cameras(4, 15.0).positions, dim=-1)
    height = cell_centres(64, torch.device("cpu"))[:, 2].abs()
    pull = {}
    for thickness in (0.1, 0.13, 0.3, 0.5):
        shape = ball(64, 0.5)
        set_distance(shape, height - thickness / 2)
        (gradient,) = torch.autograd.grad(shape.hidden_underside(towards), shape.grids[-1])
        pull[thickness] = -gradient.sum().item()
    assert pull[0.3] > 0.9 * pull[0.5]
    assert 0 <= pull[0.1] < pull[0.13] < 0.15 * pull[0.5]


def test_bending_is_none_for_a_plane_and_grows_with_curvature():
    plane = SignedDistanceGrid(ShapeConfig((16,)), 1.0)
    set_distance(plane, cell_centres(16, torch.device("cpu"))[:, 0])
    assert plane.bending().item() < 1e-6
    assert ball(radius=0.2).bending().item() > 0


def test_no_grid_or_a_tiny_one_is_refused():
    for resolutions in ((), (2, 16)):
        with pytest.raises(ValueError, match="at least 4 cells"):
            ShapeConfig(resolutions)
