"""ComfyUI's viewer camera: what core's own nodes make of it, and what is no camera."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gd_core.cameras import orbit_cameras
from gd_core.viewer_camera import camera_of_viewer, orbit_of, turned_about


def xyz(x, y, z):
    return {"x": x, "y": y, "z": z}


def orbit_info(yaw: float, pitch: float, distance: float, fov: float = 40.0) -> dict:
    """What core's Create Camera Info makes of an orbit: y up, yaw 0 in front (+z), to the right (+x) at 90."""
    y, p = math.radians(yaw), math.radians(pitch)
    position = (distance * math.cos(p) * math.sin(y), distance * math.sin(p), distance * math.cos(p) * math.cos(y))
    return {"position": xyz(*position), "target": xyz(0, 0, 0), "fov": fov, "zoom": 1.0, "cameraType": "perspective"}


@given(st.floats(-179, 179), st.floats(-85, 85), st.floats(0.5, 20), st.floats(5, 120))
def test_an_orbit_of_cores_is_the_orbit_here(yaw, pitch, distance, fov):
    camera, target = camera_of_viewer(orbit_info(yaw, pitch, distance, fov))
    ours = orbit_cameras(1, pitch, yaw, distance=distance, fov_y_deg=fov)
    assert torch.allclose(camera.c2w, ours.c2w, atol=1e-3) and torch.allclose(camera.fov_y_deg, ours.fov_y_deg, atol=1e-2)
    orbit = orbit_of(camera, target)
    assert math.isclose(orbit["elevation_deg"], pitch, abs_tol=0.05) and math.isclose(orbit["distance"], distance, rel_tol=1e-4)
    assert torch.allclose(orbit_cameras(1, **orbit).c2w, ours.c2w, atol=1e-2)


def test_a_quaternion_may_roll_the_camera():
    """Looking along -z of the viewer, rolled by 90 degrees: its right is the viewer's up, which is +z here."""
    half = math.sqrt(0.5)
    info = {"position": xyz(0, 0, 3), "target": xyz(0, 0, 0), "quaternion": {"x": 0, "y": 0, "z": half, "w": half}}
    camera, _ = camera_of_viewer(info)
    assert torch.allclose(camera.c2w[0, :3, 0], torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)
    assert torch.allclose(camera.positions[0], torch.tensor([0.0, -3.0, 0.0]), atol=1e-6) and camera.fov_y_deg[0] == 40


def test_zoom_narrows_the_view():
    camera, _ = camera_of_viewer(orbit_info(0, 0, 3) | {"zoom": 2.0})
    assert math.isclose(math.tan(math.radians(float(camera.fov_y_deg[0])) / 2) * 2, math.tan(math.radians(20)), rel_tol=1e-5)


def test_a_model_that_the_viewer_moved_is_seen_the_same():
    """Scaled by 2, turned a quarter about the vertical and put aside: the camera in the model's own frame undoes all of it."""
    half = math.sqrt(0.5)
    model = [{"position": xyz(1, 2, 3), "quaternion": {"x": 0, "y": half, "z": 0, "w": half}, "scale": xyz(2, 2, 2)}]
    own = torch.tensor([0.0, 1.0, 4.0])  # the camera in the model's frame, y up
    turn = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    moved = 2 * turn @ own + torch.tensor([1.0, 2.0, 3.0])
    camera, target = camera_of_viewer({"position": xyz(*moved.tolist()), "target": xyz(1, 2, 3)}, model)
    assert torch.allclose(camera.positions[0], torch.tensor([0.0, -4.0, 1.0]), atol=1e-5)
    assert torch.allclose(target, torch.zeros(3), atol=1e-6)


def test_a_turn_starts_at_the_camera_and_stays_at_its_height():
    camera, target = camera_of_viewer({"position": xyz(1, 1, 3), "target": xyz(0.5, 0.2, 0)})
    turned = turned_about(camera, target, 8)
    assert torch.allclose(turned.c2w[0], camera.c2w[0], atol=1e-6)
    distance = (turned.positions - target).norm(dim=1)
    assert torch.allclose(distance, distance[0].expand(8), atol=1e-5)
    assert torch.allclose(turned.positions[:, 2], turned.positions[0, 2].expand(8))
    ahead = turned.positions - distance[:, None] * turned.c2w[:, :3, 2]
    assert torch.allclose(ahead, target.expand(8, 3), atol=1e-5)  # each looks at the target


GOOD = orbit_info(0, 0, 3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cameraType": "orthographic"}, "switch the viewer to perspective"),
        ({"position": None}, "no position"),
        ({"position": {"x": 1}}, "no position"),
        ({"position": xyz("a", 0, 0)}, "no position"),
        ({"position": xyz(math.nan, 0, 0)}, "not finite"),
        ({"position": xyz(0, 0, 0)}, "move it away"),
        ({"fov": 180}, "no camera"),
        ({"fov": -5}, "no camera"),
        ({"zoom": math.inf}, "no camera"),
        ({"quaternion": {"x": math.nan}}, "no rotation"),
    ],
)
def test_what_is_no_camera_is_one_clear_error(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        camera_of_viewer(GOOD | change)


def test_a_model_that_is_squeezed_or_a_camera_that_looks_aside_is_refused():
    with pytest.raises(ValueError, match="one factor for all axes"):
        camera_of_viewer(GOOD, [{"scale": xyz(1, 2, 1)}])
    with pytest.raises(ValueError, match="not at the object's centre"):
        orbit_of(*camera_of_viewer(GOOD | {"target": xyz(1, 0, 0)}))
