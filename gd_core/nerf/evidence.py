"""What the views say, ray by ray: the pixels that a fit draws from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor, nn

from ..cameras import Cameras
from ..subject_masks import subject_masks, whose_pixels
from ..views import ViewSet, refuse_inverted
from .apart import divide, seams
from .hull import FOREGROUND, carve, disagreement
from .occupancy import OccupancyGrid

logger = logging.getLogger(__name__)

DISSENT_WEIGHT = 0.1  # of background pixels where most views see a subject: enough to clean up, too little to erase it
SEAM_WEIGHT = 0.1  # of pixels where two subjects meet
SURELY_INSIDE = 0.9  # of the mask of a pixel and of its eight neighbours
OUTLINE_WIDTH = 2.0  # pixels; what is further from the inside is thin, and has nothing but its own colour
BLED = 0.1  # of the way from the nearest inner colour to the background's
CHUNK = 8192
HELD_BACK_SHARE, HELD_BACK_MOST = 0.02, 2048
ONE_LINE = 0.94  # cosine, 20 degrees: views nearer to one line of sight, from one side or from both, say nothing of depth


@dataclass
class Evidence:
    """The R rays of the views that cross the visual hull, with what they should see.

    Attributes:
        origins, directions: `[R, 3]` world units. near, far: `[R]` where each ray enters and leaves the hull.
        color: `[R, 3]` the foreground's share of the pixel's colour, 0..mask. mask: `[R]` 0..1.
        weight: `[R]` how much the pixel is believed.
        pixel: `[R]` which pixel of which view each ray is, counted view by view, row by row.
        cameras: of the V views that have foreground. size: V, H, W.
        training, held_back: indices of the rays to fit and of those to judge by.
        parts: what each of S subjects may fill of the hull, the whole where words do not tell.
    """

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    near: Float[Tensor, " R"]
    far: Float[Tensor, " R"]
    color: Float[Tensor, "R 3"]
    mask: Float[Tensor, " R"]
    weight: Float[Tensor, " R"]
    pixel: Int[Tensor, " R"]
    cameras: Cameras
    size: tuple[int, int, int]
    training: Int[Tensor, " T"]
    held_back: Int[Tensor, " K"]
    parts: Bool[Tensor, "S G G G"]

    def __len__(self) -> int:
        return len(self.mask)


def view_backgrounds(views: ViewSet) -> Float[Tensor, "V 3"]:
    """Median colour of each view's pixels outside its mask; white where the object fills the view."""
    colors = [image[mask < 0.05] for image, mask in zip(views.images, views.masks, strict=True)]
    return torch.stack([c.median(dim=0).values if len(c) else c.new_ones(3) for c in colors])


def gather_evidence(
    views: ViewSet,
    occupancy: OccupancyGrid,
    step: float,
    generator: torch.Generator,
    check: Callable[[], None] = lambda: None,
) -> Evidence:
    """Carve `occupancy` by the views' masks and collect the rays that cross what is left, on its device.

    `check` is called between any two pieces of work and may raise.

    Raises:
        ValueError: masks of views from images are inverted, no view has any foreground, or the views' cameras do not look at
            the same part of the box.
    """
    device = occupancy.hull.device
    filled = (views.masks > FOREGROUND).flatten(1).any(1)
    if not filled.any():
        raise ValueError(
            "the views' masks are empty, so there is nothing to fit: give masks that are 1 on the subject, or views whose "
            "subject stands out from the background"
        )
    if not filled.all():
        empty = ", ".join(str(int(i)) for i in (~filled).nonzero()[:, 0])
        logger.warning("views %s have an empty mask and are left out of the fit (views count from 0)", empty)
    chosen = filled.nonzero()[:, 0].to(views.images.device)
    cameras = views.cameras[chosen].to(device)
    images, masks = views.images[chosen].to(device), views.masks[chosen].to(device)
    sight = cameras.c2w[:, :3, 2]
    if (sight @ sight.T).abs().min() > ONE_LINE:
        logger.warning(
            "the views look along one line, so nothing says how deep the object is, and its shape from the side is a guess: "
            "give a view from the side, too"
        )
    if views.latents is None:  # a model's own views may disagree: that is no mistake of anybody's
        refuse_inverted(views.masks)
        if trouble := disagreement(masks, cameras, check):
            logger.warning(trouble)
    hull, share = carve(masks, cameras, occupancy.resolution, occupancy.half_size, check)
    if not hull.any():
        raise ValueError(
            f"the views agree on no foreground within the box of {2 * occupancy.half_size:g} world units around the origin: "
            "check the cameras' elevation, distance and field of view"
        )
    parts, seam = hull[None], torch.zeros_like(masks, dtype=torch.bool)
    found = subject_masks(views)
    if len(found.names) > 1 and not found.note:
        subject = whose_pixels(found).to(device)[chosen]
        parts = divide(hull, masks, subject, cameras, occupancy.half_size, check)
        if len(parts) > 1:
            seam = seams(masks, subject)
    background = view_backgrounds(views)[chosen].to(device)[:, None, None]
    color = foreground_colors(images, masks, background, check)
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays(views.height, views.width))
    color, mask = color.reshape(-1, 3), masks.reshape(-1)

    occupancy.set_hull(hull & (share < 1))
    disputed = _crossing(occupancy, origins, directions, step, check)[0]
    occupancy.set_hull(hull)
    crosses, near, far = _crossing(occupancy, origins, directions, step, check)
    weight = torch.where(disputed & (mask < FOREGROUND), DISSENT_WEIGHT, 1.0)
    weight = torch.where(seam.flatten(), SEAM_WEIGHT, weight)
    rays = crosses.nonzero()[:, 0]
    shuffled = torch.randperm(len(rays), generator=generator).to(device)
    held_back = min(int(len(rays) * HELD_BACK_SHARE), HELD_BACK_MOST)
    return Evidence(
        *(x[rays] for x in (origins, directions, near, far, color, mask, weight)),
        rays,
        cameras,
        (len(cameras), views.height, views.width),
        shuffled[held_back:],
        shuffled[:held_back],
        parts,
    )


def foreground_colors(
    images: Float[Tensor, "V H W 3"],
    masks: Float[Tensor, "V H W"],
    background: Float[Tensor, "V 1 1 3"],
    check: Callable[[], None] = lambda: None,
) -> Float[Tensor, "V H W 3"]:
    """The foreground's share of each pixel, 0..mask.

    Pixels of the outline may have background in them that a mask which is a little too wide does not own up to. Painted on
    the rim it spreads to all that no view sees, so such pixels take the colour of the nearest pixel well inside.
    """
    own = torch.minimum((images - (1 - masks[..., None]) * background).clamp(min=0), masks[..., None])
    inner = -nn.functional.max_pool2d(-masks[:, None], 3, stride=1, padding=1)[:, 0] > SURELY_INSIDE
    for view, inside in enumerate(inner.cpu().numpy()):
        check()
        if inside.any():
            distance, (row, column) = ndimage.distance_transform_edt(~inside, return_indices=True)
            outline = torch.from_numpy((distance > 0) & (distance <= OUTLINE_WIDTH)).to(images.device)
            nearest = images[view][torch.from_numpy(row).to(images.device), torch.from_numpy(column).to(images.device)]
            towards = background[view] - nearest
            mask = masks[view][..., None]
            bled = ((own[view] / mask.clamp(min=0.05) - nearest) * towards).sum(-1) > BLED * towards.square().sum(-1)
            own[view] = torch.where((outline & bled)[..., None], nearest * mask, own[view])
    return own


def _crossing(
    occupancy: OccupancyGrid, origins: Tensor, directions: Tensor, step: float, check: Callable[[], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Which rays meet an occupied cell, and the distances between which they do, with a stratum to spare."""
    near = origins.new_full((len(origins),), float("inf"))
    far = torch.zeros_like(near)
    for first in range(0, len(origins), CHUNK):
        check()
        chunk = slice(first, first + CHUNK)
        samples = occupancy.march(origins[chunk], directions[chunk], step / 2)
        near[chunk] = near[chunk].scatter_reduce(0, samples.ray, samples.t - step, "amin")
        far[chunk] = far[chunk].scatter_reduce(0, samples.ray, samples.t + step, "amax")
    return near < far, near.clamp(min=0), far
