"""Two subjects are two things: what the words of the views say of where one ends and the other begins.

The outlines of two things side by side overlap or touch in most views, and views that disagree by a pixel leave bridges there
that no mask forbids. Attention tells whose each pixel is. So a point is matter only where some single subject explains it in
every view: a hull for each subject, in place of one for all (`divide`). What is left of the common hull is air, and so is the
sheet between two subjects (`between`). Pixels where one subject ends and the other begins are a mixture of both that asks for
matter in that sheet, and are believed less (`seams`).

The hull stays whole where one thing stands on another, where the words contradict the views, and for views without words.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..cameras import Cameras
from .hull import FOREGROUND, PIXELS_PER_CELL, at_most, cell_centres, cell_reach, dilated, pixels_covered, project

UNEXPLAINED_SHARE = 0.1  # of a subject's pixels in a view: where its part of the hull leaves more, words and views disagree
STEEP = 0.7  # cosine to the vertical of what joins two parts' centres, from which on one is above the other
SEAM = 2  # pixels from where two subjects meet up to which a pixel may be a mixture of both
REACH = 1  # cells that words may be wrong by


def divide(
    hull: Bool[Tensor, "G G G"],
    masks: Float[Tensor, "V H W"],
    subject: Int[Tensor, "V H W"],
    cameras: Cameras,
    half_size: float,
    check: Callable[[], None] = lambda: None,
) -> Bool[Tensor, "S G G G"]:
    """What each subject may fill of a hull: cells that every view shows as its own, or has behind all that another may fill.

    Args:
        subject: whose each pixel is, that of the nearest pixel that is somebody's; -1 in views that do not say.

    Returns:
        the subjects' parts; or the hull alone, `[1, G, G, G]`, where these parts do not explain the subjects' pixels, or one
        is above another.
    """
    resolution, views = len(hull), len(masks)
    solid = at_most(masks, PIXELS_PER_CELL * resolution) > FOREGROUND
    height, width = solid.shape[1:]
    subject = nn.functional.interpolate(subject[:, None].float(), (height, width), mode="nearest-exact")[:, 0].long()
    cells = hull.flatten().nonzero()[:, 0]
    column, row, along = project(cameras, cell_centres(resolution, hull.device)[cells] * half_size, height, width)
    pixel = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    said = torch.where(along > 0, subject.flatten(1).gather(1, pixel), -1)
    own = torch.stack([said == s for s in range(int(subject.max()) + 1)])

    reaches = [cell_reach(cameras[v], height, half_size / resolution) for v in range(views)]
    behind = torch.zeros_like(own)
    for s, sure in enumerate((own | (said < 0)).sum(1) >= views - 1):  # in one view it may be hidden itself
        far = torch.zeros(views, height * width, device=hull.device)
        far = far.scatter_reduce(1, pixel[:, sure], along[:, sure], "amax").view(views, height, width)
        far = torch.stack([dilated(seen, reach).flatten() for seen, reach in zip(far, reaches, strict=True)]).gather(1, pixel)
        behind[s] = own[s] & (far > 0) & (along > far)
    divided = torch.zeros(len(own), resolution**3, dtype=torch.bool, device=hull.device)
    for s in range(len(own)):
        allowed = behind.clone()
        allowed[s] = own[s]
        part = (allowed.any(0) | (said < 0)).all(0)
        for v in range(views):
            check()
            pixels = solid[v] & (subject[v] == s)
            shown = pixels_covered(part & (along[v] > 0), pixel[v], reaches[v], pixels.shape)
            if (pixels & ~shown).sum() > UNEXPLAINED_SHARE * pixels.sum():
                return hull[None]
        if not part.any():  # named, and drawn nowhere
            return hull[None]
        divided[s, cells] = part
    parts = divided.view(len(own), *hull.shape)
    return hull[None] if stacked(parts) else parts


def stacked(parts: Bool[Tensor, "S G G G"]) -> bool:
    """Whether one of them is above another rather than beside it: then it rests on it, and nothing is to be parted."""
    centres = torch.stack([part.nonzero().float().mean(0) for part in parts])
    for a, b in combinations(centres, 2):
        if (a - b)[2].abs() > STEEP * (a - b).norm():
            return True
    return False


def between(hull: Bool[Tensor, "G G G"], parts: Bool[Tensor, "S G G G"]) -> Bool[Tensor, "G G G"]:
    """Cells of the hull that are no single subject's: near no part, or near what is one's alone and what is another's."""
    near = _dilated(parts, REACH)
    alone = _dilated(parts & (parts.sum(0) == 1), REACH)
    return hull & (~near.any(0) | (alone.sum(0) > 1))


def seams(masks: Float[Tensor, "V H W"], subject: Int[Tensor, "V H W"]) -> Bool[Tensor, "V H W"]:
    """Pixels within `SEAM` of the foreground of two subjects."""
    own = torch.stack([(masks > FOREGROUND) & (subject == s) for s in range(int(subject.max()) + 1)])
    return (nn.functional.max_pool2d(own.float(), 2 * SEAM + 1, stride=1, padding=SEAM) > 0).sum(0) > 1


def _dilated(parts: Bool[Tensor, "S G G G"], cells: int) -> Bool[Tensor, "S G G G"]:
    return nn.functional.max_pool3d(parts.float()[None], 2 * cells + 1, stride=1, padding=cells)[0] > 0
