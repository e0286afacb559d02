"""Subjects' masks in the views, and labels in the field."""

import numpy as np
import pytest
import torch

from gd_core.cameras import orbit_cameras
from gd_core.nerf import FitConfig, RadianceField, fit_views, load_field
from gd_core.nerf.labels import RESOLUTION, LabelGrid, label_field
from gd_core.subject_masks import named_subjects, random_walk, subject_masks
from gd_core.views import ViewSet
from tools.tiny.renderer import render
from tools.tiny.scenes import Solid

SOLIDS = [Solid("cube", "red", "", 0.4, (-0.42, 0.0, 0.0), 0.3), Solid("sphere", "blue", "", 0.4, (0.42, 0.1, 0.0), 0.0)]
SIZE = 48


def make_views(maps: torch.Tensor | None = None, names=("red cube", "blue sphere")) -> tuple[ViewSet, torch.Tensor]:
    """Two solids with maps as a model draws them: 8 x 8 and soft; and each solid's coverage `[V, 2, H, W]`."""
    cameras = orbit_cameras(4)
    images, coverage = render(SOLIDS, cameras, SIZE)
    if maps is None:
        maps = 0.02 + 0.1 * torch.nn.functional.adaptive_avg_pool2d(coverage, 8)
    keys = [f"word{i}" for i in range(len(names))]
    views = ViewSet(
        images,
        coverage.sum(1).clamp(0, 1),
        cameras,
        attention={key: maps[:, i % maps.shape[1]] for i, key in enumerate(keys)},
        provenance={"subjects": named_subjects(list(zip(keys, names, strict=True)))},
    )
    return views, coverage


def test_soft_maps_become_masks_with_the_images_edges():
    views, coverage = make_views()
    found = subject_masks(views)
    assert found.names == ("red cube", "blue sphere") and found.note == ""
    sure = coverage.amax(1) > 0.9
    right = found.shares.argmax(0) == coverage.argmax(1)
    assert right[sure].float().mean() > 0.95
    assert (found.shares.sum(0) - views.masks).abs()[sure].max() < 0.02


@pytest.mark.parametrize("kind", ["flat", "zero", "same word", "none", "image"])
def test_maps_that_tell_nothing_give_no_labels_and_a_reason(kind):
    maps = {"flat": torch.full((4, 2, 8, 8), 0.03), "zero": torch.zeros(4, 2, 8, 8)}.get(kind)
    if kind == "same word":  # one map for both
        maps = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(-1, 2, -1, -1)
    views, _ = make_views(maps)
    if kind == "none":
        views.attention = {}
    if kind == "image":
        views.provenance = {}
    found = subject_masks(views)
    assert found.note and not found.shares.any()


def test_one_subject_has_all_of_the_foreground():
    views, _ = make_views(names=("red cube",))
    found = subject_masks(views)
    assert torch.equal(found.shares[0], views.masks)


def test_the_same_phrase_twice_is_numbered():
    named = named_subjects([("cube", "red cube"), ("cube#2", "red cube"), ("ball", "ball")])
    assert [n["name"] for n in named] == ["red cube 1", "red cube 2", "ball"]


def test_the_walk_leaves_alone_what_nothing_tells_of():
    active = np.zeros((5, 9), bool)
    active[:, :4] = active[:, 5:] = True
    priors = np.full((2, 5, 9), 0.5)
    priors[0, :, 0], priors[1, :, 0] = 0.9, 0.1
    confidence = np.zeros((5, 9))
    confidence[:, 0] = 1
    shares = random_walk(np.zeros((5, 9, 3)), active, priors, confidence)
    assert (shares[0, :, :4] > shares[1, :, :4]).all() and not shares[:, :, 4:].any()


def test_labels_are_where_the_solids_are_and_are_saved_with_the_field(tmp_path):
    views, _ = make_views()
    field = fit_views(views, FitConfig(steps=60, rays_per_step=512))
    assert field.label_names == ("red cube", "blue sphere")
    points = torch.tensor([[-0.42, -0.3, 0.0], [0.42, -0.28, 0.0], [-0.6, 0.0, 0.25], [0.7, 0.1, 0.1], [0.0, 0.0, 0.95]])
    assert field.labels(points).tolist() == [0, 1, 0, 1, -1]
    for label, above in enumerate(([-0.42, 0.0], [0.42, 0.1])):  # a mesh's surface may lie some cells above
        column = torch.tensor([[*above, height / 100] for height in range(100)])
        top = column[(field.shape(column) < 0).nonzero()[-1, 0]]
        assert field.labels((top + torch.tensor([0.0, 0.0, 4 * 2 / RESOLUTION]))[None]).tolist() == [label]
    field.save(tmp_path / "a.safetensors")
    again = load_field(tmp_path / "a.safetensors")
    assert again.label_names == field.label_names and torch.equal(again.labels(points), field.labels(points))


def test_a_field_without_labels_labels_nothing():
    grid = LabelGrid()
    assert grid.at(torch.zeros(3, 3)).shape == (3, 0)


def test_empty_masks_label_nothing():
    views, _ = make_views()
    field = fit_views(views, FitConfig(steps=2, rays_per_step=64))
    grid = label_field(field, ("a", "b"), torch.zeros(2, 4, SIZE, SIZE), views.cameras)
    assert not grid.shares.any()


@pytest.mark.parametrize("names", [(), ("cube",), ("red cube", "blue sphere")])
def test_a_copy_of_a_field_keeps_its_labels(names):
    field = RadianceField()
    field.label_grid = LabelGrid(names, field.config.half_size)
    field.label_grid.shares.fill_(200)
    copied = field.copy_to(torch.device("cpu"))
    assert copied.label_names == names and torch.equal(copied.label_grid.shares, field.label_grid.shares)
