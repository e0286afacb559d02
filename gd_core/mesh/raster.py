"""What cameras see of a mesh: a z-buffer in numpy, and unlit pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..cameras import Cameras
from ..nerf.hull import project
from .surface import Faces, Vertices
from .texture import PAIRS_PER_PASS, cross_2d
from .triangle_mesh import TriangleMesh


@dataclass
class Visible:
    """The nearest surface at each pixel's centre.

    Attributes:
        depth: along the view axis, infinite where there is none.
        face: its index, -1 where there is none.
        weights: of the face's three corners at that point of it; they sum to one.
    """

    depth: Float[np.ndarray, "height width"]
    face: Int[np.ndarray, "height width"]
    weights: Float[np.ndarray, "height width 3"]


def visible_surfaces(vertices: Vertices, faces: Faces, cameras: Cameras, height: int, width: int) -> list[Visible]:
    """What each camera sees. A triangle that reaches behind a camera is left out of its picture."""
    column, row, depth = (value.double().numpy() for value in project(cameras, torch.from_numpy(vertices), height, width))
    return [
        _visible(np.stack((x, y), 1)[faces] - 0.5, z[faces], height, width, parallel)
        for x, y, z, parallel in zip(column, row, depth, (cameras.ortho_height > 0).tolist(), strict=True)
    ]


def depth_maps(
    vertices: Vertices, faces: Faces, cameras: Cameras, height: int, width: int
) -> Float[np.ndarray, "V height width"]:
    """`Visible.depth` for each camera."""
    return np.stack([seen.depth for seen in visible_surfaces(vertices, faces, cameras, height, width)])


def render_unlit(
    mesh: TriangleMesh, cameras: Cameras, height: int, width: int, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[Float[Tensor, "V height width 3"], Float[Tensor, "V height width"]]:
    """Pictures of a mesh in its own colours, without light: RGB in 0..1 before `background`, and where the mesh is (0 or 1).

    Its texture is sampled bilinearly, once at each pixel's centre; without one, the vertices' colours are.
    """
    images, masks = [], []
    corners = mesh.faces.numpy()
    attribute = (mesh.vertex_colors if mesh.uvs is None else mesh.uvs).numpy()
    for seen in visible_surfaces(mesh.vertices.numpy(), corners, cameras, height, width):
        drawn = seen.face >= 0
        value = (attribute[corners[seen.face[drawn]]] * seen.weights[drawn][..., None]).sum(1)
        if mesh.uvs is not None:
            value = sample(mesh.texture.numpy(), *(value * mesh.texture.shape[1::-1]).T)
        image = np.broadcast_to(np.float32(background), (height, width, 3)).copy()
        image[drawn] = np.clip(value, 0, 1)
        images.append(torch.from_numpy(image))
        masks.append(torch.from_numpy(drawn.astype(np.float32)))
    return torch.stack(images), torch.stack(masks)


def sample(image: np.ndarray, column: np.ndarray, row: np.ndarray, mode: str = "bilinear") -> np.ndarray:
    """`[N, C]` of `[h, w, C]` at pixel coordinates that count from the upper left corner."""
    height, width = image.shape[:2]
    grid = np.stack((2 * column / width - 1, 2 * row / height - 1), -1).astype(np.float32)
    plane = torch.from_numpy(np.ascontiguousarray(image, np.float32)).movedim(-1, 0)[None]
    sampled = F.grid_sample(plane, torch.from_numpy(grid)[None, None], mode, "border", align_corners=False)
    return sampled[0, :, 0].T.numpy()


def _visible(corners: np.ndarray, depth: np.ndarray, height: int, width: int, parallel: bool) -> Visible:
    """Of triangles `[F, 3, 2]` in units of pixel centres. 1 / depth is what is linear across a picture, and depth itself under
    the `parallel` rays of an orthographic camera."""
    inverse, face, share = np.zeros(height * width), np.full(height * width, -1), np.zeros((height * width, 3))
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
        pixel, owner = y[hit] * width + x[hit], triangle[hit]
        parts = weights[hit] if parallel else weights[hit] / depth[owner]
        near = 1 / (parts * depth[owner]).sum(1) if parallel else parts.sum(1)
        np.maximum.at(inverse, pixel, near)
        nearest = near >= inverse[pixel]
        face[pixel[nearest]], share[pixel[nearest]] = owner[nearest], parts[nearest] / parts[nearest].sum(1, keepdims=True)
    shape = (height, width)
    with np.errstate(divide="ignore"):
        return Visible((1 / inverse).reshape(shape), face.reshape(shape), share.reshape(*shape, 3))
