"""Meshes from files, and from the tensors of a ComfyUI MESH."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from .settings import MESH_SUFFIXES
from .surface import vertex_normals
from .triangle_mesh import TriangleMesh

Y_UP = (".glb", ".gltf", ".obj")  # the others are z up, as they are written here
GREY = 0.7  # sRGB of a mesh without colour
MAX_TEXTURE = 8192


def load_mesh(path: str | Path) -> TriangleMesh:
    """A mesh file as one mesh: all objects of it in their places, with its texture or vertex colours.

    Several textures are packed into one. Animations, skins and morph targets are left out (`report["left_out"]`): the mesh is
    in its rest pose.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, or holds no faces or a vertex that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no mesh at '{path}': give a file that ends in {', '.join(MESH_SUFFIXES)}")
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"cannot read '{path.name}' as a mesh: its suffix must be one of {', '.join(MESH_SUFFIXES)}")
    try:
        scene = trimesh.load_scene(path)
        placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
        placed = [(scene.geometry[name], transform) for transform, name in placed if _is_surface(scene.geometry[name])]
        parts = [part for part, _ in placed]
        points = [trimesh.transform_points(part.vertices, transform) for part, transform in placed]
        textures = [_texture(part) for part in parts]
        mirrored = [np.linalg.det(transform[:3, :3]) < 0 for _, transform in placed]  # which turns a surface inside out
        if len(parts) > 1 and any(texture is not None for _, texture in textures):
            parts = [trimesh.util.concatenate([part.copy().apply_transform(transform) for part, transform in placed])]
            mirrored = [False]  # which trimesh has seen to
            points, textures = [parts[0].vertices], [_texture(parts[0])]  # concatenating packs the textures into one
        colors = [_colors(part, linear=suffix in (".glb", ".gltf")) for part in parts]
    except Exception as error:  # what trimesh raises on a damaged file depends on where the damage is
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{path.name} could not be read as a mesh ({told}): export it again") from error
    if not parts:
        raise ValueError(f"{path.name} has no faces: give a surface, not points or lines")
    uvs, texture = textures[0] if len(parts) == 1 else (None, None)
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    mesh = _mesh(
        np.concatenate(points).astype(np.float32),
        np.concatenate(
            [p.faces[:, :: -1 if turned else 1] + start for p, turned, start in zip(parts, mirrored, starts, strict=False)]
        ).astype(np.int64),
        path.name,
        uvs=uvs,
        texture=texture,
        colors=np.concatenate(colors),
    )
    mesh.report = {"file": path.name, "faces": len(mesh.faces), "left_out": _left_out(path)}
    return from_y_up(mesh) if suffix in Y_UP else mesh


def from_y_up(mesh: TriangleMesh) -> TriangleMesh:
    """glTF's frame to ours: (x, y, z) becomes (x, -z, y); undoes `TriangleMesh.y_up`."""
    for name in ("vertices", "normals"):
        x, y, z = getattr(mesh, name).unbind(1)
        setattr(mesh, name, torch.stack((x, -z, y), dim=1))
    return mesh


def from_gltf_tensors(
    vertices: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    uvs: Float[Tensor, "N 2"] | None = None,
    texture: Float[Tensor, "H W 3"] | None = None,
    vertex_colors: Tensor | None = None,
) -> TriangleMesh:
    """One item of a ComfyUI MESH: y up, vertex colours linear; see `TriangleMesh.gltf_tensors`.

    Raises:
        ValueError: there are no faces, they name vertices that are not there, or a vertex is not finite.
    """
    pictures = None if texture is None or uvs is None else _square(texture[..., :3].float().cpu().numpy())
    colors = None
    if vertex_colors is not None:
        colors = linear_to_srgb(vertex_colors[:, :3].float().cpu().clamp(0, 1)).numpy()
    mesh = _mesh(
        vertices.float().cpu().numpy(),
        faces.long().cpu().numpy(),
        "the mesh",
        uvs=None if pictures is None else uvs.float().cpu().numpy(),
        texture=pictures,
        colors=colors,
    )
    return from_y_up(mesh)


def _mesh(vertices, faces, what, *, uvs=None, texture=None, colors=None) -> TriangleMesh:
    if len(faces) == 0:
        raise ValueError(f"{what} has no faces: give a surface, not points")
    if not np.isfinite(vertices).all():
        raise ValueError(f"{what} has vertices that are NaN or infinite: it is damaged")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"{what} has faces that name vertices outside 0..{len(vertices) - 1}: it is damaged")
    return TriangleMesh(
        vertices=torch.from_numpy(np.ascontiguousarray(vertices)),
        faces=torch.from_numpy(np.ascontiguousarray(faces)),
        normals=torch.from_numpy(vertex_normals(vertices, faces)),
        vertex_colors=torch.full((len(vertices), 3), GREY) if colors is None else torch.from_numpy(np.float32(colors)),
        uvs=None if texture is None else torch.from_numpy(np.ascontiguousarray(uvs, np.float32)),
        texture=None if texture is None else torch.from_numpy(np.ascontiguousarray(texture, np.float32)),
    )


def _is_surface(geometry: trimesh.parent.Geometry) -> bool:
    return isinstance(geometry, trimesh.Trimesh) and len(geometry.faces) > 0


def _texture(mesh: trimesh.Trimesh) -> tuple[np.ndarray | None, np.ndarray | None]:
    """UVs with v down, and the base colour's image, or None and None."""
    visual = mesh.visual
    if visual.kind != "texture" or visual.uv is None or len(visual.uv) != len(mesh.vertices):
        return None, None
    image = getattr(visual.material, "baseColorTexture", None) or getattr(visual.material, "image", None)
    if image is None:
        return None, None
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    factor = getattr(visual.material, "baseColorFactor", None)
    if factor is not None:
        pixels = pixels * (np.asarray(factor, np.float32)[:3] / 255)
    return np.stack((visual.uv[:, 0], 1 - visual.uv[:, 1]), axis=1), _square(pixels)


def _square(pixels: np.ndarray) -> np.ndarray:
    """Textures here are square; UVs go from 0 to 1 along either side, so stretching changes nothing."""
    size = min(max(pixels.shape[:2]), MAX_TEXTURE)
    if pixels.shape[:2] == (size, size):
        return pixels
    image = Image.fromarray(np.round(pixels.clip(0, 1) * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255


def _colors(mesh: trimesh.Trimesh, linear: bool) -> np.ndarray:
    """sRGB 0..1 of the vertices, or of the material where they have none; `linear`: the file's vertex colours are."""
    visual = mesh.visual
    stored = getattr(visual, "vertex_attributes", {}).get("color")
    if visual.kind in ("vertex", "face"):
        stored = visual.vertex_colors
    if stored is not None:
        stored = np.asarray(stored)[:, :3]
        scale = np.iinfo(stored.dtype).max if np.issubdtype(stored.dtype, np.integer) else 1
        stored = np.float32(stored) / scale
        return linear_to_srgb(torch.from_numpy(stored)).numpy() if linear else stored
    color = np.full(3, GREY)
    if visual.kind == "texture":
        color = np.asarray(visual.material.main_color[:3], np.float32) / 255
    return np.tile(np.float32(color), (len(mesh.vertices), 1))


def linear_to_srgb(colors: Tensor) -> Tensor:
    """IEC 61966-2-1; undoes `triangle_mesh.srgb_to_linear`."""
    return torch.where(colors <= 0.0031308, colors * 12.92, 1.055 * colors.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def _left_out(path: Path) -> list[str]:
    """What a glTF file has besides a mesh at rest."""
    if path.suffix.lower() == ".gltf":
        tree = json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix.lower() == ".glb":
        data = path.read_bytes()
        (length,) = struct.unpack("<I", data[12:16])
        tree = json.loads(data[20 : 20 + length])
    else:
        return []
    morphs = any(primitive.get("targets") for mesh in tree.get("meshes", []) for primitive in mesh["primitives"])
    return [name for name in ("animations", "skins") if tree.get(name)] + ["morph targets"] * morphs
