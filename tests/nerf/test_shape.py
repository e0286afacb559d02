"""The signed distance grid: what its pyramid sums to, how density follows, and what starting from a hull means."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.nerf import ShapeConfig
from gd_core.nerf.hull import cell_centres
from gd_core.nerf.shape import UNDECIDED, SignedDistanceGrid, interpolation


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


def test_a_hull_starts_undecided_within_and_further_away_without():
    hull = torch.zeros(16, 16, 16, dtype=torch.bool)
    hull[4:12, 4:12, 4:12] = True
    shape = SignedDistanceGrid(ShapeConfig((4, 16)), 1.0)
    torch.nn.init.ones_(shape.grids[0])
    shape.start_from(hull)
    distance = shape.dense()[0, 0].detach()
    assert (distance[hull] == UNDECIDED).all() and (distance[~hull] > UNDECIDED + 0.1).all()
    through = float((shape.density(distance[8, 8, 4:12]) * 2 / 16).sum())
    assert 0.5 < through < 3  # a ray through the hull is neither free nor stopped


def test_bending_is_none_for_a_plane_and_grows_with_curvature():
    plane = SignedDistanceGrid(ShapeConfig((16,)), 1.0)
    set_distance(plane, cell_centres(16, torch.device("cpu"))[:, 0])
    assert plane.bending().item() < 1e-6
    assert ball(radius=0.2).bending().item() > 0


def test_no_grid_or_a_tiny_one_is_refused():
    for resolutions in ((), (2, 16)):
        with pytest.raises(ValueError, match="at least 4 cells"):
            ShapeConfig(resolutions)
