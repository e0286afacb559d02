"""Views by the names that reconstructors use, and as pictures of the kind that they were trained on.

Hunyuan3D 2 takes its views in the order "front, front clockwise 90, back, front clockwise 270" and calls them front, left,
back, right (Tencent-Hunyuan/Hunyuan3D-2 @9bcf302814, `hy3dgen/shapegen/preprocessors.py`, `MVImageProcessorV2`). In its example
pictures the front of "left" points to the picture's left: the camera stands at the object's own left. Counted as `cameras`
counts, that is 90 degrees on from the front. Its preprocessing centres each object on white, with 15 % of the side free.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .views import ViewSet

# Degrees from the front to each view, counter-clockwise seen from above, in the order of Hunyuan3D's embeddings.
AZIMUTH_FROM_FRONT = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
TOLERANCE_DEG = 20.0  # a view farther off than this is not the one that its name says
HUNYUAN_MARGIN = 0.15


def azimuths_deg(views: ViewSet) -> Float[Tensor, " V"]:
    """Where each camera stands, as `orbit_cameras` counts: 0 on -y, 90 on +x."""
    x, y, _ = views.cameras.positions.unbind(1)
    return torch.rad2deg(torch.atan2(x, -y)) % 360


def views_by_name(views: ViewSet, front_azimuth_deg: float = 90.0) -> dict[str, int]:
    """The index of the view of each name of `AZIMUTH_FROM_FRONT`.

    Args:
        front_azimuth_deg: where the camera that sees the object's front stands. MVDream's first view is at 90.

    Raises:
        ValueError: no view is within `TOLERANCE_DEG` of what a name asks for.
    """
    stand = azimuths_deg(views)
    chosen = {}
    for name, azimuth in AZIMUTH_FROM_FRONT.items():
        wanted = (front_azimuth_deg + azimuth) % 360
        off = ((stand - wanted + 180) % 360 - 180).abs()
        if off.min() > TOLERANCE_DEG:
            there = ", ".join(f"{a:.0f}" for a in stand.tolist())
            raise ValueError(
                f"no view shows the object's {name}: it would be at azimuth {wanted:.0f}, the views are at {there} degrees. "
                "Give views that go around in steps of 90 degrees, or the azimuth of their front"
            )
        chosen[name] = int(off.argmin())
    return chosen


def centred_on_white(
    image: Float[Tensor, "H W 3"], mask: Float[Tensor, "H W"], size: int, margin: float = HUNYUAN_MARGIN
) -> tuple[Float[Tensor, "size size 3"], Float[Tensor, "size size"]]:
    """The object of one view before white, in the middle of a square, and its mask.

    Args:
        size: pixels a side of what comes back.
        margin: share of the side that stays free, 0..0.9.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = (mask > 0.5).any(1).nonzero()[:, 0], (mask > 0.5).any(0).nonzero()[:, 0]
    if len(rows) == 0:
        raise ValueError("a view shows no object: its mask is empty")
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    soft = mask.clamp(0, 1)[..., None]
    cut = torch.cat((image * soft + (1 - soft), soft), -1)[top : top + height, left : left + width]
    scale = round(size * (1 - margin)) / max(height, width)
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = F.interpolate(cut.movedim(-1, 0)[None], shape, mode="bicubic", antialias=True, align_corners=False)[0]
    whole = torch.cat((torch.ones(3, size, size), torch.zeros(1, size, size)))
    y, x = (size - shape[0]) // 2, (size - shape[1]) // 2
    whole[:, y : y + shape[0], x : x + shape[1]] = scaled.clamp(0, 1)
    return whole[:3].movedim(0, -1), whole[3]


def named_pictures(
    views: ViewSet, front_azimuth_deg: float = 90.0, size: int = 512, margin: float = HUNYUAN_MARGIN
) -> dict[str, tuple[Tensor, Tensor]]:
    """Picture `[size, size, 3]` and mask `[size, size]` of each name; see `views_by_name` and `centred_on_white`.

    Raises:
        ValueError: a view is missing or empty; names it.
    """
    made = {}
    for name, index in views_by_name(views, front_azimuth_deg).items():
        try:
            made[name] = centred_on_white(views.images[index], views.masks[index], size, margin)
        except ValueError as error:
            raise ValueError(f"the object's {name}: {error}") from error
    return made
