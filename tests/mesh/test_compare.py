"""Chamfer distance and F-score."""

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.mesh import compare_meshes, compare_points, sample_surface

clouds = st.integers(0, 1000).map(lambda seed: np.random.default_rng(seed).uniform(-1, 1, (1 + seed % 40, 3)))


@settings(max_examples=50, deadline=None)
@given(cloud=clouds)
def test_a_cloud_is_at_distance_zero_from_itself(cloud):
    score = compare_points(cloud, cloud)
    assert score.chamfer == 0 and score.f_score == 1


@settings(max_examples=50, deadline=None)
@given(first=clouds, second=clouds, distance=st.floats(0.01, 2))
def test_swapping_the_clouds_swaps_accuracy_and_completeness(first, second, distance):
    there, back = compare_points(first, second, distance), compare_points(second, first, distance)
    assert (there.accuracy, there.precision) == (back.completeness, back.recall)
    assert there.chamfer == pytest.approx(back.chamfer) and there.f_score == pytest.approx(back.f_score)
    assert 0 <= there.f_score <= 1


def test_known_distances():
    shape = np.array([[0.0, 0, 0], [1, 0, 0]])
    reference = np.array([[0.0, 0, 0.1]])
    score = compare_points(torch.from_numpy(shape), reference, distance=0.2)
    far = np.hypot(1, 0.1)
    assert score.accuracy == pytest.approx((0.1 + far) / 2) and score.completeness == pytest.approx(0.1)
    assert (score.precision, score.recall, score.f_score) == (0.5, 1.0, pytest.approx(2 / 3))


def test_nothing_in_common_scores_zero():
    assert compare_points(np.zeros((3, 3)), np.ones((3, 3))).f_score == 0


def test_a_bigger_ball_is_apart_by_the_difference_of_the_radii():
    small, large = trimesh.creation.icosphere(4, radius=0.5), trimesh.creation.icosphere(4, radius=0.6)
    score = compare_meshes(small, large, distance=0.05)
    assert score.chamfer == pytest.approx(0.1, abs=0.005) and score.f_score == 0
    same = compare_meshes(small, small)
    assert same.f_score == 1 and same.chamfer < np.sqrt(small.area / 30_000)


def test_samples_are_even_over_the_area_and_repeatable():
    box = trimesh.creation.box((2.0, 1.0, 0.1))
    points = sample_surface(box, 20_000, torch.Generator().manual_seed(0))
    assert torch.equal(points, sample_surface(box, 20_000, torch.Generator().manual_seed(0)))
    assert (points.abs() <= torch.tensor([1.0, 0.5, 0.05]) + 1e-5).all()
    lids = (points[:, 2].abs() > 0.05 - 1e-6).float().mean()
    assert float(lids) == pytest.approx(2 * 2.0 / box.area, abs=0.02)


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((4, 2)), np.full((2, 3), np.nan)])
def test_bad_clouds_are_refused(bad):
    with pytest.raises(ValueError, match="point cloud"):
        compare_points(bad, np.zeros((1, 3)))


def test_a_mesh_without_area_is_refused():
    flat = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    with pytest.raises(ValueError, match="without area"):
        compare_meshes(flat, flat)
