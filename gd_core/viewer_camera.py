"""The camera of ComfyUI's 3D viewer (`LOAD3D_CAMERA`) as `Cameras`.

The viewer's world is three.js's: right-handed, y up, and a camera looks along its own -z. A mesh of ours stands there as
`TriangleMesh.y_up` turns it: (x, y, z) becomes (x, z, -y). `LOAD3D_MODEL_INFO` says how the viewer moved and scaled the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .cameras import Cameras, look_at

DEFAULT_FOV_Y_DEG = 40.0  # of a camera that names none, as core's Render Mesh takes it
TO_Z_UP = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def camera_of_viewer(info: Mapping, model: Sequence[Mapping] | None = None) -> tuple[Cameras, Tensor]:
    """One camera, in the object's own frame, and the point `[3]` that it turns around.

    Args:
        info: `position` and `target` (x, y, z), and maybe `quaternion`, `fov` (vertical, degrees) and `zoom`.
        model: `LOAD3D_MODEL_INFO`: how the viewer placed the model. None or empty: it stands where it was exported.

    Raises:
        ValueError: a number is missing or makes no camera, or the camera is orthographic.
    """
    if info.get("cameraType") == "orthographic":
        raise ValueError("'camera_info' is of an orthographic camera: switch the viewer to perspective")
    position, target = _vector(info, "position"), _vector(info, "target", (0.0, 0.0, 0.0))
    turn = _rotation(info["quaternion"]) if info.get("quaternion") else None
    if model:
        moved, scale, turned = _placement(model[0])
        position, target = ((turned.T @ (point - moved)) / scale for point in (position, target))
        turn = None if turn is None else turned.T @ turn
    position, target = TO_Z_UP @ position, TO_Z_UP @ target
    if torch.dist(position, target) < 1e-6:
        raise ValueError("'camera_info' has its camera on the point that it looks at: move it away")
    if turn is None:
        c2w = look_at(position[None], target.tolist())
    else:
        c2w = torch.eye(4)[None]
        c2w[0, :3, :3], c2w[0, :3, 3] = TO_Z_UP @ turn, position
    fov, zoom = (float(info.get(name) or default) for name, default in (("fov", DEFAULT_FOV_Y_DEG), ("zoom", 1.0)))
    if not (0 < fov < 180 and 0 < zoom < math.inf):
        raise ValueError(f"'camera_info' has a field of view of {fov} degrees at zoom {zoom}: that is no camera")
    fov = 2 * math.degrees(math.atan(math.tan(math.radians(fov) / 2) / zoom))
    return Cameras(c2w.float(), torch.tensor([fov])), target


def turned_about(camera: Cameras, target: Tensor, frames: int) -> Cameras:
    """`frames` cameras: the one given, carried once around the vertical axis through `target`."""
    angle = torch.arange(frames) * (2 * math.pi / frames)
    turns = torch.eye(4).repeat(frames, 1, 1)
    turns[:, 0, 0], turns[:, 0, 1], turns[:, 1, 0], turns[:, 1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    turns[:, :3, 3] = target - turns[:, :3, :3] @ target
    return Cameras(turns @ camera.c2w, camera.fov_y_deg.expand(frames).clone())


def orbit_of(camera: Cameras, target: Tensor) -> dict[str, float]:
    """`elevation_deg`, `azimuth_start_deg`, `distance` and `fov_y_deg` of `orbit_cameras`, for one that looks at the origin.

    Raises:
        ValueError: it looks past the origin by more than a tenth of its distance, so it is on no orbit around the object.
    """
    position = camera.positions[0]
    ahead = -camera.c2w[0, :3, 2]
    if (position + ahead * position.norm()).norm() > 0.1 * position.norm():
        point = ", ".join(f"{value:.2f}" for value in target.tolist())
        raise ValueError(f"'camera_info' looks at ({point}), not at the object's centre (0, 0, 0)")
    x, y, z = camera.positions[0].tolist()
    distance = math.sqrt(x * x + y * y + z * z)
    return {
        "elevation_deg": math.degrees(math.asin(z / distance)),
        "azimuth_start_deg": math.degrees(math.atan2(x, -y)),
        "distance": distance,
        "fov_y_deg": float(camera.fov_y_deg[0]),
    }


def _vector(info: Mapping, name: str, default: Sequence[float] | None = None) -> Tensor:
    given = info.get(name)
    if not given and default is not None:
        return torch.tensor(default)
    try:
        vector = torch.tensor([float(given[axis]) for axis in "xyz"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"'camera_info' has no {name} with x, y and z, got {given!r}") from error
    if not torch.isfinite(vector).all():
        raise ValueError(f"'camera_info' has a {name} that is not finite: {vector.tolist()}")
    return vector


def _rotation(quaternion: Mapping) -> Tensor:
    x, y, z, w = (float(quaternion.get(axis, 0.0)) for axis in "xyzw")
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if not 1e-6 < norm < math.inf:
        raise ValueError(f"'camera_info' has a quaternion that is no rotation: {dict(quaternion)}")
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return torch.tensor([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _placement(model: Mapping) -> tuple[Tensor, float, Tensor]:
    """Position, scale and rotation of the model in the viewer's world."""
    scales = _vector(model, "scale", (1.0, 1.0, 1.0))
    if not (scales > 0).all() or (scales - scales[0]).abs().max() > 1e-3 * scales[0]:
        raise ValueError(f"'model_3d_info' scales the model by {scales.tolist()}: it must be one factor for all axes")
    turned = _rotation(model["quaternion"]) if model.get("quaternion") else torch.eye(3)
    return _vector(model, "position", (0.0, 0.0, 0.0)), float(scales[0]), turned
