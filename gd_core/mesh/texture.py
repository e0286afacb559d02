"""Unwrapping, and colours baked from the field: on the texels of a UV atlas, or on the vertices.

UV coordinates follow glTF: u to the right, v **down**, the texture's first row at v = 0.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from ..settings.mesh import MAX_UNWRAP_FACES as MAX_UNWRAP_FACES
from .density import Field, query
from .surface import Faces, Vertices, unit

PADDING_TEXELS = 4  # between charts: two mip levels without bleeding
PAIRS_PER_PASS = 1 << 20  # (triangle, texel) pairs rasterised at once
TEXELS_PER_BAKE = 1 << 16  # coloured at once
TEXELS_PER_BAND = 1 << 20  # of a band of rows that is padded at once
BAND_OVERLAP = 64  # rows above and below a band where its nearest texels are looked for: more than any filter reads
UNWRAP_PROCESS = Path(__file__).with_name("unwrap_process.py")
POLL_SECONDS = 0.1  # between two looks whether it is done


def unwrap(
    vertices: Vertices, faces: Faces, normals: Vertices, texture_size: int, check: Callable[[], None] = lambda: None
) -> tuple[Int[np.ndarray, " M"], Faces, Float[np.ndarray, "M 2"]]:
    """Cut the surface into charts and pack them (xatlas, in a process of its own: see `unwrap_process`).

    `check` is called ten times a second and may raise: that ends the process.

    Returns:
        the source vertex of each new vertex (seams have several), faces over the new vertices in the given order, and UVs
        in 0..1.
    """
    if len(faces) > MAX_UNWRAP_FACES:
        raise ValueError(
            f"a mesh of {len(faces)} faces is too large to unwrap (limit {MAX_UNWRAP_FACES}): "
            "set a lower number of target faces, or use vertex colours instead of a texture"
        )
    with TemporaryDirectory(prefix="grounded-dreamer-") as folder:
        np.savez(
            f"{folder}/mesh.npz",
            vertices=vertices.astype(np.float32),
            faces=faces.astype(np.uint32),
            normals=normals.astype(np.float32),
            resolution=texture_size,
            padding=PADDING_TEXELS,
        )
        run_until_done([sys.executable, str(UNWRAP_PROCESS), folder, *sys.path], Path(folder, "log"), check)
        with np.load(f"{folder}/atlas.npz") as atlas:
            source, new_faces, uvs = atlas["source"], atlas["faces"], atlas["uvs"]
    return source.astype(np.int64), new_faces.astype(np.int64), np.clip(uvs, 0, 1).astype(np.float32)


def run_until_done(command: list[str], log: Path, check: Callable[[], None]) -> None:
    """Run a program and `check` meanwhile; if that raises, the program is ended. Raises OSError when the program fails."""
    quiet = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # else Windows opens a console
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, creationflags=quiet)
    try:
        while process.poll() is None:
            check()
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        said = log.read_text(errors="replace").strip().splitlines()
        why = said[-1] if said else f"xatlas crashed with code {process.returncode}"
        raise OSError(f"the mesh could not be unwrapped ({why}): try another number of target faces, or vertex colours")


def rasterize_uvs(
    uvs: Float[np.ndarray, "M 2"], faces: Faces, size: int, check: Callable[[], None] = lambda: None
) -> tuple[Int[np.ndarray, "size size"], Float[np.ndarray, "size size 3"]]:
    """Which triangle covers each texel's centre, and where inside it. `check` is called before each pass and may raise.

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
        check()
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
    texture: Float[np.ndarray, "size size 3"], covered: Bool[np.ndarray, "size size"], check: Callable[[], None] = lambda: None
) -> Float[np.ndarray, "size size 3"]:
    """Give uncovered texels the colour of the nearest covered one, so that no filter ever reads a seam.

    Band by band of rows, with `check` before each, which may raise. A texel farther from everything than `BAND_OVERLAP` rows
    takes the colour of a covered texel of its band, or the mean colour where there is none.
    """
    size = len(covered)
    padded = np.empty_like(texture)
    rows = max(1, TEXELS_PER_BAND // size)
    for start in range(0, size, rows):
        check()
        top = max(0, start - BAND_OVERLAP)
        seen = covered[top : start + rows + BAND_OVERLAP]
        if not seen.any():
            padded[start : start + rows] = texture[covered].mean(0) if covered.any() else 0
            continue
        row, column = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
        inside = slice(start - top, start - top + rows)
        padded[start : start + rows] = texture[top + row[inside], column[inside]]
    return padded


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
    vertex_colors: Float[np.ndarray, "M 3"],
    painted: Bool[np.ndarray, " F"],
) -> tuple[Float[np.ndarray, "size size 3"], float]:
    """Query the field's colour at every texel of the atlas; returns the padded texture and the covered fraction.

    Faces that are `painted` (lids over a cut, where the field has no surface) take their corners' colours instead.
    """
    face_of_texel, barycentric = rasterize_uvs(uvs, faces, size, lambda: tick(0))
    texture = np.zeros((size, size, 3), dtype=np.float32)
    texels = np.flatnonzero(face_of_texel >= 0)
    for start in range(0, len(texels), TEXELS_PER_BAKE):
        tick(start / len(texels))
        chosen = texels[start : start + TEXELS_PER_BAKE]
        corner, weight = faces[face_of_texel.ravel()[chosen]], barycentric.reshape(-1, 3)[chosen][..., None]
        points = (vertices[corner] * weight).sum(1)
        directions = unit((normals[corner] * weight).sum(1)).astype(np.float32)
        colors = shell_colors(field, points, directions, depth, samples)
        lid = painted[face_of_texel.ravel()[chosen]]
        colors[lid] = (vertex_colors[corner[lid]] * weight[lid]).sum(1)
        texture.reshape(-1, 3)[chosen] = colors
    return pad_texture(texture, face_of_texel >= 0, lambda: tick(1)), len(texels) / size**2
