"""Depth of a mesh as cameras see it: a z-buffer in numpy."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from ..cameras import Cameras
from ..nerf.hull import project
from .surface import Faces, Vertices
from .texture import PAIRS_PER_PASS, cross_2d


def depth_maps(
    vertices: Vertices, faces: Faces, cameras: Cameras, height: int, width: int
) -> Float[np.ndarray, "V height width"]:
    """Depth along the view axis of the nearest surface at each pixel's centre, infinite where there is none.

    A triangle that reaches behind a camera is left out of its map.
    """
    column, row, depth = (value.double().numpy() for value in project(cameras, torch.from_numpy(vertices), height, width))
    return np.stack([
        _depth_map(np.stack((x, y), 1)[faces] - 0.5, z[faces], height, width)
        for x, y, z in zip(column, row, depth, strict=True)
    ])  # fmt: skip


def _depth_map(corners: np.ndarray, depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Of triangles `[F, 3, 2]` in units of pixel centres. 1 / depth is what is linear across a picture."""
    inverse = np.zeros(height * width)
    size = np.array([width, height])
    low = np.clip(np.ceil(corners.min(1)), 0, size).astype(np.int64)
    high = np.clip(np.floor(corners.max(1)) + 1, 0, size).astype(np.int64)
    extent = np.maximum(high - low, 0)
    area = cross_2d(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    drawn = (np.abs(area) > 1e-12) & (depth > 1e-3).all(1)
    pixels = np.where(drawn, extent[:, 0] * extent[:, 1], 0)
    passes = np.cumsum(pixels) // PAIRS_PER_PASS
    for number in np.unique(passes[pixels > 0]):
        chosen = np.flatnonzero((passes == number) & (pixels > 0))
        triangle = np.repeat(chosen, pixels[chosen])
        offset = np.arange(len(triangle)) - np.repeat(np.cumsum(pixels[chosen]) - pixels[chosen], pixels[chosen])
        x = low[triangle, 0] + offset % extent[triangle, 0]
        y = low[triangle, 1] + offset // extent[triangle, 0]
        a, b, c = (corners[triangle, corner] - np.stack((x, y), axis=1) for corner in range(3))
        weights = np.stack((cross_2d(b, c), cross_2d(c, a), cross_2d(a, b)), axis=1) / area[triangle, None]
        hit = (weights >= -1e-7).all(1)
        near = (weights[hit] / depth[triangle[hit]]).sum(1)
        np.maximum.at(inverse, y[hit] * width + x[hit], near)
    with np.errstate(divide="ignore"):
        return (1 / inverse).reshape(height, width)
