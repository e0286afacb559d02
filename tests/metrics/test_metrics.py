import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.benchmark.resources import Resources
from gd_core.cameras import orbit_cameras
from gd_core.metrics import (
    caption_alignment,
    chamfer_diversity,
    compare,
    cosine_diversity,
    evaluate_field,
    evaluate_views,
    image_diversity,
    janus_fronts,
    load_clip,
    opposite_view_correlation,
    opposite_view_offsets,
    silhouette_coherence,
    view_ssim,
)
from gd_core.metrics.distribution import fid, inception_features, kid
from gd_core.views import ViewSet


def sphere_masks(cameras, centre, radius, size=48):
    """Exact silhouettes of a sphere: a ray hits it when it passes the centre within `radius`."""
    origins, directions = cameras.rays(size, size)
    to_centre = torch.tensor(centre) - origins
    along = (to_centre * directions).sum(-1, keepdim=True)
    return ((to_centre - along * directions).norm(dim=-1) < radius).float()


def views_of(masks, cameras, prompt="a red cube"):
    return ViewSet(masks[..., None].expand(*masks.shape, 3).contiguous(), masks, cameras, prompt=prompt)


def flat(images):
    return images.flatten(1)


# --- FID and KID -------------------------------------------------------------------------------------------------------------


def test_fid_of_a_shift_is_its_square():
    images = torch.rand(40, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    assert fid(images, images, flat) == pytest.approx(0, abs=1e-4)
    # equal covariances leave |mu1 - mu2|^2 alone: 12 features moved by 0.25
    assert fid(images + 0.25, images, flat) == pytest.approx(12 * 0.25**2, rel=1e-3)


def test_fid_of_a_scaled_cloud_by_formula():
    images = torch.rand(60, 1, 1, 3, generator=torch.Generator().manual_seed(1))
    mean, covariance = images.flatten(1).mean(0), torch.cov(images.flatten(1).T)
    # x -> 3x: mean moves by 2 mu, and tr(S + 9S - 2 * 3S) = 4 tr(S)
    expected = float((2 * mean).square().sum() + 4 * covariance.trace())
    assert fid(3 * images, images, flat) == pytest.approx(expected, rel=1e-3)


def test_kid_is_the_unbiased_mmd():
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(9, 1, 1, 3, generator=generator), 0.5 * torch.rand(9, 1, 1, 3, generator=generator)

    def kernel(a, b):
        return (flat(a) @ flat(b).T / 3 + 1) ** 3

    def off_diagonal_mean(k):
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    expected = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()
    mean, deviation = kid(x, y, flat, subsets=3)
    assert mean == pytest.approx(float(expected), rel=1e-3)
    assert deviation == pytest.approx(0, abs=1e-5), "subsets of the whole are all the same"


def test_kid_is_repeatable_and_leaves_the_global_generator_alone():
    images = torch.rand(20, 1, 1, 3, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = kid(images[:10], images[10:], flat, subsets=5, subset_size=4)
    assert first == kid(images[:10], images[10:], flat, subsets=5, subset_size=4)
    assert torch.equal(before, torch.get_rng_state())


def test_distribution_metrics_need_two_images_and_real_weights(tmp_path):
    with pytest.raises(ValueError, match="at least 2 images on both sides, got 1 and 5"):
        fid(torch.rand(1, 2, 2, 3), torch.rand(5, 2, 2, 3), flat)
    with pytest.raises(ValueError, match="no Inception weights"):
        inception_features(tmp_path / "none.pth")


# --- consistency -------------------------------------------------------------------------------------------------------------


def test_silhouettes_of_one_sphere_are_coherent_and_a_moved_one_is_not():
    cameras = orbit_cameras(4)
    masks = sphere_masks(cameras, (0.3, 0.1, 0.0), 0.5)
    assert silhouette_coherence(masks, cameras).min() > 0.99
    masks[2] = sphere_masks(cameras, (-0.3, -0.6, 0.4), 0.3)[2]
    assert silhouette_coherence(masks, cameras)[2] < 0.9


def test_a_subject_that_one_view_lacks_costs_the_others():
    cameras = orbit_cameras(4)
    both = torch.maximum(sphere_masks(cameras, (0.6, 0.0, 0.0), 0.3), sphere_masks(cameras, (-0.6, 0.0, 0.0), 0.3))
    one = sphere_masks(cameras, (0.6, 0.0, 0.0), 0.3)
    assert silhouette_coherence(both, cameras).min() > 0.98
    lacking = torch.stack((both[0], one[1], both[2], both[3]))
    assert silhouette_coherence(lacking, cameras).mean() < 0.9


def test_an_empty_view_agrees_to_nothing():
    cameras = orbit_cameras(4)
    masks = sphere_masks(cameras, (0.0, 0.0, 0.0), 0.5)
    masks[1] = 0
    assert silhouette_coherence(masks, cameras).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="two views or more"):
        silhouette_coherence(masks[:1], cameras[:1])


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.floats(-0.35, 0.35)] * 3), st.floats(0.25, 0.5), st.integers(2, 6), st.floats(-20, 40), st.floats(0, 360)
)
def test_any_sphere_from_anywhere_is_coherent(centre, radius, count, elevation, azimuth):
    cameras = orbit_cameras(count, elevation, azimuth)
    # The smallest sphere covers some fifty pixels, so one on its rim counts 2 %.
    assert silhouette_coherence(sphere_masks(cameras, centre, radius), cameras).min() > 0.94


def test_opposite_views_mirror_each_other():
    cameras, generator = orbit_cameras(4), torch.Generator().manual_seed(0)
    centres = (torch.rand(12, 3, generator=generator) - 0.5).tolist()
    offsets = torch.cat([opposite_view_offsets(sphere_masks(cameras, c, 0.3)) for c in centres])
    assert opposite_view_correlation(offsets) < -0.98
    assert math.isnan(opposite_view_correlation(offsets[:2]))
    assert torch.isnan(opposite_view_offsets(torch.zeros(4, 8, 8))).all()
    with pytest.raises(ValueError, match="even number"):
        opposite_view_offsets(torch.ones(3, 8, 8))


@pytest.mark.parametrize(
    ("looks", "fronts"), [("fsbs", 1), ("fsfs", 2), ("ffbs", 1), ("fsbsf", 1), ("ssbs", 0), ("ffff", 2), ("fsfsfs", 3)]
)
def test_fronts_are_counted_round_the_orbit(looks, fronts):
    assert janus_fronts(torch.eye(3)[["fsb".index(look) for look in looks]]) == fronts


def test_ssim_of_equal_pictures():
    images = torch.full((2, 16, 16, 3), 0.5)
    assert view_ssim(images, images) == pytest.approx(1)
    with pytest.raises(ValueError, match="same shape"):
        view_ssim(images, images[:1])


# --- diversity, alignment, resources -----------------------------------------------------------------------------------------


def test_diversity_of_known_sets():
    assert cosine_diversity(torch.tensor([[1.0, 0], [0, 1], [-1, 0]])) == pytest.approx((1 + 2 + 1) / 3)
    assert cosine_diversity(torch.ones(3, 4)) == pytest.approx(0)
    assert image_diversity(torch.stack((torch.zeros(4, 2, 2, 3), torch.full((4, 2, 2, 3), 0.3)))) == pytest.approx(0.3)


def test_chamfer_of_two_shifted_planes_is_their_gap():
    plane = torch.cartesian_prod(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), torch.zeros(1))
    up = torch.tensor([0.0, 0.0, 0.04])
    assert chamfer_diversity([plane, plane + up]) == pytest.approx(0.04)
    assert chamfer_diversity([plane, plane + up, plane + up]) == pytest.approx(2 * 0.04 / 3)


@pytest.mark.parametrize("diversity", [cosine_diversity, image_diversity, chamfer_diversity])
def test_one_seed_has_no_diversity(diversity):
    with pytest.raises(ValueError, match="run at least two seeds"):
        diversity(torch.ones(1, 4))


def test_alignment_passes_captions_to_the_judge():
    def captioner(images):
        return [f"view {i}" for i in range(len(images))]

    seen = []
    result = caption_alignment(torch.rand(3, 4, 4, 3), "a cube", captioner, lambda p, c: seen.append((p, c)) or 4)
    assert result.score == 4 and seen == [("a cube", ["view 0", "view 1", "view 2"])]
    with pytest.raises(ValueError, match="from 1 to 5"):
        caption_alignment(torch.rand(3, 4, 4, 3), "a cube", captioner, lambda p, c: 0)
    with pytest.raises(ValueError, match="1 captions for 3 views"):
        caption_alignment(torch.rand(3, 4, 4, 3), "a cube", lambda images: ["one"], lambda p, c: 3)


def test_resources_see_time_and_memory():
    with Resources() as used:
        held = torch.ones(60 * 2**20 // 4)
    assert used.numbers()["seconds"] > 0
    assert used.numbers()["peak_memory_mb"] > held.numel() * 4 / 2**20


# --- scorecards --------------------------------------------------------------------------------------------------------------


def test_views_become_numbers(clip_folder):
    cameras = orbit_cameras(4)
    views = views_of(sphere_masks(cameras, (0.0, 0.0, 0.0), 0.5), cameras)
    plain = evaluate_views(views)
    assert plain["silhouette_coherence"] > 0.99 and plain["empty_views"] == 0
    assert 0.1 < plain["foreground"] < 0.5
    clip = load_clip(clip_folder)
    full = evaluate_views(views, clip=clip, subjects=["red cube"], judge=lambda images, prompt: {"found": True, "score": 2})
    assert full["judge_found"] is True and full["judge_score"] == 2 and isinstance(full["janus_suspected"], bool)
    assert full["clip_score"] >= 0 and {"minimum_object_clip", *plain} <= set(full)
    with pytest.raises(ValueError, match="verdict 'found' is None"):
        evaluate_views(views, judge=lambda images, prompt: {"found": None})


def test_one_view_from_an_image_has_numbers_too():
    views = views_of(torch.zeros(1, 8, 8), orbit_cameras(1), prompt="")
    assert evaluate_views(views) == {"foreground": 0.0, "empty_views": 1.0}


class Balls:
    """Renders a red ball with a soft rim before white, as a field does."""

    def __init__(self, masks):
        self.masks = masks * 0.9 + torch.nn.functional.max_pool2d(masks[:, None], 3, 1, 1)[:, 0] * 0.1

    def before(self, background):
        alpha = self.masks[..., None]
        return alpha * torch.tensor([0.8, 0.2, 0.1]) + (1 - alpha) * torch.as_tensor(background)

    def render(self, cameras, height, width):
        return SimpleNamespace(rgb=self.before(1.0), alpha=self.masks)


BACKGROUNDS = {
    "white": 1.0,
    "black": 0.0,
    "grey": 0.5,
    "a colour": (0.2, 0.6, 0.9),
    "another in each view": torch.linspace(0, 1, 4)[:, None, None, None],
}


@pytest.mark.parametrize("background", BACKGROUNDS.values(), ids=BACKGROUNDS)
def test_a_perfect_field_is_perfect_before_any_background(background):
    cameras = orbit_cameras(4)
    field = Balls(sphere_masks(cameras, (0.0, 0.2, 0.0), 0.5))
    views = ViewSet(field.before(background), field.masks, cameras)
    assert evaluate_field(field, views) == {"psnr": pytest.approx(100), "ssim": pytest.approx(1), "mask_iou": 1.0}
    worse = replace(views, images=(views.images + 0.1))
    assert evaluate_field(field, worse)["psnr"] < 100


def test_the_error_is_that_of_the_pictures():
    cameras = orbit_cameras(4)
    field = Balls(sphere_masks(cameras, (0.0, 0.2, 0.0), 0.5))
    noisy = field.before(0.5) + 0.1 * (field.masks[..., None] > 0)
    share = float((field.masks > 0).float().mean())
    psnr = evaluate_field(field, ViewSet(noisy, field.masks, cameras))["psnr"]
    assert psnr == pytest.approx(20 - 10 * math.log10(share), abs=1e-3)


def test_comparison_knows_which_way_is_better():
    before = {"psnr": 20.0, "seconds": 3.0, "foreground": 0.1, "only": 1}
    rows = compare(before, {"psnr": 22.0, "seconds": 4.0, "foreground": 0.2})
    assert [(row[0], row[4]) for row in rows] == [("PSNR to the views", "better"), ("Time", "worse"), ("Foreground", "")]
    assert rows[0][1:4] == (20, 22, 2)
