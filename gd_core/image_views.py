"""Views from images of anywhere: renders, photographs, other models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from .cameras import Cameras
from .diffusion import foreground_masks
from .nerf.hull import disagreement
from .views import Progress, ViewSet, refuse_inverted

logger = logging.getLogger(__name__)

MIN_VIEWS, MAX_VIEWS, MIN_SIDE = 2, 64, 16
PLACEHOLDER = 64  # pixels a side of the mask that ComfyUI's Load Image makes for a picture without transparency


def views_from_images(
    images: Float[Tensor, "V H W C"],
    masks: Float[Tensor, "M h w"] | None,
    cameras: Callable[[int, float], Cameras],
    *,
    rig_size: int | None = None,
    prompt: str = "",
    progress: Progress | None = None,
) -> ViewSet:
    """Views of one object. What is decided on the way, and what looks wrong, is logged as a warning.

    Args:
        images: RGB, RGBA (alpha is the mask when none is given, and the colours are laid on white) or grey, 0..1; two or
            more, or one sheet of `rig_size` square pictures, row by row.
        masks: 1 on the object; one for each image and of its size. None: alpha, else what differs from the background.
        cameras: makes the cameras of so many images with such a width over height.
        progress: called after each mask that is made, and with step 0 while masks and rig are compared; it may raise to cancel.

    Raises:
        ValueError: the images are too few, too many, too small or of a strange kind; the masks do not fit them, or are
            inverted.
    """
    if len(images) == 1 and rig_size:
        images, masks = _cut_sheet(images, masks, rig_size)
    count, height, width, channels = images.shape
    if not MIN_VIEWS <= count <= MAX_VIEWS:
        raise ValueError(f"'images' holds {count}: batch 2 to {MAX_VIEWS} images of the object, seen from around it")
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"'images' are {width}x{height} pixels: give at least {MIN_SIDE}x{MIN_SIDE}")
    if channels not in (1, 3, 4):
        raise ValueError(f"'images' have {channels} channels: give grey (1), RGB (3) or RGBA (4)")
    where = cameras(count, width / height)
    check = partial(progress, 0, count, None) if progress is not None else lambda: None
    check()
    images = images.float().clamp(0, 1).cpu()
    alpha = images[..., 3] if channels == 4 and bool((images[..., 3] < 1).any()) else None
    images = images[..., :3].expand(-1, -1, -1, 3)
    if alpha is not None:
        images = images * alpha[..., None] + (1 - alpha[..., None])
    masks = _given_masks(masks, count, height, width)
    if masks is None and alpha is not None:
        masks = alpha
        logger.warning("the images' transparency is the mask")
    if masks is None:
        masks = foreground_masks(images, progress)
    else:
        refuse_inverted(masks)
    empty = [str(index + 1) for index, mask in enumerate(masks) if mask.max() <= 0.5]
    if empty and len(empty) < count:
        logger.warning("the mask of image %s is empty: the fit leaves it out", ", ".join(empty))
    if len(empty) < count and (trouble := disagreement(masks, where, check)):
        logger.warning(trouble)
    return ViewSet(images, masks, where, prompt=prompt)


def _given_masks(
    masks: Float[Tensor, "M h w"] | None, count: int, height: int, width: int
) -> Float[Tensor, "V H W"] | None:
    if masks is None:
        return None
    if masks.shape == (count, height, width):
        return masks.float().clamp(0, 1).cpu()
    if masks.shape[1:] == (PLACEHOLDER, PLACEHOLDER) and bool((masks == masks.flatten()[0]).all()):
        logger.warning("'masks' hold nothing (no transparency in Load Image): the object is what differs from the background")
        return None
    raise ValueError(
        f"'masks' are {len(masks)} of {masks.shape[2]}x{masks.shape[1]} pixels, 'images' {count} of "
        f"{width}x{height}: give one mask of the same size for each image"
    )


def _cut_sheet(images: Tensor, masks: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
    """One picture of `count` square ones as a batch, row by row; as it came where it cannot be cut into squares."""
    _, height, width, _ = images.shape
    for rows in range(1, count + 1):
        columns = count // rows
        if rows * columns == count and width % columns == 0 and height % rows == 0 and width // columns == height // rows:
            side = height // rows
            logger.warning("the one image is a sheet of %d x %d views of %d pixels", columns, rows, side)

            def cut(sheet: Tensor, rows=rows, columns=columns, side=side) -> Tensor:
                tiles = sheet[0].unflatten(0, (rows, side)).unflatten(2, (columns, side)).transpose(1, 2)
                return tiles.flatten(0, 1).contiguous()

            whole = masks is not None and masks.shape == (1, height, width)
            return cut(images), cut(masks) if whole else masks
    return images, masks
