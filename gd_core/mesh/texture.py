"""Unwrapping, and colours baked from the field: on the texels of a UV atlas, or on the vertices.

UV coordinates follow glTF: u to the right, v **down**, the texture's first row at v = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xatlas
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from .density import Field, query
from .surface import Faces, Vertices, unit

PADDING_TEXELS = 4  # between charts: two mip levels without bleeding
MAX_UNWRAP_FACES = 400_000  # xatlas takes minutes and more above
PAIRS_PER_PASS = 1 << 22  # (triangle, texel) pairs rasterised at once


def unwrap(
    vertices: Vertices, faces: Faces, normals: Vertices, texture_size: int
) -> tuple[Int[np.ndarray, " M"], Faces, Float[np.ndarray, "M 2"]]:
    """Cut the surface into charts and pack them (xatlas).

    Returns:
        the source vertex of each new vertex (seams have several), faces over the new vertices in the given order, and UVs
        in 0..1.
    """
    if len(faces) > MAX_UNWRAP_FACES:
        raise ValueError(
            f"a mesh of {len(faces)} faces is too large to unwrap (limit {MAX_UNWRAP_FACES}): "
            "set a lower number of target faces, or use vertex colours instead of a texture"
        )
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32), normals.astype(np.float32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = texture_size, PADDING_TEXELS, True
    atlas.generate(xatlas.ChartOptions(), pack)
    source, new_faces, uvs = atlas.get_mesh(0)
    return source.astype(np.int64), new_faces.astype(np.int64), np.clip(uvs, 0, 1).astype(np.float32)


def rasterize_uvs(
    uvs: Float[np.ndarray, "M 2"], faces: Faces, size: int
) -> tuple[Int[np.ndarray, "size size"], Float[np.ndarray, "size size 3"]]:
    """Which triangle covers each texel's centre, and where inside it.

    Returns:
        face index of each texel (-1 where there is none) and its barycentric coordinates.
    """
    face_of_texel = np.full((size, size), -1, dtype=np.int64)
    barycentric = np.zeros((size, size, 3), dtype=np.float32)
    corners = uvs.astype(np.float64)[faces] * size - 0.5  # in units of texel centres
    low = np.clip(np.ceil(corners.min(1)), 0, size).astype(np.int64)
    high = np.clip(np.floor(corners.max(1)) + 1, 0, size).astype(np.int64)
    extent = np.maximum(high - low, 0)
    area = cross_2d(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    texels = np.where(np.abs(area) > 1e-12, extent[:, 0] * extent[:, 1], 0)
    passes = np.cumsum(texels) // PAIRS_PER_PASS
    for number in np.unique(passes[texels > 0]):
        chosen = np.flatnonzero((passes == number) & (texels > 0))
        triangle = np.repeat(chosen, texels[chosen])
        first = np.repeat(np.cumsum(texels[chosen]) - texels[chosen], texels[chosen])
        offset = np.arange(len(triangle)) - first
        column = low[triangle, 0] + offset % extent[triangle, 0]
        row = low[triangle, 1] + offset // extent[triangle, 0]
        a, b, c = (corners[triangle, corner] - np.stack((column, row), axis=1) for corner in range(3))
        weights = np.stack((cross_2d(b, c), cross_2d(c, a), cross_2d(a, b)), axis=1) / area[triangle, None]
        hit = (weights >= -1e-7).all(1)
        face_of_texel[row[hit], column[hit]] = triangle[hit]
        barycentric[row[hit], column[hit]] = weights[hit]
    return face_of_texel, barycentric


def cross_2d(a: Float[np.ndarray, "N 2"], b: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def pad_texture(
    texture: Float[np.ndarray, "size size 3"], covered: Bool[np.ndarray, "size size"]
) -> Float[np.ndarray, "size size 3"]:
    """Give every uncovered texel the colour of the nearest covered one, so that no filter ever reads a seam."""
    row, column = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return texture[row, column]


def shell_colors(
    field: Field,
    points: Vertices,
    normals: Vertices,
    depth: float,
    samples: int,
    tick: Callable[[float], None] | None = None,
) -> Float[np.ndarray, "N 3"]:
    """Colour that a camera right above each surface point would see, `[N, 3]` sRGB in 0..1.

    A short ray runs from `depth` outside the surface to `depth` inside it along the normal and is composited front to
    back as in volume rendering; what light is left takes the last sample's colour. So the colour is that of the densest
    matter near the surface, and a surface that decimation moved by a fraction of a cell does not pick up empty space.
    """
    offsets = np.linspace(depth, -depth, samples, dtype=np.float32)
    ray = (points[:, None] + offsets[:, None] * normals[:, None]).reshape(-1, 3)
    half = (lambda part: tick(part / 2)) if tick else None
    rest = (lambda part: tick(0.5 + part / 2)) if tick else None
    density = query(field, "density", ray, half).reshape(-1, samples)
    alpha = 1 - np.exp(-density * (2 * depth / max(samples - 1, 1)))
    alpha[:, -1] = 1
    transmittance = np.cumprod(np.concatenate((np.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]), axis=1), axis=1)
    weights = alpha * transmittance
    matters = weights.ravel() > 1e-3  # the colour of the others is not worth a query
    colors = np.zeros((len(ray), 3), dtype=np.float32)
    colors[matters] = query(field, "color", ray[matters], rest)
    blended = np.einsum("nk,nkc->nc", weights, colors.reshape(-1, samples, 3))
    return np.clip(blended, 0, 1).astype(np.float32)


def bake_texture(
    field: Field,
    vertices: Vertices,
    normals: Vertices,
    uvs: Float[np.ndarray, "M 2"],
    faces: Faces,
    size: int,
    depth: float,
    samples: int,
    tick: Callable[[float], None],
) -> tuple[Float[np.ndarray, "size size 3"], float]:
    """Query the field's colour at every texel of the atlas; returns the padded texture and the covered fraction."""
    face_of_texel, barycentric = rasterize_uvs(uvs, faces, size)
    covered = face_of_texel >= 0
    corner, weight = faces[face_of_texel[covered]], barycentric[covered][..., None]
    points = (vertices[corner] * weight).sum(1)
    directions = unit((normals[corner] * weight).sum(1)).astype(np.float32)
    texture = np.zeros((size, size, 3), dtype=np.float32)
    texture[covered] = shell_colors(field, points, directions, depth, samples, tick)
    return pad_texture(texture, covered), float(covered.mean())
