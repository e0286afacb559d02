"""Labels in 3D: whose part of the field each point is, from the subjects' masks in the views.

Cells near the surface take the mean share of the views that see them. A random walk over the field's own colours
(`subject_masks.random_walk`) carries that to what no view sees, and inside. What nothing tells of stays unlabelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor, nn

from ..cameras import Cameras
from ..subject_masks import random_walk, subject_masks
from ..views import ViewSet
from .hull import cell_centres, project

if TYPE_CHECKING:
    from .field import RadianceField

RESOLUTION = 64  # cells a side: attention says nothing finer
RENDER_SIZE = 96  # pixels of the depth maps that tell what a view sees
NEAR = 2.5  # cells: what lies within it of the surface is labelled with it
REACH = 3  # cells beyond what is labelled where a mesh may still find its surface: faint matter that no view sees, in a gap
SLACK = 1.5  # cells that a point may lie behind what a view sees, and be seen


class LabelGrid(nn.Module):
    """Shares of S named subjects on a grid over the field's box; S may be 0.

    Attributes:
        names: S names. Buffer: `shares`, `[S, R, R, R]` uint8, 0 to 255 for shares of 0 to 1, axes in the order x, y, z.
    """

    shares: Tensor

    def __init__(self, names: tuple[str, ...] = (), half_size: float = 1.0) -> None:
        super().__init__()
        self.names, self.half_size = names, half_size
        self.register_buffer("shares", torch.zeros(len(names), *[RESOLUTION] * 3, dtype=torch.uint8))

    def at(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N S"]:
        """Shares at points in world units, 0..1, linear between cells; 0 where nothing is known."""
        where = (points / self.half_size).flip(-1)[None, :, None, None]
        grid = self.shares[None].to(points.dtype) / 255
        if not self.names:
            return points.new_zeros(len(points), 0)
        return F.grid_sample(grid, where, align_corners=False, padding_mode="border")[0, :, :, 0, 0].T


def nearest_label(shares: Float[Tensor, "N S"]) -> Int[Tensor, " N"]:
    """The label of the largest share, -1 where all shares are 0."""
    if shares.shape[1] == 0:
        return torch.full((len(shares),), -1, device=shares.device)
    highest, label = shares.max(1)
    return torch.where(highest > 0, label, -1)


def label_from_views(field: RadianceField, views: ViewSet) -> None:
    """Label `field` by the subjects of the views that it was fitted to; `provenance["labels"]` tells what came of it."""
    found = subject_masks(views)
    field.label_grid = label_field(field, found.names, found.shares, views.cameras)
    field.provenance["labels"] = {"names": list(found.names), "note": found.note}


@torch.no_grad()
def label_field(field: RadianceField, names: tuple[str, ...], masks: Float[Tensor, "S V H W"], cameras: Cameras) -> LabelGrid:
    """Lift the subjects' masks onto `field`.

    Args:
        names: S names. masks: the subjects' shares of each pixel, as `subject_masks` gives them. cameras: V, of the masks.
    """
    labels = LabelGrid(names, field.config.half_size)
    if not names or not bool((masks > 0).any()):
        return labels.to(field.device)
    centres = cell_centres(RESOLUTION, field.device) * field.config.half_size
    spacing = 2 * field.config.half_size / RESOLUTION
    distance = torch.cat([field.shape(chunk) for chunk in centres.split(1 << 16)])
    occupied = torch.cat([field.occupancy.lookup(chunk) for chunk in centres.split(1 << 16)]) > 0
    solid = (distance < 0) & occupied
    # The surface that a mesh takes lies where the density has fallen to a few percent: up to two cells outside.
    active = F.max_pool3d(solid.float().view(1, 1, *[RESOLUTION] * 3), 5, stride=1, padding=2).flatten() > 0
    shell = (active & (distance.abs() < NEAR * spacing)).nonzero()[:, 0]
    if len(shell) == 0:
        return labels.to(field.device)
    votes, seen = _votes(field, centres[shell], masks.to(field.device), cameras.to(field.device), SLACK * spacing)

    cells = [RESOLUTION] * 3
    confidence = torch.zeros(len(centres))
    confidence[shell.cpu()] = (seen / len(cameras)).cpu()
    priors = torch.full((len(names), len(centres)), 1 / len(names))
    priors[:, shell.cpu()] = torch.where(seen > 0, votes / votes.sum(0).clamp(min=1e-6), 1 / len(names)).cpu()
    colors = torch.zeros(len(centres), 3)
    colors[shell.cpu()] = field.albedo(centres[shell]).cpu()
    inside = (active & (distance <= -NEAR * spacing)).cpu()
    colors[inside] = colors[shell.cpu()].mean(0)  # the colour inside is nobody's: one for all, so that labels spread evenly
    shares = random_walk(
        colors.view(*cells, 3).numpy(),
        active.cpu().view(cells).numpy(),
        priors.view(-1, *cells).numpy().astype(np.float64),
        confidence.view(cells).numpy(),
    )
    away, nearest = ndimage.distance_transform_edt(shares.sum(0) == 0, return_indices=True)
    shares = np.where((away <= REACH) & ~active.cpu().view(cells).numpy(), shares[(slice(None), *nearest)], shares)
    labels.shares.copy_(torch.from_numpy(np.round(255 * shares)).to(torch.uint8))
    return labels.to(field.device)


def _votes(
    field: RadianceField, points: Float[Tensor, "N 3"], masks: Float[Tensor, "S V H W"], cameras: Cameras, slack: float
) -> tuple[Float[Tensor, "S N"], Float[Tensor, " N"]]:
    """Sums of the masks over the views that see each point, and how many see it and have something to say."""
    height, width = masks.shape[-2:]
    scale = min(1.0, RENDER_SIZE / max(height, width))
    rendered = field.render(cameras, max(1, round(height * scale)), max(1, round(width * scale)))
    depth = torch.where(rendered.alpha > 0.5, rendered.depth, torch.inf)
    votes, seen = torch.zeros(len(masks), len(points), device=points.device), torch.zeros(len(points), device=points.device)
    column, row, along = project(cameras, points, height, width)
    for v in range(len(cameras)):
        where = torch.stack((column[v] / width, row[v] / height), -1)[None, :, None] * 2 - 1
        said = F.grid_sample(masks[:, v][None], where, align_corners=False)[0, :, :, 0]
        surface = F.grid_sample(depth[v][None, None], where, mode="nearest", align_corners=False)[0, 0, :, 0]
        visible = (points - cameras.positions[v]).norm(dim=1) < surface + slack
        counts = visible & (along[v] > 0) & (where[0, :, 0].abs().amax(1) < 1) & (said.sum(0) > 0)
        votes += said * counts
        seen += counts
    return votes, seen
