"""A texture from views, for any mesh: a texel takes the colours of the views that see it, the more the straighter they look.

Seams blend because weights fall off smoothly towards the rim of what a view sees; texels that no view sees take the colours of
the nearest ones that some view does, of the same connected piece and on the same side of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.spatial import cKDTree

from ..nerf.hull import project
from ..settings.mesh import MAX_UNWRAP_FACES
from ..views import Progress, ViewSet
from .raster import depth_maps, sample
from .settings import MIN_AGREEMENT
from .silhouette import place
from .surface import Faces, NewFaces, NewVertices, Vertices, piece_labels, unit
from .texture import pad_texture, rasterize_uvs, unwrap
from .triangle_mesh import TriangleMesh

DEPTH_PIXELS = 2  # depth maps are this much finer than the views
DEPTH_SLACK = 0.012  # share of the mesh's size by which a texel may lie behind the nearest surface
STRAIGHTNESS = 3.0  # exponent of the cosine between the normal and the view
RIM_PIXELS = 3.0  # of a view: weights rise from 0 over so many pixels from the rim of what is seen without a break
NEIGHBOURS = 6  # seen texels that an unseen one takes its colour from
SIDE = 0.5  # of the mesh's size: how far apart two texels with opposite normals count as, in that search
OVERLAP = 1.05  # UVs whose triangles cover more than this times their texels lie on each other


def project_views(
    mesh: TriangleMesh,
    views: ViewSet,
    *,
    texture_size: int = 1024,
    min_agreement: float = MIN_AGREEMENT,
    progress: Progress | None = None,
) -> TriangleMesh:
    """The same surface with a texture that the views paint.

    The mesh may stand in any of the 24 upright or lying positions, at any scale and place: it is compared with the views' masks
    for that, and comes back where it was. Its own UVs are kept where they can hold a texture; else it is unwrapped.

    Args:
        texture_size: texels a side, 16..8192.
        min_agreement: mean intersection over union of the mesh's silhouettes and the views' masks that must be reached, 0..1.

    Returns:
        the mesh; `report` has `agreement`, `seen` (share of the texels that some view sees) and the placement.

    Raises:
        ValueError: the silhouettes do not agree, a view is empty, or the mesh has too many faces to unwrap.
    """
    if not 16 <= texture_size <= 8192:
        raise ValueError(f"texture_size must be 16 to 8192 texels, got {texture_size}")
    tell = progress or (lambda step, total, preview: None)
    views = replace(views, images=views.images.cpu(), masks=views.masks.cpu(), cameras=views.cameras.to("cpu"), attention={})
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    uvs = _own_uvs(mesh, texture_size)
    if uvs is None and len(faces) > MAX_UNWRAP_FACES:
        raise ValueError(
            f"the mesh has {len(faces)} faces and no UVs that can hold a texture, and it can be unwrapped up to "
            f"{MAX_UNWRAP_FACES}: make it smaller first, as core's Decimate Mesh does"
        )
    placement = place(vertices, faces, views, lambda step, total, preview: tell(step, 2 * total, preview))
    if placement.agreement < min_agreement:
        raise ValueError(
            f"the views do not show this mesh: their silhouettes agree to {placement.agreement:.2f} at best (intersection over "
            f"union), {min_agreement:.2f} is needed. Give views of the same object, with masks"
        )
    check = lambda: tell(3, 4, None)  # noqa: E731
    if uvs is None:
        source, faces, uvs = unwrap(vertices, faces, mesh.normals.numpy(), texture_size, check)
    else:
        source = np.arange(len(vertices))
    placed = placement.apply(vertices[source])
    normals = unit(mesh.normals.numpy()[source] @ placement.turn.T).astype(np.float32)
    face_of_texel, barycentric = rasterize_uvs(uvs, faces, texture_size, check)
    covered = face_of_texel >= 0
    corner, weight = faces[face_of_texel[covered]], barycentric[covered][..., None]
    points = (placed[corner] * weight).sum(1)
    facing = unit((normals[corner] * weight).sum(1))
    pieces = _connected(vertices, mesh.faces.numpy())[face_of_texel[covered]]
    colors, seen = paint(points, facing, pieces, placed, faces, views, check)
    texture = np.zeros((texture_size, texture_size, 3), np.float32)
    texture[covered] = colors
    padded = torch.from_numpy(pad_texture(texture, covered, check))
    report = mesh.report | {
        "agreement": round(placement.agreement, 4),
        "seen": round(float(seen.mean()), 4),
        "turn": placement.turn.astype(int).tolist(),
        "scale": placement.scale,
        "shift": placement.shift.tolist(),
    }
    painted = TriangleMesh(
        vertices=mesh.vertices[source],
        faces=torch.from_numpy(faces),
        normals=mesh.normals[source],
        vertex_colors=_at_corners(padded, uvs),
        uvs=torch.from_numpy(np.float32(uvs)),
        texture=padded,
        part=mesh.part,
        part_names=mesh.part_names,
        report=report,
    )
    tell(4, 4, None)
    return painted


def paint(
    points: Vertices,
    facing: Vertices,
    pieces: Int[np.ndarray, " N"],
    vertices: NewVertices,
    faces: NewFaces,
    views: ViewSet,
    check=lambda: None,
) -> tuple[Float[np.ndarray, "N 3"], Bool[np.ndarray, " N"]]:
    """Colours of surface points of a mesh that stands in the views' frame, and which of them some view sees.

    Args:
        points, facing: on the surface, and their outward unit normals.
        pieces: the connected piece of each; one piece takes no colour of another while any view sees some of it.
    """
    size = float(np.linalg.norm(vertices.max(0) - vertices.min(0)))
    height, width = DEPTH_PIXELS * views.height, DEPTH_PIXELS * views.width
    depths = depth_maps(vertices, faces, views.cameras, height, width)
    total, weights = np.zeros((len(points), 3)), np.zeros(len(points))
    for view in range(len(views)):
        check()
        camera = views.cameras[view]
        column, row, depth = (value[0].numpy() for value in project(camera, torch.from_numpy(points), height, width))
        parallel = camera.ortho_height[0] > 0
        toward = camera.c2w[0, :3, 2].numpy() if parallel else unit(camera.positions[0].numpy() - points)
        straight = np.clip((facing * toward).sum(1), 0, 1)
        nearest = sample(depths[view][..., None], column, row, "nearest")[:, 0]
        visible = (depth > 0) & (depth < nearest + DEPTH_SLACK * size) & np.isfinite(nearest)
        rim = sample(_from_rim(depths[view], views.masks[view].numpy(), size)[..., None], column, row)[:, 0]
        weight = np.where(visible, straight**STRAIGHTNESS * rim, 0)
        pixels = sample(views.images[view].numpy(), column / DEPTH_PIXELS, row / DEPTH_PIXELS)
        total += weight[:, None] * pixels
        weights += weight
    seen = weights > 1e-3
    colors = total / np.maximum(weights, 1e-12)[:, None]
    if not seen.any():
        raise ValueError("no view sees any of the mesh: give views of it with their cameras")
    if not seen.all():
        check()
        apart = 10 * size * pieces[:, None]
        place_of = np.concatenate((points, SIDE * size / 2 * facing, apart), 1)
        distance, index = cKDTree(place_of[seen]).query(place_of[~seen], k=min(NEIGHBOURS, int(seen.sum())))
        near = 1 / np.maximum(distance.reshape(len(index), -1), 1e-6 * size) ** 2
        colors[~seen] = (colors[seen][index.reshape(len(index), -1)] * near[..., None]).sum(1) / near.sum(1, keepdims=True)
    return colors.clip(0, 1).astype(np.float32), seen


def _connected(vertices: Vertices, faces: Faces) -> Int[np.ndarray, " F"]:
    """The piece of each face; vertices at one place are one, since seams of UVs cut no surface."""
    welded = np.unique(vertices, axis=0, return_inverse=True)[1].reshape(-1)
    return piece_labels(vertices, welded[faces])


def _from_rim(depth: Float[np.ndarray, "h w"], mask: Float[np.ndarray, "H W"], size: float) -> Float[np.ndarray, "h w"]:
    """0 at the rim of what a view sees, or where its depth jumps, rising to 1 over `RIM_PIXELS` of the view."""
    mask = ndimage.zoom(mask, np.array(depth.shape) / mask.shape, order=1)
    drawn = np.isfinite(depth)
    filled = np.where(drawn, depth, depth[drawn].max() + size if drawn.any() else 0)
    jump = ndimage.maximum_filter(filled, 3) - ndimage.minimum_filter(filled, 3) > 4 * DEPTH_SLACK * size
    inside = drawn & (mask > 0.5) & ~jump
    return np.clip((ndimage.distance_transform_edt(inside) - 1) / (RIM_PIXELS * DEPTH_PIXELS), 0, 1).astype(np.float32)


def _own_uvs(mesh: TriangleMesh, texture_size: int) -> Float[np.ndarray, "N 2"] | None:
    """The mesh's UVs, unless they leave the square or lie on each other."""
    if mesh.uvs is None:
        return None
    uvs, faces = mesh.uvs.numpy(), mesh.faces.numpy()
    if uvs.min() < -1e-4 or uvs.max() > 1 + 1e-4:
        return None
    first, second = (uvs[faces[:, k]] - uvs[faces[:, 0]] for k in (1, 2))
    area = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).sum() / 2
    covered = (rasterize_uvs(uvs, faces, texture_size)[0] >= 0).mean()
    return uvs if 0 < area <= OVERLAP * covered + 1e-3 else None


def _at_corners(texture: torch.Tensor, uvs: np.ndarray) -> torch.Tensor:
    size = len(texture)
    return torch.from_numpy(sample(texture.numpy(), uvs[:, 0] * size, uvs[:, 1] * size).clip(0, 1))
