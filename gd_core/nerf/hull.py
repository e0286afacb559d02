"""Soft visual hull (Laurentini 1994): the cells of a grid that the view masks allow to hold matter.

Masks are evidence, not truth. A cell that every view shows as foreground is in. Where that leaves foreground of some view
unexplained (a subject that only some views show), cells with fewer votes come in, as few dissenting views as possible.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..cameras import Cameras

FOREGROUND = 0.5
UNEXPLAINED_SHARE = 0.01  # of a view's foreground: less is mask noise at the rim


def project(cameras: Cameras, points: Float[Tensor, "N 3"], height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel column and row (float, 0 at the image's upper left corner) and depth along the view axis, each `[V, N]`."""
    local = torch.einsum("vji,vnj->vni", cameras.c2w[:, :3, :3], points[None] - cameras.positions[:, None])
    depth = -local[..., 2]
    scale = 0.5 * height / torch.tan(torch.deg2rad(cameras.fov_y_deg) / 2)[:, None] / depth.clamp(min=1e-6)
    return 0.5 * width + local[..., 0] * scale, 0.5 * height - local[..., 1] * scale, depth


def cell_centres(resolution: int, device: torch.device) -> Float[Tensor, "N 3"]:
    """Centres of a grid's cells in -1..1, x slowest."""
    axis = (torch.arange(resolution, device=device) + 0.5) / resolution * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def carve(
    masks: Float[Tensor, "V H W"], cameras: Cameras, resolution: int, half_size: float
) -> tuple[Bool[Tensor, "G G G"], Float[Tensor, "G G G"]]:
    """Carve the box of `half_size` around the origin.

    Returns:
        which cells may hold matter, and the share of the views that see each cell which show it as foreground, 0..1.
    """
    views, height, width = masks.shape
    device = masks.device
    centres = cell_centres(resolution, device) * half_size
    foreground = torch.zeros(views, len(centres), dtype=torch.bool, device=device)
    pixel = torch.full((views, len(centres)), -1, dtype=torch.int64, device=device)
    radii = []
    for v in range(views):  # a view at a time bounds the memory
        column, row, depth = (x[0] for x in project(cameras[v], centres, height, width))
        # A cell outside the frame takes the nearest border pixel: a subject that is not cut off does not go on out there.
        nearest = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
        pixel[v] = torch.where(depth > 0, nearest, -1)
        half_diagonal = 0.5 * height * 3**0.5 * half_size / resolution
        tangent = torch.tan(torch.deg2rad(cameras.fov_y_deg[v]) / 2)
        radii.append(int(half_diagonal / float(tangent * cameras.positions[v].norm()) + 0.5) + 1)
        foreground[v] = (depth > 0) & (_dilate(masks[v], radii[v]).flatten()[nearest] > FOREGROUND)
    seen = pixel >= 0
    votes, electorate = foreground.sum(0), seen.sum(0)
    hull = (votes == electorate) & (votes > 0)
    solid = masks > FOREGROUND
    for dissent in range(1, views):
        needed = torch.zeros_like(hull)
        for v in range(views):
            explained = torch.zeros(height * width, device=device)
            explained[pixel[v][hull & seen[v]]] = 1.0
            unexplained = solid[v] & (_dilate(explained.view(height, width), radii[v]) == 0)
            if unexplained.sum() > UNEXPLAINED_SHARE * solid[v].sum():
                needed |= seen[v] & unexplained.flatten()[pixel[v].clamp(min=0)]
        if not needed.any():
            break
        hull = hull | (needed & (votes > 0) & (electorate - votes <= dissent))
    share = votes / electorate.clamp(min=1)
    return hull.view((resolution,) * 3), share.view((resolution,) * 3)


def _dilate(image: Float[Tensor, "H W"], radius: int) -> Float[Tensor, "H W"]:
    return nn.functional.max_pool2d(image[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0]
