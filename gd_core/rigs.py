"""Where the images of other multi-view models were seen from, and cameras from plain lists of angles.

Angles are degrees in the frame of `cameras`: azimuth 0 is the front, 90 the side at the right of who looks at the front,
counted counter-clockwise from above; elevation counts from the horizon up. Every camera looks at the origin and stands level.

World units are free: an image says how large a thing is beside its frame, not in metres. So each rig is as large as makes its
frame show the box in which a field lives, -1..1, with a small margin where there is perspective.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .cameras import DEFAULT_DISTANCE, DEFAULT_FOV_Y_DEG, Cameras, looking_from

EVEN_ORBIT = "even orbit"
BOX_WIDTH = 2.0
LEAST_DISTANCE = 2.0  # of orthographic cameras, world units: outside of the box
MOST_NUMBERS = 64


@dataclass(frozen=True)
class Rig:
    """The cameras of a model's images, in their order.

    Attributes:
        azimuths, elevations: degrees, one for each image.
        fov_y_deg: of all cameras; None: they are orthographic, and a frame shows `ortho_width` world units.
        distance: of pinhole cameras from the origin, world units.
    """

    azimuths: tuple[float, ...]
    elevations: tuple[float, ...]
    fov_y_deg: float | None = None
    distance: float = DEFAULT_DISTANCE
    ortho_width: float = BOX_WIDTH

    def __len__(self) -> int:
        return len(self.azimuths)


_SIX_ROUND = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)
_LEVEL = (0.0,) * 6

RIGS = {
    "MVDream": Rig((90, 180, 270, 0), (15,) * 4, DEFAULT_FOV_Y_DEG),
    "Zero123++ 1.2": Rig((30, 90, 150, 210, 270, 330), (20, -10) * 3, 30.0, distance=4.0),
    "Zero123++ 1.1": Rig((30, 90, 150, 210, 270, 330), (30, -20) * 3, 49.13, distance=2.34),
    "Wonder3D": Rig(_SIX_ROUND, _LEVEL),
    "Era3D": Rig(_SIX_ROUND, _LEVEL),
    "MV-Adapter": Rig(_SIX_ROUND, _LEVEL),
    "MV-Adapter textures": Rig((0, 90, 180, 270, 180, 180), (0, 0, 0, 0, 90, -90)),
    "Hunyuan3D-2mv": Rig((0, 90, 180, 270), (0,) * 4),
    "Hunyuan3D-Paint": Rig((0, 90, 180, 270, 0, 180), (0, 0, 0, 0, 90, -90)),
}
"""By the model's name. Sources, at the commits that were read:

- MVDream: bytedance/MVDream `scripts/t2i.py` (azimuth from 90, elevation 15); MVDream-threestudio (field of view 40, distance
  3).
- Zero123++: SUDO-AI-3D/zero123plus @7d0315c README, *Camera Parameters*: azimuth 30 to 330 by 60 relative to the input,
  elevation 30 / -20 (1.1) and 20 / -10 (1.2), field of view 30 (1.2). Issue 68 there: 2 atan(16 / 35) = 49.13 for 1.1. The
  direction and distance 4: TencentARC/InstantMesh @08822c5 `src/utils/camera_util.py`.
- Wonder3D: xxlong0/Wonder3D @d894f82 `instant-nsr-pl/datasets/ortho.py` (front, front_right, right, back, left, front_left;
  orthographic) and `fixed_poses/*_RT.txt`, where front_right stands at +x -y.
- Era3D: pengHTYX/Era3D @a2ce68d, the same files and the same order.
- MV-Adapter: huanngzh/MV-Adapter @4277e00 `scripts/inference_t2mv_sdxl.py` (orthographic, half width 0.55 round an object of
  half size 0.5, -y the front); textures: `mvadapter/pipelines/pipeline_texture.py`.
- Hunyuan3D: Tencent-Hunyuan/Hunyuan3D-2 @9bcf302 `hy3dgen/texgen/pipelines.py` (azimuths, elevations; orthographic in
  `differentiable_renderer/mesh_render.py`); 2mv: `hy3dgen/shapegen/preprocessors.py` (front, left, back, right, where left
  is the object's own left, as `assets/example_mv_images` shows).
"""


def chosen_cameras(
    count: int,
    aspect: float,
    *,
    rig: str = EVEN_ORBIT,
    elevation: float = 15.0,
    azimuth_start: float = 90.0,
    azimuth_span: float = 360.0,
    fov: float = DEFAULT_FOV_Y_DEG,
    distance: float = DEFAULT_DISTANCE,
    azimuths: Sequence[float] = (),
    elevations: Sequence[float] = (),
    fovs: Sequence[float] = (),
    ortho_widths: Sequence[float] = (),
) -> Cameras:
    """The cameras of `count` images: those of a rig by name, or an even orbit, with lists in place of what they name.

    Args:
        aspect: width of the images over their height.
        rig: `EVEN_ORBIT`, which `elevation` to `distance` describe (as `orbit_cameras` does), or one of `RIGS`, which does
            not read them.
        azimuths, elevations, fovs: degrees; ortho_widths: world units. One number, or one for each image; empty: as the rig is.

    Raises:
        ValueError: the rig is of another number of images, or a list is, or holds a value out of its range.
    """
    if rig == EVEN_ORBIT:
        around = tuple(azimuth_start + azimuth_span / count * index for index in range(count))
        known = Rig(around, (elevation,) * count, fov, distance)
    else:
        known = RIGS[rig]
        if len(known) != count:
            raise ValueError(
                f"the rig of {rig} has {len(known)} images, and there are {count}: give all of them in their order, choose "
                f"another rig, or '{EVEN_ORBIT}' with lists of angles"
            )
    for name, values in (("azimuths", azimuths), ("elevations", elevations), ("fovs", fovs), ("ortho_widths", ortho_widths)):
        if len(values) not in ((0, count) if name == "azimuths" else (0, 1, count)):
            raise ValueError(
                f"'{name}' has {len(values)} numbers for {count} images: give {'' if name == 'azimuths' else 'one, or '}"
                "one for each image"
            )
    widths = ortho_widths or ((0.0,) if fovs or known.fov_y_deg is not None else (known.ortho_width,))
    if min(widths) < 0:
        raise ValueError(f"'ortho_widths' holds {min(widths):g}: a width is above 0, or 0 for a camera with perspective")
    angles = fovs or (known.fov_y_deg or DEFAULT_FOV_Y_DEG,)
    if not all(0 < angle < 180 for angle in angles):
        raise ValueError("'fovs' must be between 0 and 180 degrees")
    if any(abs(angle) > 90 for angle in elevations):
        raise ValueError("'elevations' must be between -90 and 90 degrees")
    return rig_cameras(
        azimuths or known.azimuths,
        elevations or known.elevations,
        fov_y_deg=angles,
        distance=known.distance,
        ortho_width=widths,
        aspect=aspect,
    )


def rig_cameras(
    azimuths: Sequence[float],
    elevations: float | Sequence[float],
    *,
    fov_y_deg: float | Sequence[float] = DEFAULT_FOV_Y_DEG,
    distance: float = DEFAULT_DISTANCE,
    ortho_width: float | Sequence[float] = 0.0,
    aspect: float = 1.0,
) -> Cameras:
    """Level cameras that look at the origin, from angles in degrees; what is one number holds for all of them.

    Args:
        distance: of pinhole cameras, world units.
        ortho_width: world units that an orthographic camera's image shows from left to right; 0 for a pinhole camera.
        aspect: width of the images over their height.

    Raises:
        ValueError: as many numbers as neither one nor the azimuths, or values out of their range.
    """
    count = len(azimuths)
    azimuth = torch.as_tensor(azimuths, dtype=torch.float64)
    parts = {"elevations": elevations, "fields of view": fov_y_deg, "orthographic widths": ortho_width}
    for name, values in parts.items():
        values = torch.as_tensor(values, dtype=torch.float64).flatten()
        if len(values) not in (1, count):
            raise ValueError(f"{count} cameras need one or {count} {name}, got {len(values)}")
        parts[name] = values.expand(count)
    elevation, fov, width = parts.values()
    if not distance > 0:
        raise ValueError(f"camera distance must be positive, got {distance}")
    half = width / aspect / 2
    # The pinhole camera that stands in for an orthographic one shows the same frame at the origin.
    far = (half / math.tan(math.radians(DEFAULT_FOV_Y_DEG) / 2)).clamp(min=LEAST_DISTANCE)
    flat = half > 0
    fov = torch.where(flat, 2 * torch.rad2deg(torch.atan(half / far)), fov)
    c2w = looking_from(azimuth, elevation, torch.where(flat, far, torch.as_tensor(distance, dtype=torch.float64)))
    return Cameras(c2w, fov.float(), (2 * half).float())


def parse_numbers(text: str, name: str) -> list[float]:
    """Numbers separated by commas, semicolons or blanks; ValueError that names the input for anything else."""
    words = [word for word in re.split(r"[\s,;]+", text.strip().strip("[]()")) if word]
    if len(words) > MOST_NUMBERS:
        raise ValueError(f"'{name}' has {len(words)} numbers: give one, or one for each image")
    numbers = []
    for word in words:
        try:
            number = float(word.rstrip("°"))
        except ValueError:
            raise ValueError(f"'{name}' has '{word[:40]}' where a number should be: write for example 30, 90, 150") from None
        if not math.isfinite(number):
            raise ValueError(f"'{name}' has '{word[:40]}', which is no angle and no size: write for example 30, 90, 150")
        numbers.append(number)
    return numbers
