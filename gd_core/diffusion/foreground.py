"""Foreground masks of views that show one object before a plain background."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from ..views import Progress

BORDER_SHARE = 1 / 32  # width of the border that the background is read from, as a share of the image
MIN_DISTANCE, SOFT_RANGE = 0.05, 0.10  # RGB distance at which foreground begins, and over which it becomes certain
MIN_SPECK_SHARE = 0.001  # smaller islands are noise of the decoder


def foreground_masks(images: Float[Tensor, "V H W 3"], progress: Progress | None = None) -> Float[Tensor, "V H W"]:
    """Soft masks in 0..1 of what differs from the background, each view by itself.

    The background is a colour gradient (a plane in x and y for each channel) fitted to the image's border, so that white, grey
    and vignetted backgrounds serve alike. What differs from it in colour is foreground; specks are dropped and holes filled,
    since an object is rarely seen through. An object as light as its background cannot be told from it.

    Args:
        images: RGB in 0..1, on any device.
        progress: called after each image; it may raise to cancel.
    """
    masks = []
    for image in images.detach().float().cpu().numpy():
        masks.append(_foreground_mask(image))
        if progress is not None:
            progress(len(masks), len(images), None)
    return torch.from_numpy(np.stack(masks)).to(images.device, torch.float32)


def _foreground_mask(image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    distance = np.linalg.norm(image - _background(image), axis=-1)
    border = _border(height, width)
    # 1.48 MAD is the standard deviation of Gaussian noise; three of them keep a noisy decoder's background out.
    low = max(MIN_DISTANCE, 3 * 1.48 * float(np.median(distance[border])))
    soft = np.clip((distance - low) / SOFT_RANGE, 0, 1)

    solid = soft > 0.5
    islands, _ = ndimage.label(solid)
    large = np.bincount(islands.ravel()) >= max(2, MIN_SPECK_SHARE * solid.size)
    large[0] = False
    solid = large[islands]
    filled = ~_reaching_border(~solid)
    edge = solid & _reaching_border(soft < 1)  # a hole's rim is inside, however soft
    soft = np.where(ndimage.binary_dilation(filled), soft, 0)  # one pixel of soft edge
    return np.where(filled & ~edge, 1, soft).astype(np.float32)


def _reaching_border(open_pixels: np.ndarray) -> np.ndarray:
    """Those that lead to the image's border; the others are holes. `binary_fill_holes` takes minutes at large sizes."""
    gaps, count = ndimage.label(open_pixels)
    outside = np.zeros(count + 1, dtype=bool)
    outside[np.concatenate((gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]))] = True
    outside[0] = False
    return outside[gaps]


def _border(height: int, width: int) -> np.ndarray:
    thickness = max(1, round(min(height, width) * BORDER_SHARE))
    border = np.ones((height, width), dtype=bool)
    border[thickness:-thickness, thickness:-thickness] = False
    return border


def _background(image: np.ndarray) -> np.ndarray:
    """`[H, W, 3]` plane through the border pixels that look like the border's median colour."""
    height, width, _ = image.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack((np.ones_like(x), x, y), axis=-1)
    border = _border(height, width)
    colours, positions = image[border], basis[border]
    background = np.median(colours, axis=0)[None]
    for _ in range(2):  # the object may touch the border: leave out what is far from the fit, then fit again
        away = np.linalg.norm(colours - background, axis=-1)
        near = away <= max(0.1, 2 * float(np.median(away)))
        plane, *_ = np.linalg.lstsq(positions[near], colours[near], rcond=None)
        background = positions @ plane
    return basis @ plane
