"""Orbit cameras: one convention for diffusion conditioning, NeRF rays and mesh rendering.

World: right-handed, **z up**, the object at the origin. Camera axes: x right, y up, z backward (the camera looks along its
-z, as in OpenGL and Blender). Azimuth grows counter-clockwise seen from +z; azimuth 0 sits on -y, 90 on +x, which is
MVDream's `get_camera` (bytedance/MVDream, `mvdream/camera_utils.py`). MVDream conditions on the camera-to-world matrix with
its translation scaled to length one; field of view and distance are not conditioned, so they are properties of the model's
training data and travel with the cameras here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

DEFAULT_FOV_Y_DEG = 40.0  # MVDream-threestudio's evaluation cameras: fovy 40 degrees, distance 3
DEFAULT_DISTANCE = 3.0


@dataclass
class Cameras:
    """A set of V cameras, pinhole or orthographic, with square pixels and the principal point in the image centre.

    Attributes:
        c2w: `[V, 4, 4]` float32 camera-to-world matrices, z up, world units.
        fov_y_deg: `[V]` float32 vertical fields of view in degrees, between 0 and 180. Of an orthographic camera: that of the
            pinhole camera which stands in for it where one is needed (turntables, the orbit of score distillation).
        ortho_height: `[V]` float32, 0 for a pinhole camera; else the camera is orthographic and its image shows so many world
            units from bottom to top. None makes all of them pinhole cameras.
    """

    c2w: Float[Tensor, "V 4 4"]
    fov_y_deg: Float[Tensor, " V"]
    ortho_height: Float[Tensor, " V"] | None = None

    def __post_init__(self) -> None:
        if self.ortho_height is None:
            self.ortho_height = torch.zeros_like(self.fov_y_deg)
        if self.c2w.ndim != 3 or self.c2w.shape[1:] != (4, 4):
            raise ValueError(f"cameras need c2w of shape [V, 4, 4], got {list(self.c2w.shape)}")
        if self.fov_y_deg.shape != self.c2w.shape[:1]:
            raise ValueError(f"{len(self.c2w)} cameras need as many fields of view, got {list(self.fov_y_deg.shape)}")
        if self.ortho_height.shape != self.c2w.shape[:1]:
            raise ValueError(f"{len(self.c2w)} cameras need as many orthographic heights, got {list(self.ortho_height.shape)}")
        if not all(torch.isfinite(values).all() for values in (self.c2w, self.fov_y_deg, self.ortho_height)):
            raise ValueError("cameras hold a value that is not finite")
        if not ((self.fov_y_deg > 0) & (self.fov_y_deg < 180)).all():
            raise ValueError(f"fields of view must be between 0 and 180 degrees, got {self.fov_y_deg.tolist()}")
        if (self.ortho_height < 0).any():
            raise ValueError(f"orthographic heights must not be negative, got {self.ortho_height.tolist()}")

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The chosen cameras; an int gives a set of one."""
        if isinstance(index, int):
            index = [index]
        return Cameras(self.c2w[index], self.fov_y_deg[index], self.ortho_height[index])

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(self.c2w.to(device), self.fov_y_deg.to(device), self.ortho_height.to(device))

    def clone(self) -> Cameras:
        return Cameras(self.c2w.clone(), self.fov_y_deg.clone(), self.ortho_height.clone())

    @property
    def positions(self) -> Float[Tensor, "V 3"]:
        """Camera centres in world units."""
        return self.c2w[:, :3, 3]

    def conditioning(self) -> Float[Tensor, "V 16"]:
        """What MVDream's camera MLP reads: row-major c2w with the translation scaled to length one."""
        return camera_conditioning(self.c2w)

    def rays(self, height: int, width: int) -> tuple[Float[Tensor, "V h w 3"], Float[Tensor, "V h w 3"]]:
        """World-space rays through the pixel centres.

        Returns:
            origins and unit directions, both `[V, height, width, 3]`, row 0 at the top of the image.
        """
        return pixel_rays(self.c2w, self.fov_y_deg, height, width, self.ortho_height)

    def project(self, points: Float[Tensor, "N 3"], height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel column and row of world points (float, 0 at the image's upper left corner) and their depth along the view axis,
        each `[V, N]`."""
        local = torch.einsum("vji,vnj->vni", self.c2w[:, :3, :3], points[None] - self.positions[:, None])
        depth = -local[..., 2]
        pinhole = 0.5 * height / torch.tan(torch.deg2rad(self.fov_y_deg) / 2)[:, None] / depth.clamp(min=1e-6)
        flat = (height / self.ortho_height.clamp(min=1e-9))[:, None]
        scale = torch.where(self.ortho_height[:, None] > 0, flat, pinhole)
        return 0.5 * width + local[..., 0] * scale, 0.5 * height - local[..., 1] * scale, depth

    @property
    def frame_height(self) -> Float[Tensor, " V"]:
        """World units from bottom to top of the image, at the distance of the origin."""
        pinhole = 2 * torch.tan(torch.deg2rad(self.fov_y_deg) / 2) * self.positions.norm(dim=1)
        return torch.where(self.ortho_height > 0, self.ortho_height, pinhole)


def camera_conditioning(c2w: Float[Tensor, "V 4 4"]) -> Float[Tensor, "V 16"]:
    """MVDream's camera vector (`normalize_camera`): translation / (norm + 1e-8), then flattened row-major."""
    normalised = c2w.clone()
    translation = normalised[:, :3, 3]
    normalised[:, :3, 3] = translation / (translation.norm(dim=1, keepdim=True) + 1e-8)
    return normalised.flatten(1)


def pixel_rays(
    c2w: Float[Tensor, "V 4 4"],
    fov_y_deg: Float[Tensor, " V"],
    height: int,
    width: int,
    ortho_height: Float[Tensor, " V"] | None = None,
) -> tuple[Float[Tensor, "V h w 3"], Float[Tensor, "V h w 3"]]:
    """Rays of `height` x `width` pixel centres for each camera; see `Cameras.rays`."""
    device, dtype = c2w.device, c2w.dtype
    half_height = torch.tan(torch.deg2rad(fov_y_deg.to(dtype)) / 2)[:, None, None]
    y = 1 - 2 * (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
    x = (2 * (torch.arange(width, device=device, dtype=dtype) + 0.5) / width - 1) * (width / height)
    y, x = torch.meshgrid(y, x, indexing="ij")
    directions = torch.stack((x * half_height, y * half_height, -torch.ones_like(half_height * x)), dim=-1)
    directions = torch.einsum("vij,vhwj->vhwi", c2w[:, :3, :3], directions)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    origins = c2w[:, None, None, :3, 3].expand_as(directions)
    if ortho_height is not None and (ortho_height > 0).any():
        size = ortho_height.to(dtype)[:, None, None, None] / 2
        across = x[None, ..., None] * c2w[:, None, None, :3, 0] + y[None, ..., None] * c2w[:, None, None, :3, 1]
        forward = -c2w[:, None, None, :3, 2].expand_as(directions)
        origins, directions = origins + size * across, torch.where(size > 0, forward, directions)
    return origins, directions


def look_at(
    positions: Float[Tensor, "V 3"], target: Sequence[float] = (0.0, 0.0, 0.0)
) -> Float[Tensor, "V 4 4"]:
    """Camera-to-world matrices of cameras at `positions` (world units) that look at `target` with +z up.

    Straight up or down, where "up" says nothing, the image's right is world +x.
    """
    backward = positions - torch.as_tensor(target, dtype=positions.dtype, device=positions.device)
    if (backward.norm(dim=1) < 1e-8).any():
        raise ValueError("a camera cannot sit on the point that it looks at")
    backward = backward / backward.norm(dim=1, keepdim=True)
    right = torch.stack((-backward[:, 1], backward[:, 0], torch.zeros_like(backward[:, 0])), dim=1)  # z cross backward
    at_pole = right.norm(dim=1, keepdim=True) < 1e-6
    right = torch.where(at_pole, torch.tensor([1.0, 0.0, 0.0], dtype=right.dtype, device=right.device), right)
    right = right / right.norm(dim=1, keepdim=True)
    up = torch.linalg.cross(backward, right)
    c2w = torch.eye(4, dtype=positions.dtype, device=positions.device).repeat(len(positions), 1, 1)
    c2w[:, :3, :] = torch.stack((right, up, backward, positions), dim=2)
    return c2w


def orbit_cameras(
    num_views: int = 4,
    elevation_deg: float | Sequence[float] | Tensor = 15.0,
    azimuth_start_deg: float = 90.0,
    azimuth_span_deg: float = 360.0,
    *,
    distance: float = DEFAULT_DISTANCE,
    fov_y_deg: float = DEFAULT_FOV_Y_DEG,
) -> Cameras:
    """Cameras on a circle around the z axis, evenly spaced over `azimuth_span_deg`, its end excluded.

    Args:
        num_views: how many, at least 1.
        elevation_deg: degrees above the horizon, one for all or one for each view, between -90 and 90.
        azimuth_start_deg: azimuth of the first view in degrees. MVDream's text-to-image script uses 90, so that its four
            views sit on +x, +y, -x, -y.
        azimuth_span_deg: degrees covered; negative turns clockwise.
        distance: from the origin, in world units.
        fov_y_deg: vertical field of view in degrees.
    """
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1, got {num_views}")
    if not distance > 0:
        raise ValueError(f"camera distance must be positive, got {distance}")
    elevation = torch.as_tensor(elevation_deg, dtype=torch.float64).expand(num_views)
    azimuth = azimuth_start_deg + azimuth_span_deg / num_views * torch.arange(num_views, dtype=torch.float64)
    return Cameras(looking_from(azimuth, elevation, distance), torch.full((num_views,), float(fov_y_deg)))


def looking_from(
    azimuth_deg: Float[Tensor, " V"], elevation_deg: Float[Tensor, " V"], distance: float | Float[Tensor, " V"]
) -> Float[Tensor, "V 4 4"]:
    """Level cameras that look at the origin, as float32 camera-to-world matrices, from angles in float64 degrees.

    Straight above and below the image's right is still that of the camera's azimuth.
    """
    if (elevation_deg.abs() > 90).any():
        raise ValueError(f"elevation must be between -90 and 90 degrees, got {elevation_deg.tolist()}")
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    across = elevation.cos()
    backward = torch.stack((across * azimuth.sin(), -across * azimuth.cos(), elevation.sin()), dim=1)
    right = torch.stack((azimuth.cos(), azimuth.sin(), torch.zeros_like(azimuth)), dim=1)
    up = torch.linalg.cross(backward, right)
    positions = backward * torch.as_tensor(distance, dtype=backward.dtype).reshape(-1, 1)
    c2w = torch.eye(4, dtype=backward.dtype).repeat(len(backward), 1, 1)
    c2w[:, :3, :] = torch.stack((right, up, backward, positions), dim=2)
    return c2w.float()


def distance_that_frames(radius: float, fov_y_deg: float) -> float:
    """Distance, in world units, at which a sphere of `radius` just fits the vertical field of view."""
    return radius / math.sin(math.radians(fov_y_deg) / 2)
