"""The density grid: coarse to fine equals everywhere, empty space is skipped, and thresholds are found or refused."""

import numpy as np
import pytest
import torch

from gd_core.mesh import density
from gd_core.mesh.density import automatic_threshold, density_grid, grid_points, log_ratio
from tools.mesh_scenes import THREE_SOLIDS, Solid, SolidScene


def ignore(part: float) -> None:
    """No progress wanted."""


class CountingField:
    """A scene that counts the points it is asked about."""

    def __init__(self, scene: SolidScene) -> None:
        self.scene = scene
        self.asked = 0

    def density(self, points: torch.Tensor) -> torch.Tensor:
        self.asked += len(points)
        return self.scene.density(points)

    def color(self, points: torch.Tensor) -> torch.Tensor:
        return self.scene.color(points)


def full_grid(resolution: int) -> np.ndarray:
    corners = np.stack(np.meshgrid(*[np.arange(resolution + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return density.evaluate(THREE_SOLIDS, grid_points(corners, resolution, 1.0)).reshape((resolution + 1,) * 3)


def test_coarse_to_fine_finds_the_same_surface_with_a_fraction_of_the_queries(monkeypatch):
    monkeypatch.setattr(density, "FINEST_WHOLE_GRID", 32)
    field = CountingField(THREE_SOLIDS)
    grid, _, highest = density_grid(field, 128, 10.0, ignore)
    everywhere = log_ratio(full_grid(128), 10.0)
    assert ((grid > 0) == (everywhere > 0)).all()
    crossing = np.abs(everywhere) < 1
    np.testing.assert_allclose(grid[crossing], everywhere[crossing], atol=1e-5)
    assert field.asked < 0.25 * everywhere.size
    assert highest == pytest.approx(100, rel=0.01)


def test_a_field_with_an_occupancy_grid_is_not_asked_about_empty_cells():
    class RightHalf:
        def lookup(self, points: torch.Tensor) -> torch.Tensor:
            return points[:, 0] > 0

    field = CountingField(THREE_SOLIDS)
    field.occupancy = RightHalf()
    grid, _, _ = density_grid(field, 32, 10.0, ignore)
    assert field.asked == 16 * 33 * 33
    assert (grid[:17] < 0).all() and (grid[17:] > 0).any()


def test_automatic_threshold_has_the_silhouettes_that_the_field_renders():
    values = full_grid(64)
    threshold = automatic_threshold(values, 2 / 64)
    for axis in range(3):
        opaque = 1 - np.exp(-values.sum(axis) * 2 / 64) > density.OPACITY
        solid = (values > threshold).any(axis)
        assert (opaque & solid).sum() / (opaque | solid).sum() > 0.93


def test_automatic_threshold_does_not_depend_on_how_dense_the_inside_is():
    soft, hard = (
        automatic_threshold(full_grid_of(SolidScene((Solid("sphere", (0, 0, 0), 0.5, (1, 0, 0)),), peak=peak)), 2 / 48)
        for peak in (50.0, 5000.0)
    )
    radius = [0.5 - 0.005 * np.log(threshold / (peak - threshold)) for threshold, peak in ((soft, 50.0), (hard, 5000.0))]
    assert radius[0] == pytest.approx(radius[1], abs=0.04)


def full_grid_of(scene: SolidScene, resolution: int = 48) -> np.ndarray:
    corners = np.stack(np.meshgrid(*[np.arange(resolution + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return density.evaluate(scene, grid_points(corners, resolution, 1.0)).reshape((resolution + 1,) * 3)


def test_a_transparent_field_is_refused_with_its_highest_density():
    mist = SolidScene((Solid("sphere", (0, 0, 0), 0.5, (1, 0, 0)),), peak=0.25)
    with pytest.raises(ValueError, match=r"transparent.*highest density is 0\.25"):
        density_grid(mist, 32, None, ignore)


def test_a_threshold_above_everything_is_refused_with_the_highest_density():
    with pytest.raises(ValueError, match=r"reaches the density threshold 500: its highest density is 100"):
        density_grid(THREE_SOLIDS, 32, 500.0, ignore)


def test_a_broken_field_is_refused():
    class Broken(SolidScene):
        def density(self, points: torch.Tensor) -> torch.Tensor:
            return super().density(points).masked_fill(points[:, 0] > 0.9, float("nan"))

    with pytest.raises(ValueError, match="NaN or infinite"):
        density_grid(Broken(THREE_SOLIDS.solids), 32, None, ignore)
