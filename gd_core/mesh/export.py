"""Writing a mesh to GLB, OBJ, PLY or STL: whole or not at all.

Every file is written under a temporary name in the target's folder and renamed once all are complete, so that a full disk
or a cancelled run leaves neither half a file nor a damaged old one.

| suffix | colour | up | extras |
|---|---|---|---|
| .glb | texture or vertex colours, PBR material; a named node for each part | y, as glTF demands | in `asset.extras` |
| .obj | texture (.mtl and .png beside it) or vertex colours | y, as importers expect | |
| .ply | vertex colours | z, as importers expect | |
| .stl | none | z, as importers expect; in millimetres where a print size is given | |
"""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.exchange.stl import export_stl
from trimesh.visual.material import PBRMaterial, SimpleMaterial

if TYPE_CHECKING:
    from .triangle_mesh import TriangleMesh

GENERATOR = "Grounded-Dreamer"
LARGEST_PRINT = 10_000  # millimetres
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963  # glTF 2.0, bufferView.target
ROUGHNESS = 0.9  # a fitted field has no gloss: its highlights are baked into its colours


def write_mesh(mesh: TriangleMesh, path: Path, overwrite: bool, extras: dict, print_mm: float = 0.0) -> Path:
    """Write `mesh` in the format of the path's suffix.

    Args:
        path: ends in .glb, .obj, .ply or .stl; its folder must exist.
        overwrite: replace existing files; otherwise they are an error.
        extras: JSON-able metadata (prompt, seed, settings, workflow). Only GLB has a place for it.
        print_mm: STL knows no units and slicers read millimetres: the longest side becomes so long. 0 keeps world units.

    Returns:
        the path.

    Raises:
        ValueError: unknown suffix, extras that are not JSON, or a print size that is none.
        FileExistsError, FileNotFoundError, OSError: the file is there, its folder is not, or writing failed. Nothing is
            left behind, and old files are as they were.
    """
    write_together(encode_mesh(mesh, path, extras, print_mm), overwrite)
    return path


def encode_mesh(mesh: TriangleMesh, path: Path, extras: dict, print_mm: float = 0.0) -> dict[Path, bytes]:
    """The files that `write_mesh` would write, for `write_together`. A large texture takes seconds; nothing is touched."""
    try:
        json.dumps(extras, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the mesh's extras cannot be written as JSON: {error}") from error
    if path.suffix.lower() not in ENCODERS:
        raise ValueError(f"cannot write a mesh as '{path.name}': its suffix must be one of {', '.join(ENCODERS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path.name}: its folder {path.parent} does not exist")
    if path.suffix.lower() == ".stl":
        mesh = print_sized(mesh, print_mm)
    return {path.with_name(name): data for name, data in ENCODERS[path.suffix.lower()](mesh, path, extras).items()}


def print_sized(mesh: TriangleMesh, print_mm: float) -> TriangleMesh:
    """The mesh with its longest side `print_mm` long, standing on z = 0 around the origin; 0 leaves it as it is."""
    if not 0 <= print_mm <= LARGEST_PRINT:
        raise ValueError(f"the print size must be from 0 to {LARGEST_PRINT} millimetres, got {print_mm}")
    if print_mm == 0:
        return mesh
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    middle = (low + high) / 2
    foot = torch.stack((middle[0], middle[1], low[2]))
    return replace(mesh, vertices=(mesh.vertices - foot) * (print_mm / float((high - low).max())))


def write_together(files: dict[Path, bytes], overwrite: bool) -> None:
    """Write all files or none; the last of them is the one that refers to the others."""
    for path in files:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: choose another name")
    existing = [path for path in files if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} exists: choose another name, or allow it to be overwritten")
    temporary = {path: path.with_name(path.name + ".tmp") for path in files}
    placed: list[Path] = []
    try:
        for path, data in files.items():
            with open(temporary[path], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            temporary[path].replace(path)
            placed.append(path)
    except OSError as error:
        for path in placed:  # new ones; what was replaced cannot come back
            if path not in existing:
                path.unlink(missing_ok=True)
        message = f"the mesh could not be written: {error.strerror}; nothing was left behind"
        raise OSError(error.errno, message, str(list(files)[-1])) from error
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def encode_glb(mesh: TriangleMesh, path: Path, extras: dict) -> dict[str, bytes]:
    upright = mesh.y_up()
    scene = trimesh.Scene()
    material = PBRMaterial(
        name="surface",
        baseColorFactor=[255, 255, 255, 255],
        baseColorTexture=texture_image(mesh),
        metallicFactor=0.0,
        roughnessFactor=ROUGHNESS,
        doubleSided=not mesh.report.get("watertight", False),
    )
    for name, part in upright.parts():
        scene.add_geometry(textured(part, material), geom_name=name, node_name=name)

    def finish(tree: dict) -> None:
        tree["asset"] = {"version": "2.0", "generator": GENERATOR} | ({"extras": extras} if extras else {})
        accessors, views = tree["accessors"], tree["bufferViews"]
        for written in tree["meshes"]:
            primitive = written["primitives"][0]
            attributes = primitive["attributes"]
            if "_COLOR" in attributes:
                attributes["COLOR_0"] = attributes.pop("_COLOR")
                accessors[attributes["COLOR_0"]]["normalized"] = True
            for accessor in attributes.values():
                views[accessors[accessor]["bufferView"]]["target"] = ARRAY_BUFFER
            views[accessors[primitive["indices"]]["bufferView"]]["target"] = ELEMENT_ARRAY_BUFFER

    return {path.name: export_glb(scene, include_normals=True, tree_postprocessor=finish)}


def textured(mesh: TriangleMesh, material: PBRMaterial | SimpleMaterial) -> trimesh.Trimesh:
    """With UVs and the material; without UVs, linear vertex colours of 16 bits (8 would band in the dark)."""
    if mesh.uvs is not None:
        return to_trimesh(mesh, trimesh.visual.TextureVisuals(uv=flip_v(mesh.uvs), material=material))
    written = to_trimesh(mesh, trimesh.visual.TextureVisuals(material=material))
    linear = mesh.gltf_tensors()["vertex_colors"][0].numpy()
    opaque = np.concatenate((linear, np.ones_like(linear[:, :1])), axis=1)
    written.vertex_attributes["_COLOR"] = np.round(opaque * 65535).astype(np.uint16)
    return written


def encode_obj(mesh: TriangleMesh, path: Path, extras: dict) -> dict[str, bytes]:
    upright = mesh.y_up()
    stem = re.sub(r"[^\w.-]", "_", path.stem)  # a space ends a file name inside an .obj
    if stem != path.stem:  # and two names may become one
        stem += f"_{zlib.crc32(path.stem.encode()):08x}"
    if mesh.uvs is None:
        text = export_obj(to_trimesh(upright, vertex_colors(upright)), include_normals=True, header=GENERATOR)
        return {path.name: text.encode()}
    material = SimpleMaterial(image=texture_image(mesh), diffuse=[255, 255, 255], ambient=[255, 255, 255], specular=[0, 0, 0])
    material.name = stem
    text, files = export_obj(
        textured(upright, material), include_normals=True, return_texture=True, mtl_name=f"{stem}.mtl", header=GENERATOR
    )
    return files | {path.name: text.encode()}


def encode_ply(mesh: TriangleMesh, path: Path, extras: dict) -> dict[str, bytes]:
    return {path.name: export_ply(to_trimesh(mesh, vertex_colors(mesh)), vertex_normal=True)}


def encode_stl(mesh: TriangleMesh, path: Path, extras: dict) -> dict[str, bytes]:
    return {path.name: export_stl(to_trimesh(mesh))}


ENCODERS = {".glb": encode_glb, ".obj": encode_obj, ".ply": encode_ply, ".stl": encode_stl}


def to_trimesh(mesh: TriangleMesh, visual: trimesh.visual.base.Visuals | None = None) -> trimesh.Trimesh:
    """The mesh as trimesh holds it, vertices in the given order."""
    return trimesh.Trimesh(
        mesh.vertices.numpy(), mesh.faces.numpy(), vertex_normals=mesh.normals.numpy(), visual=visual, process=False
    )


def vertex_colors(mesh: TriangleMesh) -> trimesh.visual.ColorVisuals:
    return trimesh.visual.ColorVisuals(vertex_colors=to_bytes(mesh.vertex_colors))


def texture_image(mesh: TriangleMesh) -> Image.Image | None:
    return None if mesh.texture is None else Image.fromarray(to_bytes(mesh.texture))


def to_bytes(colors: Tensor) -> np.ndarray:
    return np.round(colors.clamp(0, 1).numpy() * 255).astype(np.uint8)


def flip_v(uvs: Tensor) -> np.ndarray:
    """trimesh and OBJ count v upwards."""
    return np.stack((uvs[:, 0].numpy(), 1 - uvs[:, 1].numpy()), axis=1)
