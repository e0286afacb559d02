"""Soft visual hull (Laurentini 1994): the cells of a grid that the view masks allow to hold matter.

Masks are evidence, not truth. A cell that every view shows as foreground is in. Where that leaves foreground of some view
unexplained (a subject that only some views show), cells with fewer votes come in, as few dissenting views as possible.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..cameras import Cameras

FOREGROUND = 0.5
AGREEMENT = 0.97  # of the foreground, mean over the views: less is a rig that is not theirs (docs/nerf.md)
AGREEMENT_RESOLUTION = 64
PIXELS_PER_CELL = 4  # along a side: finer masks say nothing more of the cells
UNEXPLAINED_SHARE = 0.01  # of a view's foreground: less is mask noise at the rim


def project(cameras: Cameras, points: Float[Tensor, "N 3"], height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel column and row (float, 0 at the image's upper left corner) and depth along the view axis, each `[V, N]`."""
    return cameras.project(points, height, width)


def cell_centres(resolution: int, device: torch.device) -> Float[Tensor, "N 3"]:
    """Centres of a grid's cells in -1..1, x slowest."""
    axis = (torch.arange(resolution, device=device) + 0.5) / resolution * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def carve(
    masks: Float[Tensor, "V H W"],
    cameras: Cameras,
    resolution: int,
    half_size: float,
    check: Callable[[], None] = lambda: None,
) -> tuple[Bool[Tensor, "G G G"], Float[Tensor, "G G G"]]:
    """Carve the box of `half_size` around the origin; `check` is called between any two views and may raise.

    Returns:
        which cells may hold matter, and the share of the views that see each cell which show it as foreground, 0..1.
    """
    views = len(masks)
    masks = at_most(masks, PIXELS_PER_CELL * resolution)
    foreground, pixel, radii = _looked_up(masks, cameras, resolution, half_size, check)
    seen = pixel >= 0
    votes, electorate = foreground.sum(0), seen.sum(0)
    hull = (votes == electorate) & (votes > 0)
    solid = masks > FOREGROUND
    for dissent in range(1, views):
        needed = torch.zeros_like(hull)
        for v in range(views):
            check()
            unexplained = solid[v] & ~pixels_covered(hull & seen[v], pixel[v], radii[v], solid[v].shape)
            if unexplained.sum() > UNEXPLAINED_SHARE * solid[v].sum():
                needed |= seen[v] & unexplained.flatten()[pixel[v].clamp(min=0)]
        if not needed.any():
            break
        hull = hull | (needed & (votes > 0) & (electorate - votes <= dissent))
    share = votes / electorate.clamp(min=1)
    return hull.view((resolution,) * 3), share.view((resolution,) * 3)


def explained_shares(
    masks: Float[Tensor, "V H W"],
    cameras: Cameras,
    resolution: int = AGREEMENT_RESOLUTION,
    half_size: float = 1.0,
    check: Callable[[], None] = lambda: None,
) -> Float[Tensor, " V"]:
    """Share of each view's foreground that the cells which every view shows as foreground account for, 0..1; 1 without any.

    Masks of one solid object from the right cameras give nearly 1. A rig that is not the one the views were made with, or
    views that disagree, leave foreground of some view that nothing explains.
    """
    masks = at_most(masks, PIXELS_PER_CELL * resolution)
    foreground, pixel, radii = _looked_up(masks, cameras, resolution, half_size, check)
    seen = pixel >= 0
    hull = (foreground | ~seen).all(0) & foreground.any(0)
    shares = []
    for mask, looked_up, can_see, radius in zip(masks > FOREGROUND, pixel, seen, radii, strict=True):
        shown = pixels_covered(hull & can_see, looked_up, radius, mask.shape)
        shares.append((mask & shown).sum() / mask.sum() if mask.any() else torch.ones((), device=masks.device))
    return torch.stack(shares)


def disagreement(
    masks: Float[Tensor, "V H W"], cameras: Cameras, check: Callable[[], None] = lambda: None
) -> str | None:
    """One sentence when the masks and the cameras do not fit one another, else None; `check` may raise between two views."""
    shares = explained_shares(masks, cameras, check=check)
    if float(shares.mean()) >= AGREEMENT:
        return None
    worst = int(shares.argmin())
    return (
        f"the masks and the rig disagree: the shape that all views allow explains {100 * float(shares.mean()):.0f} % of the "
        f"masks, and {100 * float(shares[worst]):.0f} % of view {worst + 1}'s. Check the rig (azimuths and their direction, "
        "elevations, field of view, order of the images) and the masks"
    )


def at_most(masks: Float[Tensor, "V H W"], side: int) -> Float[Tensor, "V H W"]:
    """The masks scaled down to `side` pixels along their longer side, if they are larger."""
    scale = side / max(masks.shape[1:])
    if scale >= 1:
        return masks
    size = [max(1, round(length * scale)) for length in masks.shape[1:]]
    return nn.functional.interpolate(masks[:, None].float(), size, mode="area")[:, 0]


def _looked_up(
    masks: Float[Tensor, "V H W"], cameras: Cameras, resolution: int, half_size: float, check: Callable[[], None]
) -> tuple[Bool[Tensor, "V N"], Int[Tensor, "V N"], list[int]]:
    """For each view and cell: whether it is foreground there, and its pixel (-1 where the view cannot see it); and the pixels
    that a cell reaches from its centre in each view."""
    views, height, width = masks.shape
    device = masks.device
    centres = cell_centres(resolution, device) * half_size
    foreground = torch.zeros(views, len(centres), dtype=torch.bool, device=device)
    pixel = torch.full((views, len(centres)), -1, dtype=torch.int64, device=device)
    radii = []
    for v in range(views):  # a view at a time bounds the memory
        check()
        column, row, depth = (x[0] for x in project(cameras[v], centres, height, width))
        # A cell outside the frame takes the nearest border pixel: a subject that is not cut off does not go on out there.
        nearest = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
        pixel[v] = torch.where(depth > 0, nearest, -1)
        radii.append(cell_reach(cameras[v], height, half_size / resolution))
        foreground[v] = (depth > 0) & (dilated(masks[v], radii[v]).flatten()[nearest] > FOREGROUND)
    return foreground, pixel, radii


def cell_reach(camera: Cameras, height: int, half_cell: float) -> int:
    """The pixels that a cell reaches from its centre in a view `height` pixels high, and one to spare."""
    return int(height * 3**0.5 * half_cell / float(camera.frame_height) + 0.5) + 1


def pixels_covered(cells: Bool[Tensor, " N"], pixel: Int[Tensor, " N"], radius: int, shape: torch.Size) -> Bool[Tensor, "H W"]:
    """The pixels of a view that the cells cover."""
    covered = torch.zeros(shape.numel(), device=pixel.device)
    covered[pixel[cells]] = 1.0
    return dilated(covered.view(shape), radius) > 0


def dilated(image: Float[Tensor, "H W"], radius: int) -> Float[Tensor, "H W"]:
    # A square's maximum is that of its rows' maxima: at large images the difference is that of minutes to moments.
    rows = nn.functional.max_pool2d(image[None, None], (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return nn.functional.max_pool2d(rows, (2 * radius + 1, 1), stride=1, padding=(radius, 0))[0, 0]
