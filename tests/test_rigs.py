"""Rigs of other models and cameras from lists: where they stand, what they see, and a fit that depends on them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.nerf import fit_views
from gd_core.nerf.hull import AGREEMENT, disagreement, explained_shares
from gd_core.rigs import EVEN_ORBIT, RIGS, chosen_cameras, parse_numbers, rig_cameras
from gd_core.views import ViewSet, load_views
from tests.nerf.conftest import QUICK, draw

# Two balls of different size at different heights, off every axis: no turn and no mirror maps them onto themselves.
LOPSIDED = (((-0.45, 0.25, -0.35), 0.3, (0.9, 0.1, 0.1)), ((0.4, -0.1, 0.45), 0.22, (0.1, 0.2, 0.9)))
ORTHOGRAPHIC = [name for name, rig in RIGS.items() if rig.fov_y_deg is None]


def of_rig(name: str) -> Cameras:
    return chosen_cameras(len(RIGS[name]), 1.0, rig=name)


def angles(cameras: Cameras) -> tuple[list[int], list[int]]:
    x, y, z = torch.nn.functional.normalize(cameras.positions.double(), dim=1).unbind(1)
    azimuth = torch.rad2deg(torch.atan2(x, -y)).round().long() % 360
    return azimuth.tolist(), torch.rad2deg(torch.asin(z.clamp(-1, 1))).round().long().tolist()


@pytest.mark.parametrize(
    ("name", "azimuths", "elevations"),
    [
        ("MVDream", [90, 180, 270, 0], [15] * 4),
        ("Zero123++ 1.2", [30, 90, 150, 210, 270, 330], [20, -10] * 3),
        ("Zero123++ 1.1", [30, 90, 150, 210, 270, 330], [30, -20] * 3),
        ("Wonder3D", [0, 45, 90, 180, 270, 315], [0] * 6),
        ("Era3D", [0, 45, 90, 180, 270, 315], [0] * 6),
        ("MV-Adapter", [0, 45, 90, 180, 270, 315], [0] * 6),
        ("Hunyuan3D-2mv", [0, 90, 180, 270], [0] * 4),
    ],
)
def test_a_rigs_cameras_stand_where_its_model_has_them(name, azimuths, elevations):
    assert angles(of_rig(name)) == (azimuths, elevations)


@pytest.mark.parametrize("name", RIGS)
def test_every_rig_frames_the_box_from_outside(name):
    cameras = of_rig(name)
    rotation = cameras.c2w[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(len(cameras), 3, 3), atol=1e-6, rtol=0)
    assert cameras.frame_height.min() > 1.99 and cameras.frame_height.max() < 2.3
    assert cameras.positions.norm(dim=1).min() > math.sqrt(3)
    assert (cameras.ortho_height > 0).all() == (name in ORTHOGRAPHIC)


def test_from_above_and_below_the_image_stands_as_the_azimuth_says():
    """Hunyuan3D's last two: from above with the front down, from below with the back up, as its renderer turns them."""
    above, below = of_rig("Hunyuan3D-Paint")[[4, 5]].c2w[:, :3, :3]
    torch.testing.assert_close(above[:, 0], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(above[:, 1], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(below[:, 0], torch.tensor([-1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(below[:, 1], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


@settings(max_examples=30)
@given(
    azimuth=st.floats(-360, 360),
    elevation=st.floats(-90, 90),
    width=st.floats(0.2, 5),
    aspect=st.floats(0.5, 2),
    offset=st.tuples(*[st.floats(-0.9, 0.9)] * 3),
)
def test_orthographic_rays_are_parallel_and_points_fall_where_they_pass(azimuth, elevation, width, aspect, offset):
    cameras = rig_cameras([azimuth], elevation, ortho_width=width, aspect=aspect)
    origins, directions = cameras.rays(6, 9)
    assert (directions == directions[0, 0, 0]).all()
    row, column = 4, 7
    point = (origins + 1.7 * directions)[0, row, column]
    x, y, depth = (float(value) for value in cameras.project(point[None], 6, 9))
    assert (x, y, depth) == pytest.approx((column + 0.5, row + 0.5, 1.7), abs=1e-3)
    side = origins[0, 0, 0] - origins[0, 0, -1]
    assert float(side.norm()) * 9 / 8 == pytest.approx(width * (9 / 6) / aspect, rel=1e-4)
    moved = point + torch.tensor(offset) @ cameras.c2w[0, :3, 2] * cameras.c2w[0, :3, 2]
    assert float(cameras.project(moved[None], 6, 9)[0]) == pytest.approx(x, abs=1e-3)  # distance changes nothing


def test_mixed_cameras_keep_their_kind_through_choice_copies_and_files(tmp_path):
    cameras = chosen_cameras(3, 1.0, azimuths=[0, 120, 240], ortho_widths=[2, 0, 1.5], fovs=[40])
    assert cameras.ortho_height.tolist() == [2, 0, 1.5] and cameras[1].ortho_height.tolist() == [0]
    origins, _ = cameras.rays(4, 4)
    assert [bool((o == o[0, 0]).all()) for o in origins] == [False, True, False]
    views = draw(cameras.clone())
    views.save(tmp_path / "views.safetensors")
    assert torch.equal(load_views(tmp_path / "views.safetensors").cameras.to("cpu").ortho_height, cameras.ortho_height)


def fitted_error(views: ViewSet, cameras: Cameras) -> float:
    """Mean squared error of a short fit with these cameras, on views that it has not seen."""
    field = fit_views(ViewSet(views.images, views.masks, cameras), replace(QUICK, steps=30))
    other = orbit_cameras(2, [0, 30], 20)
    return float((field.render(other, 32, 32).rgb - draw(other, spheres=LOPSIDED).images).square().mean())


@pytest.mark.parametrize("name", ["Zero123++ 1.2", "Wonder3D", "Hunyuan3D-Paint"])
def test_a_fit_needs_the_rig_that_the_views_were_made_with(name, caplog):
    right = of_rig(name)
    views = draw(right, spheres=LOPSIDED)
    error = fitted_error(views, right)
    assert "disagree" not in caplog.text
    wrong = fitted_error(views, orbit_cameras(len(right)))
    assert error < 0.02 and wrong > 2 * error
    assert "the masks and the rig disagree" in caplog.text


@pytest.mark.parametrize("name", RIGS)
def test_the_right_rig_explains_the_masks(name):
    views = draw(of_rig(name), size=64, spheres=LOPSIDED)
    assert explained_shares(views.masks, views.cameras).min() > 0.98
    assert disagreement(views.masks, views.cameras) is None


@pytest.mark.parametrize(
    "mistaken",
    [
        lambda c: orbit_cameras(6),
        lambda c: c[[1, 0, 2, 3, 4, 5]],
        lambda c: chosen_cameras(6, 1.0, rig="Zero123++ 1.2", azimuths=[-a for a in RIGS["Zero123++ 1.2"].azimuths]),
        lambda c: of_rig("Wonder3D"),
    ],
    ids=["even orbit", "order", "direction", "another model's"],
)
def test_a_disagreement_names_the_rig_and_the_worst_view(mistaken):
    views = draw(of_rig("Zero123++ 1.2"), size=96, spheres=LOPSIDED)
    said = disagreement(views.masks, mistaken(views.cameras))
    assert said is not None and "rig" in said and "of view" in said


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", []), ("30, 90,150", [30, 90, 150]), ("[0; 45.5 -10]", [0, 45.5, -10]), (" 20° -10° ", [20, -10]), ("1e1", [10])],
)
def test_numbers_are_read_as_people_write_them(text, numbers):
    assert parse_numbers(text, "azimuths") == numbers


@pytest.mark.parametrize("text", ["thirty", "30, x", "nan", "1 2 inf", "1 " * 65])
def test_what_is_no_number_names_its_input(text):
    with pytest.raises(ValueError, match="'azimuths'"):
        parse_numbers(text, "azimuths")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rig": "Zero123++ 1.2"}, "rig of Zero123.* has 6 images, and there are 4"),
        ({"azimuths": [0, 90]}, "'azimuths' has 2 numbers for 4 images"),
        ({"azimuths": [0]}, "'azimuths' has 1 numbers for 4 images"),
        ({"elevations": [0, 1, 2]}, "'elevations' has 3 numbers"),
        ({"elevations": [91]}, "between -90 and 90"),
        ({"fovs": [0]}, "between 0 and 180"),
        ({"ortho_widths": [-1]}, "'ortho_widths' holds -1"),
    ],
)
def test_settings_that_make_no_rig_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        chosen_cameras(4, 1.0, **settings)


def test_an_even_orbit_is_what_it_was():
    old = orbit_cameras(5, 10, 30, -300, distance=2.5, fov_y_deg=50)
    chosen = {"elevation": 10, "azimuth_start": 30, "azimuth_span": -300, "distance": 2.5, "fov": 50}
    new = chosen_cameras(5, 1.5, rig=EVEN_ORBIT, **chosen)
    torch.testing.assert_close(new.c2w, old.c2w)
    assert AGREEMENT < 1 and torch.equal(new.fov_y_deg, old.fov_y_deg)
