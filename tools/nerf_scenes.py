"""Scenes that the NeRF benchmark fits: solids, toys, meshes of pyvista's, and textured shapes that are thin or hollow.

Every scene draws any cameras at any size, and knows its true surface. `textured` scenes have what these lack: a check of
some three and a half pixels on their colours, and a choice of two lights, one that stays where it is in the world, and a lamp
at the camera whose light comes back in highlights, as multi-view models like to draw it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyvista
import torch
import trimesh
from pyvista import examples
from torch import Tensor
from trimesh.ray.ray_pyembree import RayMeshIntersector

from gd_core.cameras import Cameras
from tools.tiny.renderer import AMBIENT, DIFFUSE, LIGHT, placed, render
from tools.tiny.scenes import Solid, random_scene
from tools.tiny.toys import PARTS

SOLID_SCENES = {
    "cube+sphere+cylinder": [
        Solid("cube", "red", "", 0.45, (-0.45, 0.0, 0.0), 0.3),
        Solid("sphere", "blue", "", 0.40, (0.45, 0.3, -0.1), 0.0),
        Solid("cylinder", "green", "", 0.35, (0.1, -0.5, 0.1), 0.0),
    ],
    "cube next to sphere": [
        Solid("cube", "yellow", "", 0.50, (-0.5, 0.1, 0.0), 0.7),
        Solid("sphere", "purple", "", 0.50, (0.5, -0.1, 0.0), 0.0),
    ],
    "cone on cube": [
        Solid("cube", "orange", "", 0.55, (0.0, 0.0, -0.4), 0.4),
        Solid("cone", "cyan", "", 0.45, (0.0, 0.0, 0.43), 0.0),
    ],
    "torus beside cylinder": [
        Solid("torus", "pink", "", 0.55, (-0.45, 0.15, 0.0), 0.0),
        Solid("cylinder", "green", "", 0.45, (0.55, -0.15, 0.0), 0.0),
    ],
    "one sphere": [Solid("sphere", "cyan", "", 0.85, (0.0, 0.0, 0.0), 0.0)],
    "one cube": [Solid("cube", "red", "", 0.85, (0.0, 0.0, 0.0), 0.25)],
    "ball on torus": [
        Solid("torus", "blue", "", 0.75, (0.0, 0.0, -0.35), 0.0),
        Solid("sphere", "orange", "", 0.42, (0.0, 0.0, 0.2), 0.0),
    ],
    "cone beside cone": [
        Solid("cone", "purple", "", 0.55, (-0.4, -0.25, 0.0), 0.0),
        Solid("cone", "yellow", "", 0.45, (0.5, 0.3, -0.05), 0.0),
    ],
}
TOYS_OF_SCENES = (  # what each toy scene holds
    (("red", "mug"),),
    (("blue", "chair"),),
    (("purple", "table"),),
    (("pink", "cat"),),
    (("orange", "car"),),
    (("yellow", "duck"), ("green", "tree")),
    (("cyan", "house"), ("red", "rabbit")),
    (("green", "mushroom"), ("purple", "robot")),
)
SHIPPED = {"ant": "ant.ply", "airplane": "airplane.ply", "nut": "nut.ply"}
CHECK = 0.03  # side of the texture's cells, world units: 3.5 pixels of a 256 px view, 1.75 of one of 128
CONTRAST = 0.18  # of the check, both ways
LAMP_AMBIENT, LAMP_DIFFUSE, LAMP_HIGHLIGHT, LAMP_SHARPNESS = 0.35, 0.55, 0.35, 30


@dataclass(frozen=True)
class Scene:
    """A name, its pictures (`draw(cameras, size)`: images `[V, H, W, 3]` on white, masks `[V, H, W]`) and its surface."""

    name: str
    draw: Callable[[Cameras, int], tuple[Tensor, Tensor]]
    surface: Callable[[], trimesh.Trimesh]


def scenes(kind: str) -> list[Scene]:
    """`solids`, `toys`, `mesh` (pyvista's, smooth colours), `textured` (all shapes, both lights), `all` (solids and meshes), or
    names separated by semicolons."""
    solids = [Scene(name, lambda c, s, n=name: solid_views(n, c, s), lambda n=name: solid_surface(n)) for name in SOLID_SCENES]
    toys = [toy_scene(things) for things in TOYS_OF_SCENES]
    mesh = [mesh_scene(name, SHIPPED_SHAPES[name], "world", 0.0) for name in SHIPPED]
    textured = [
        mesh_scene(f"{name}, {light}", shape, light, CONTRAST)
        for name, shape in (SHIPPED_SHAPES | MADE_SHAPES).items()
        for light in ("world", "lamp")
    ]
    groups = {"solids": solids, "toys": toys, "mesh": mesh, "textured": textured, "all": solids + mesh}
    if kind in groups:
        return groups[kind]
    known = {scene.name: scene for scene in solids + toys + mesh + textured}
    return [known[name.strip()] for name in kind.split(";")]


def mesh_scene(name: str, shape: Callable[[], trimesh.Trimesh], light: Literal["world", "lamp"], contrast: float) -> Scene:
    return Scene(name, lambda c, s: mesh_views(shape(), c, s, light, contrast), shape)


def solid_views(name: str, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    image, coverage = render(SOLID_SCENES[name], cameras, size)
    return image, coverage.sum(1).clamp(0, 1)


def solid_surface(name: str) -> trimesh.Trimesh:
    """The outside of a scene of solids as `tools/tiny/renderer.py` draws them, one after another."""
    unit = {
        "cube": trimesh.creation.box(extents=[1.52] * 3),
        "sphere": trimesh.creation.icosphere(4, 0.9),
        "cylinder": trimesh.creation.cylinder(0.62, 1.9, sections=96),
        "cone": trimesh.creation.cone(0.86, 1.84, sections=96).apply_translation([0, 0, -0.92]),
        "torus": trimesh.creation.torus(0.7, 0.3, major_sections=96, minor_sections=48),
    }
    parts = []
    for solid in SOLID_SCENES[name]:
        part = unit[solid.shape].copy().apply_scale(solid.radius)
        part.apply_transform(trimesh.transformations.rotation_matrix(solid.yaw, [0, 0, 1]))
        parts.append(part.apply_translation(solid.center))
    return trimesh.util.concatenate(parts)


def toy_scene(things: tuple[tuple[str, str], ...]) -> Scene:
    """Toys beside one another, placed by chance, but always the same."""
    name = " + ".join(" ".join(thing) for thing in things)
    toys = random_scene(
        random.Random(name), len(things), world="toys", pairs=things, relation="beside" if things[1:] else ""
    ).solids

    def draw(cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
        image, coverage = render(toys, cameras, size)
        return image, coverage.sum(1).clamp(0, 1)

    return Scene(name, draw, lambda: surface_of_parts(toys))


def surface_of_parts(things: Sequence[Solid]) -> trimesh.Trimesh:
    """The outside of all that `tools/tiny/renderer.py` draws of the things: their parts united, closed, hollows filled."""
    meshes = []
    for thing in things:
        for part in PARTS[thing.shape]:
            center, rotation, scale = placed(part, thing)
            mesh = part_shape(part.kind)
            mesh.apply_transform(trimesh.transformations.compose_matrix(scale=scale))
            mesh.vertices = mesh.vertices @ rotation.T + center
            meshes.append(mesh)
    shells = trimesh.boolean.union(meshes, engine="manifold").split()
    return trimesh.util.concatenate([shell for shell in shells if shell.volume > 0])


def part_shape(kind: str) -> trimesh.Trimesh:
    """A part in its own frame, as the renderer has it."""
    arc = np.linspace(0, np.pi / 2, 25)
    outlines = {
        "cylinder": [(0, -1), (1, -1), (1, 1), (0, 1)],
        "cup": [(0, -1), (1, -1), (1, 1), (0.84, 1), (0.84, -0.75), (0, -0.75)],
        "cone": [(0, -1), (1, -1), (0, 1)],
        "dome": [(0, 0), *zip(np.cos(arc[:-1]), np.sin(arc[:-1]), strict=True), (0, 1)],
    }
    if kind in outlines:
        return trimesh.creation.revolve(np.array(outlines[kind], float), sections=96)
    if kind == "wedge":
        return trimesh.convex.convex_hull([(x, y, z) for x in (-1, 1) for y, z in ((-1, -1), (1, -1), (0, 1))])
    if kind == "torus":
        return trimesh.creation.torus(0.7, 0.3, major_sections=96, minor_sections=48)
    return trimesh.creation.box(extents=[2] * 3) if kind == "box" else trimesh.creation.icosphere(4, 1.0)


def shipped_shape(name: str) -> trimesh.Trimesh:
    """A mesh of pyvista's examples."""
    surface = pyvista.read(Path(examples.__file__).parent / SHIPPED[name])
    surface = surface.extract_surface(algorithm="dataset_surface").triangulate()
    return fitted(trimesh.Trimesh(surface.points, surface.faces.reshape(-1, 4)[:, 1:], process=True))


def chair() -> trimesh.Trimesh:
    """Four thin legs, a seat, a back of bars: much that is thin, and much that one sees through."""
    bars = [([0.9, 0.9, 0.1], (0.0, 0.0, 0.0)), ([0.9, 0.1, 0.14], (0.0, 0.4, 0.95)), ([0.9, 0.08, 0.12], (0.0, 0.4, 0.5))]
    bars += [([0.1, 0.1, 0.75], (x, y, -0.42)) for x in (-0.38, 0.38) for y in (-0.38, 0.38)]
    bars += [([0.08, 0.08, 0.95], (x, 0.4, 0.5)) for x in (-0.4, -0.13, 0.13, 0.4)]
    parts = [trimesh.creation.box(extents=size).apply_translation(at) for size, at in bars]
    turned = trimesh.transformations.rotation_matrix(0.5, [0, 0, 1])
    return fitted(trimesh.util.concatenate(parts).apply_transform(turned))


def cup() -> trimesh.Trimesh:
    """A thin wall around a hollow, open above, with a handle."""
    outline = [(0.0, -0.6), (0.42, -0.6), (0.6, 0.6), (0.53, 0.6), (0.36, -0.5), (0.0, -0.5)]
    wall = trimesh.creation.revolve(np.array(outline), sections=96)
    handle = trimesh.creation.torus(0.33, 0.07, major_sections=64, minor_sections=24)
    handle.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0])).apply_translation([0.72, 0, 0])
    return fitted(trimesh.util.concatenate([wall, handle]))


def jack() -> trimesh.Trimesh:
    """Six thin arms with balls at their ends, and a ball in the middle."""
    ends = np.array([(1, 0.2, 0.3), (-0.9, 0.4, 0.2), (0.1, 1, 0.1), (0.1, -0.9, 0.4), (0.3, 0.1, 1), (-0.2, -0.3, -1)])
    parts = [trimesh.creation.icosphere(4, 0.28)]
    parts += [trimesh.creation.cylinder(0.055, segment=[(0, 0, 0), end], sections=32) for end in ends]
    parts += [trimesh.creation.icosphere(3, 0.15).apply_translation(end) for end in ends]
    return fitted(trimesh.util.concatenate(parts))


def fitted(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Centred, its bounding sphere of radius 0.95."""
    mesh.apply_translation(-mesh.bounds.mean(0))
    mesh.apply_scale(0.95 / np.linalg.norm(mesh.vertices, axis=1).max())
    mesh.fix_normals()
    return mesh


SHIPPED_SHAPES = {name: lambda n=name: shipped_shape(n) for name in SHIPPED}
MADE_SHAPES = {"chair": chair, "cup": cup, "jack": jack}


def mesh_color(points: Tensor, contrast: float) -> Tensor:
    """A smooth texture in space, so that colour as well as shape can be wrong, with a check on it."""
    phase = torch.tensor([0.0, 2.1, 4.2])
    check = 1 - 2 * (points / CHECK).floor().sum(1, keepdim=True).remainder(2)
    return (0.55 + 0.35 * torch.sin(2.5 * points + phase)) * (1 + contrast * check)


def mesh_views(
    mesh: trimesh.Trimesh, cameras: Cameras, size: int, light: str, contrast: float, supersample: int = 2
) -> tuple[Tensor, Tensor]:
    """Ray-traced by embree. `light`: "world", as in toy scenes, or "lamp", at each camera, with highlights (Phong 1975)."""
    fine = size * supersample
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays(fine, fine))
    tracer = RayMeshIntersector(mesh)
    points, rays, triangles = tracer.intersects_location(origins.numpy(), directions.numpy(), multiple_hits=False)
    rays, points = torch.from_numpy(rays), torch.from_numpy(np.asarray(points)).float()
    normals = torch.from_numpy(mesh.face_normals[triangles]).float()
    facing = -(normals * directions[rays]).sum(1, keepdim=True)
    normals, facing = normals * torch.sign(facing), facing.abs()
    colors = mesh_color(points, contrast)
    if light == "world":
        shaded = colors * (AMBIENT + DIFFUSE * (normals @ LIGHT).clamp(min=0))[:, None]
    else:
        shaded = colors * (LAMP_AMBIENT + LAMP_DIFFUSE * facing) + LAMP_HIGHLIGHT * facing**LAMP_SHARPNESS
    image, mask = torch.ones(len(origins), 3), torch.zeros(len(origins))
    image[rays], mask[rays] = shaded.clamp(0, 1), 1.0
    shape = (len(cameras), size, supersample, size, supersample)
    return image.reshape(*shape, 3).mean((2, 4)), mask.reshape(shape).mean((2, 4))
