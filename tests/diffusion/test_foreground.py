"""Foreground masks on views with known silhouettes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from gd_core.diffusion.foreground import foreground_masks


def disc(size, x, y, radius):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def view(size, shape, background, colour=(0.8, 0.2, 0.1), noise=0.0, seed=0):
    image = torch.full((size, size, 3), 1.0) * torch.tensor(background)
    image[shape] = torch.tensor(colour)
    return (image + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def iou(mask, truth):
    found = mask > 0.5
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.6, 0.7, 0.9)])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_silhouette_before_a_plain_background(background, noise):
    truth = disc(64, 30, 34, 14)
    masks = foreground_masks(view(64, truth, background, noise=noise)[None])
    assert iou(masks[0], truth) > 0.97
    assert masks[0][0].max() == 0


def test_vignette_and_an_object_that_touches_the_border():
    truth = disc(128, 20, 60, 30)
    image = view(128, truth, (0.5, 0.5, 0.5))
    ramp = torch.linspace(-0.1, 0.1, 128)[None, :, None].expand_as(image)
    image = torch.where(truth[..., None], image, image + ramp)
    assert iou(foreground_masks(image[None])[0], truth) > 0.95


def test_holes_are_filled_and_specks_dropped():
    truth = disc(128, 64, 64, 40)
    image = view(128, truth, (1.0, 1.0, 1.0))
    image[60:66, 60:66] = 1.0  # a highlight as white as the background
    image[5, 5] = 0.0
    mask = foreground_masks(image[None])[0]
    assert mask[62, 62] == 1 and mask[5, 5] == 0
    assert iou(mask, truth) > 0.97


@settings(max_examples=30, deadline=None)
@given(st.integers(52, 76), st.integers(52, 76), st.integers(2, 16), st.floats(0.5, 3.0), st.floats(0.4, 1))
def test_a_patch_as_light_as_the_background_leaves_no_soft_rim(x, y, radius, blur, grey):
    """A cat's white belly: however soft it fades into the coat, all of it is inside."""
    truth, belly = disc(128, 64, 64, 44), disc(128, x, y, radius).double().numpy()
    share = torch.from_numpy(gaussian_filter(belly, blur)).float()[..., None]
    image = view(128, truth, (grey,) * 3, colour=(0.9, 0.8, 0.1))
    mask = foreground_masks((share * grey + (1 - share) * image)[None])[0]
    assert (mask[disc(128, 64, 64, 40)] == 1).all()


def test_nothing_there_gives_nothing():
    assert foreground_masks(torch.ones(2, 32, 32, 3)).max() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 48), st.integers(16, 48), st.integers(5, 14), st.floats(0, 1), st.integers(0, 99))
def test_masks_are_soft_evidence_within_bounds(x, y, radius, grey, seed):
    truth = disc(64, x, y, radius)
    colour = (1.0, 0.0, 0.0)
    masks = foreground_masks(view(64, truth, (grey,) * 3, colour, noise=0.01, seed=seed)[None])
    assert masks.shape == (1, 64, 64) and masks.dtype == torch.float32
    assert masks.min() >= 0 and masks.max() <= 1
    assert iou(masks[0], truth) > 0.9
