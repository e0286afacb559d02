"""The views' own pixels on a field: they show detail, from every side the same, and only where a view sees the surface."""

from dataclasses import replace

import pytest
import torch

from gd_core.cameras import orbit_cameras
from gd_core.nerf import fit_views, load_field
from gd_core.nerf.fit import SparseViewFit
from gd_core.nerf.paint import ViewPaint
from gd_core.views import ViewSet
from tests.nerf.conftest import QUICK, draw


def speckled(size: int = 32) -> ViewSet:
    """One ball with a check of four pixels, too fine for the planes of a quick fit."""
    views = draw(orbit_cameras(4), size, spheres=(((0.0, 0.0, 0.0), 0.7, (0.5, 0.5, 0.5)),))
    square = (torch.arange(size) // 2 % 2).float()
    check = (square[:, None] + square) % 2
    views.images = (views.images + 0.4 * (check[..., None] - 0.5) * views.masks[..., None]).clamp(0, 1)
    return views


@pytest.fixture(scope="module")
def fit():
    made = SparseViewFit(speckled(), replace(QUICK, steps=60), torch.device("cpu"))
    while not made.done:
        made.step(0.0)
    return made


def error(field, views: ViewSet) -> float:
    out = field.render(views.cameras, views.height, views.width)
    return float(((out.rgb - views.images) * views.masks[..., None]).square().mean())


def test_paint_shows_what_the_planes_do_not(fit, tmp_path):
    views = speckled()
    fit.field.paint = None
    before = error(fit.field, views)
    fit.finish()
    assert error(fit.field, views) < 0.8 * before
    fit.field.save(tmp_path / "field.safetensors")
    loaded = load_field(tmp_path / "field.safetensors", "cpu")
    assert error(loaded, views) == error(fit.field, views)
    points = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1) * 0.68
    assert torch.equal(loaded.color(points), fit.field.color(points))


def test_painting_twice_is_painting_once(fit):
    fit.finish()
    once = fit.field.paint.missing.clone()
    fit.finish()
    assert torch.equal(fit.field.paint.missing, once)


def test_painting_can_be_cancelled(fit):
    def tick():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.finish(tick)


def sphere_paint(size: int = 48) -> ViewPaint:
    """Four views of a ball of radius one half around the origin, each with its own colour."""
    cameras = orbit_cameras(4, elevation_deg=0)
    origins, directions = cameras.rays(size, size)
    along = -(origins * directions).sum(-1)
    root = along**2 - origins.square().sum(-1) + 0.25
    forward = -cameras.c2w[:, None, None, :3, 2]
    depth = (along - root.clamp(min=0).sqrt()) * (directions * forward).sum(-1)
    paint = ViewPaint(4, size, size)
    paint.see(depth, root > 0, cameras)
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0]])
    paint.paint(colors[:, None, None].expand(4, size, size, 3).clone(), root > 0)
    return paint


def test_each_point_is_painted_by_the_views_that_see_it():
    paint = sphere_paint()
    towards = torch.nn.functional.normalize(paint.cameras.positions, dim=-1)
    assert torch.allclose(paint(0.5 * towards, towards), paint.missing.mean((2, 3)), atol=0.05)
    weights = paint.weights(0.5 * towards, towards)[0]
    assert (weights.argmax(0) == torch.arange(4)).all() and (weights.sum(0) <= 1).all()


def test_a_normal_straight_at_a_camera_has_a_gradient():
    """A refinement moves normals under the paint; one NaN among them ended it."""
    paint = sphere_paint()
    normals = paint.c2w[:, :3, 2].round(decimals=6).requires_grad_()  # of length one, along the axes
    points = 0.5 * normals.detach()
    facing = (torch.nn.functional.normalize(paint.cameras.positions - points, dim=-1) * normals).sum(-1)
    assert (facing == 1).any()
    paint(points, normals).sum().backward()
    assert normals.grad.isfinite().all()


def test_what_no_view_sees_is_not_painted():
    paint = sphere_paint()
    hidden = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, -0.5], [5.0, 5.0, 5.0]])
    normals = torch.tensor([[1.0, 0, 0], [0.0, 1.0, 0], [0.0, 0, 1.0], [0.0, 0, -1.0], [1.0, 0, 0]])
    assert paint(hidden, normals).abs().max() < 1e-3


def test_a_view_that_disagrees_paints_nothing(views, quick):
    """A ball that only two views show is not painted with the background of the others."""
    alone = draw(views.cameras, spheres=(((-0.4, 0.0, 0.0), 0.35, (0.9, 0.1, 0.1)),))
    mixed = ViewSet(
        torch.cat((views.images[:2], alone.images[2:])), torch.cat((views.masks[:2], alone.masks[2:])), views.cameras
    )
    field = fit_views(mixed, replace(quick, steps=60), device="cpu")
    solid = mixed.masks > 0.5
    assert (field.paint.depth[2:, 0][torch.nn.functional.max_pool2d(solid[2:, None].float(), 3, 1, 1)[:, 0] == 0] == 0).all()
