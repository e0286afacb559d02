"""The soft hull: tight where views agree, forgiving where they do not."""

import torch

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.nerf.hull import carve, cell_centres, project
from tests.nerf.conftest import SPHERES, draw

CENTRES = cell_centres(32, torch.device("cpu"))


def inside(hull: torch.Tensor, centre, radius: float) -> float:
    """Share of a ball that the hull holds."""
    ball = (CENTRES - torch.tensor(centre)).norm(dim=1) < radius
    return float(hull.flatten()[ball].float().mean())


def test_projection_undoes_the_rays():
    cameras = orbit_cameras(3, [10, -20, 50], fov_y_deg=35)
    origins, directions = cameras.rays(12, 16)
    points = (origins + 2.5 * directions)[1].reshape(-1, 3)
    column, row, depth = project(cameras[1], points, 12, 16)
    torch.testing.assert_close(column[0].view(12, 16), (torch.arange(16) + 0.5).expand(12, 16), atol=1e-3, rtol=0)
    torch.testing.assert_close(row[0].view(12, 16), (torch.arange(12) + 0.5)[:, None].expand(12, 16), atol=1e-3, rtol=0)
    assert (depth > 0).all()


def test_views_that_agree_carve_tightly():
    views = draw(orbit_cameras(4))
    hull, share = carve(views.masks, views.cameras, 32, 1.0)
    for centre, radius, _ in SPHERES:
        assert inside(hull, centre, radius) == 1
    assert hull.float().mean() < 0.15  # the spheres fill 0.04, the hull of so few and small views thrice that
    assert (share[hull] == 1).all()


def test_a_subject_in_half_of_the_views_stays():
    views = draw(orbit_cameras(4))
    alone = draw(orbit_cameras(4), spheres=SPHERES[:1])
    views.masks[2:] = alone.masks[2:]
    hull, share = carve(views.masks, views.cameras, 32, 1.0)
    for centre, radius, _ in SPHERES:
        assert inside(hull, centre, radius) > 0.95
    assert hull.float().mean() < 0.25
    assert (share[hull] < 1).any()


def test_rim_noise_does_not_open_the_hull():
    views = draw(orbit_cameras(4))
    tight, _ = carve(views.masks, views.cameras, 32, 1.0)
    views.masks[0, 0, 0] = 1.0  # a stray pixel that no other view supports
    noisy, _ = carve(views.masks, views.cameras, 32, 1.0)
    assert noisy.sum() <= 1.05 * tight.sum()


def test_a_subject_that_is_not_cut_off_does_not_go_on_outside_the_frame():
    cameras = orbit_cameras(4, fov_y_deg=25)  # the box reaches out of the frame
    views = draw(cameras, spheres=(((0.0, 0.0, 0.0), 0.35, (1.0, 0.0, 0.0)),))
    hull, _ = carve(views.masks, cameras, 32, 1.0)
    edges = (CENTRES.abs().amax(1) > 0.95).view(32, 32, 32)
    assert not hull[edges].any()


def test_one_view_leaves_its_cone():
    views = draw(orbit_cameras(1))
    hull, _ = carve(views.masks, views.cameras, 32, 1.0)
    column, row, _ = project(views.cameras, CENTRES, 32, 32)
    seen = views.masks[0][row[0].long().clamp(0, 31), column[0].long().clamp(0, 31)] > 0.5
    assert hull.flatten()[seen].all() and hull.float().mean() < 0.6


def test_cells_behind_a_camera_are_not_judged_by_it():
    inner = orbit_cameras(4, 0, distance=0.5, fov_y_deg=90)
    views = draw(inner, spheres=(((0.0, 0.0, 0.0), 0.2, (1.0, 0.0, 0.0)),))
    hull, _ = carve(views.masks, Cameras(inner.c2w, inner.fov_y_deg), 32, 1.0)
    assert inside(hull, (0.0, 0.0, 0.0), 0.2) == 1
