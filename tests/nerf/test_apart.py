"""Hulls by word: what some views give to one subject and some to another is neither's."""

import pytest
import torch

from gd_core.nerf import FitConfig
from gd_core.nerf.apart import between, divide, seams, stacked
from gd_core.nerf.fit import SparseViewFit
from gd_core.nerf.hull import carve, cell_centres
from gd_core.subject_masks import subject_masks, whose_pixels
from tests.nerf.test_labels import SOLIDS, make_views

RESOLUTION = 32


@pytest.fixture(scope="module")
def carved():
    """Views of two solids whose outlines overlap in two views, whose each pixel is, and their hull."""
    views, _ = make_views()
    return views, whose_pixels(subject_masks(views)), carve(views.masks, views.cameras, RESOLUTION, 1.0)[0]


def assert_whole(parts: torch.Tensor) -> None:
    """Each part holds what is surely its solid's."""
    centres = cell_centres(parts.shape[-1], parts.device)
    for part, solid in zip(parts, SOLIDS, strict=True):
        core = (centres - torch.tensor(solid.center)).norm(dim=1) < 0.6 * solid.radius
        assert part.flatten()[core].all()


def test_each_subject_has_a_hull_of_its_own(carved):
    views, subject, hull = carved
    parts = divide(hull, views.masks, subject, views.cameras, 1.0)
    assert len(parts) == 2 and not (parts & ~hull).any()
    assert_whole(parts)
    assert (parts[0] & parts[1]).sum() < 0.02 * hull.sum()
    assert parts.any(0).sum() < 0.97 * hull.sum()


def test_words_that_contradict_the_views_divide_nothing(carved):
    views, subject, hull = carved
    swapped = subject.clone()
    swapped[0] = 1 - swapped[0]
    assert torch.equal(divide(hull, views.masks, swapped, views.cameras, 1.0), hull[None])


def test_what_stands_on_another_is_not_parted(carved):
    _, _, hull = carved
    parts = torch.zeros(2, *hull.shape, dtype=torch.bool)
    parts[0, 4:12, 4:12, 4:12] = parts[1, 4:12, 4:12, 14:22] = True
    assert stacked(parts) and not stacked(parts.movedim(3, 1))


def test_a_subject_that_no_view_shows_divides_nothing(carved):
    views, subject, hull = carved
    assert torch.equal(divide(hull, views.masks, 2 * subject, views.cameras, 1.0), hull[None])


def test_a_view_that_does_not_say_allows_both(carved):
    views, subject, hull = carved
    silent = subject.clone()
    silent[0] = -1
    parts = divide(hull, views.masks, silent, views.cameras, 1.0)
    assert len(parts) == 2
    assert_whole(parts)


def test_what_is_no_single_subjects_is_between():
    hull = torch.zeros(12, 12, 12, dtype=torch.bool)
    hull[1:11, 4:8, 4:8] = True
    parts = torch.zeros(2, 12, 12, 12, dtype=torch.bool)
    parts[0, 1:4], parts[1, 4:7] = hull[1:4], hull[4:7]
    along = between(hull, parts)[:, 5, 5].tolist()
    assert along == [False, False, False, True, True, False, False, False, True, True, True, False]
    parts[1] = parts[0]  # what either may fill is not air
    assert not between(hull, parts)[1:4].any()


def test_seams_are_where_two_subjects_meet():
    masks, subject = torch.ones(1, 8, 16), torch.zeros(1, 8, 16, dtype=torch.long)
    subject[..., 8:] = 1
    assert seams(masks, subject)[0, 3].nonzero()[:, 0].tolist() == [6, 7, 8, 9]
    masks[..., 6:11] = 0  # apart, with background between them
    assert not seams(masks, subject).any()


def test_only_words_change_a_fit():
    views, _ = make_views()
    fit = SparseViewFit(views, FitConfig(steps=2), torch.device("cpu"))
    assert len(fit.evidence.parts) == 2 and fit.between.any() and (fit.evidence.weight < 1).any()
    views.attention = {}
    plain = SparseViewFit(views, FitConfig(steps=2), torch.device("cpu"))
    assert len(plain.evidence.parts) == 1 and plain.between is None and (plain.evidence.weight == 1).all()
