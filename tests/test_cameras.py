"""Cameras against MVDream's own, and the geometry that NeRF and meshes rely on."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from gd_core.cameras import Cameras, camera_conditioning, distance_that_frames, look_at, orbit_cameras, pixel_rays

DATA = Path(__file__).parent / "data" / "cameras"
GOLDEN = load_file(DATA / "cameras.safetensors")
RUNS = json.loads((DATA / "index.json").read_text())

angles = st.floats(-720, 720)
elevations = st.floats(-89, 89)


@pytest.mark.parametrize("run", [run for run in RUNS if run["blender_coord"]], ids=lambda run: run["key"])
def test_orbit_is_get_camera(run):
    cameras = orbit_cameras(run["num_frames"], run["elevation"], run["azimuth_start"], run["azimuth_span"])
    torch.testing.assert_close(cameras.conditioning(), GOLDEN[run["key"]], atol=1e-6, rtol=0)


def test_conditioning_is_normalize_camera_and_leaves_its_input():
    c2w = GOLDEN["normalize.in"].clone()
    torch.testing.assert_close(camera_conditioning(c2w), GOLDEN["normalize.out"], atol=1e-6, rtol=0)
    assert torch.equal(c2w, GOLDEN["normalize.in"])  # the original writes into it


def test_threestudio_cameras_are_ours_turned_by_90_degrees():
    for k, c2w in enumerate(GOLDEN["ts.c2w"]):
        elevation, azimuth, distance = (float(GOLDEN[f"ts.{n}"][k]) for n in ("elevation_deg", "azimuth_deg", "distance"))
        ours = orbit_cameras(1, elevation, azimuth + 90, distance=distance)
        torch.testing.assert_close(ours.c2w[0], c2w, atol=2e-6, rtol=0)
        torch.testing.assert_close(ours.conditioning()[0], GOLDEN["ts.camera_cond"][k], atol=1e-6, rtol=0)


def test_default_views_sit_on_the_axes():
    cameras = orbit_cameras(4, 0.0, distance=2.0)
    expected = torch.tensor([[2.0, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]])
    torch.testing.assert_close(cameras.positions, expected, atol=1e-6, rtol=0)


@given(elevation=elevations, azimuth=angles, distance=st.floats(0.1, 20), views=st.integers(1, 8))
def test_orbit_is_a_rigid_ring_that_looks_at_the_origin(elevation, azimuth, distance, views):
    cameras = orbit_cameras(views, elevation, azimuth, distance=distance)
    rotation = cameras.c2w[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(views, 3, 3), atol=1e-5, rtol=0)
    assert torch.linalg.det(rotation).sub(1).abs().max() < 1e-5
    torch.testing.assert_close(cameras.positions, distance * rotation[:, :, 2], atol=1e-5 * max(distance, 1), rtol=0)
    assert (rotation[:, 2, 0].abs() < 1e-6).all()  # the horizon is level
    assert (rotation[:, 2, 1] > 0).all()  # and up is up


@given(elevation=elevations, azimuth=angles, fov=st.floats(5, 120), height=st.integers(1, 9), width=st.integers(1, 9))
def test_rays_are_unit_and_symmetric_about_the_optical_axis(elevation, azimuth, fov, height, width):
    cameras = orbit_cameras(2, elevation, azimuth, fov_y_deg=fov)
    origins, directions = cameras.rays(height, width)
    assert origins.shape == directions.shape == (2, height, width, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, height, width), atol=1e-5, rtol=0)
    forward = -cameras.c2w[:, :3, 2]
    along = torch.einsum("vhwc,vc->vhw", directions, forward)
    assert (along > 0).all()
    torch.testing.assert_close(along, along.flip(1, 2), atol=1e-5, rtol=0)


def test_ray_through_a_pixel_hits_the_point_that_projects_there():
    cameras = orbit_cameras(4, 20.0)
    height, width = 6, 10
    point = torch.tensor([0.2, -0.1, 0.3])
    to_camera = torch.linalg.inv(cameras.c2w)
    seen = (to_camera @ torch.cat((point, torch.ones(1)))[:, None])[:, :3, 0]
    half = math.tan(math.radians(40.0) / 2)
    row = (1 - seen[:, 1] / -seen[:, 2] / half) / 2 * height
    column = (1 + seen[:, 0] / -seen[:, 2] / half * height / width) / 2 * width
    origins, directions = pixel_rays(cameras.c2w, cameras.fov_y_deg, 64 * height, 64 * width)
    for v in range(4):
        i, j = int(row[v] * 64), int(column[v] * 64)
        offset = point - origins[v, i, j]
        distance = (offset - (offset @ directions[v, i, j]) * directions[v, i, j]).norm()
        assert distance < 3 * 2 * half / (64 * height)


def test_look_at_the_pole_and_off_centre():
    c2w = look_at(torch.tensor([[0.0, 0.0, 2.0], [1.0, 1.0, 1.0]]), target=(0.0, 0.0, 1.0))
    torch.testing.assert_close(c2w[0, :3, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(c2w[1, :3, 2], torch.tensor([1.0, 1.0, 0.0]) / math.sqrt(2))


def test_distance_that_frames_touches_the_edge():
    distance = distance_that_frames(0.8, 40.0)
    assert math.isclose(0.8 / distance, math.sin(math.radians(20.0)))


def test_sets_index_and_move():
    cameras = orbit_cameras(4)
    assert len(cameras[1]) == 1 and len(cameras[1:3]) == 2 and len(cameras[[0, 3]]) == 2
    copy = cameras.to("cpu").clone()
    copy.c2w += 1
    assert not torch.equal(copy.c2w, cameras.c2w)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: orbit_cameras(0), "num_views must be at least 1, got 0"),
        (lambda: orbit_cameras(4, 91.0), "elevation must be between -90 and 90"),
        (lambda: orbit_cameras(4, distance=0.0), "distance must be positive"),
        (lambda: orbit_cameras(4, distance=float("nan")), "distance must be positive"),
        (lambda: orbit_cameras(4, fov_y_deg=180.0), "fields of view must be between 0 and 180"),
        (lambda: orbit_cameras(4, azimuth_start_deg=float("nan")), "not finite"),
        (lambda: Cameras(torch.eye(4), torch.ones(1)), r"\[V, 4, 4\]"),
        (lambda: Cameras(torch.eye(4)[None], torch.ones(2)), "1 cameras need as many fields of view"),
        (lambda: look_at(torch.zeros(1, 3)), "cannot sit on the point"),
    ],
)
def test_bad_cameras_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
