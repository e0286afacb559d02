"""From a radiance field to a textured mesh: the whole of the mesh stage, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from ..recipe import Recipe
from ..settings.mesh import MeshConfig as MeshConfig
from ..views import Progress
from . import surface
from .density import LOG_LIMIT, Field, density_grid, half_size, query
from .parts import split_by_labels
from .texture import bake_texture, shell_colors, unwrap
from .triangle_mesh import TriangleMesh

REST = "rest"  # the part that has no label
UNLABELLED_BIAS = 0.5  # so much more must be without a label than labelled
STAGES = {"density": 30, "surface": 10, "decimate": 5, "unwrap": 20, "bake": 35}  # share of the time, in percent


class Stopwatch:
    """Times the stages and turns "this part of this stage" into percent of the whole for `progress`."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.before = 0
        self.reported = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        start = time.perf_counter()

        def tick(part: float) -> None:
            self.reported = max(1, self.reported, self.before + int(STAGES[name] * part))
            if self.progress is not None:
                self.progress(self.reported, 100, None)

        yield tick
        tick(1.0)
        self.before += STAGES[name]
        self.seconds[name] = round(time.perf_counter() - start, 3)


def extract_mesh(field: Field, config: MeshConfig | None = None, progress: Progress | None = None) -> TriangleMesh:
    """Turn a field into a closed, decimated, coloured mesh.

    Args:
        field: anything with `density(points)` and `color(points)` in a box (a `RadianceField`); see `density.Field`.
        config: see `MeshConfig`; None takes the recipe that the field carries, or MVDream's where it carries none.
        progress: called with percent of the work done, many times with the same number; may raise to cancel.

    Returns:
        the mesh; `report` says how it came about, and whether it is watertight or what its defects are.

    Raises ValueError when nothing in the field reaches the threshold (the message names the highest density), or when parts by
    words are asked of a field without labels.
    """
    config = config or getattr(field, "recipe", Recipe()).mesh
    if config.parts == "words":
        refuse_unlabelled(field)
    with getattr(field, "kept", nullcontext)():
        return _extract_mesh(field, config, Stopwatch(progress))


def _extract_mesh(field: Field, config: MeshConfig, watch: Stopwatch) -> TriangleMesh:
    with watch.stage("density") as tick:
        grid, threshold, highest = density_grid(field, config.resolution, config.density_threshold, tick)
    with watch.stage("surface") as tick:
        grid = np.pad(grid, 1, constant_values=-LOG_LIMIT)  # what touches the box's border is closed there
        tick(0.1)
        cavities = surface.fill_cavities(grid)
        tick(0.4)
        vertices, faces = surface.isosurface(grid, half_size(field))
        tick(0.9)
        vertices, faces, floaters = surface.drop_floaters(vertices, faces, config.min_piece_fraction)
    with watch.stage("decimate") as tick:
        vertices, faces = surface.decimate(vertices, faces, config.target_faces or len(faces))
        tick(0.5)
        vertices, faces = surface.repair(vertices, faces)
        normals = surface.vertex_normals(vertices, faces)
    report = {
        "resolution": config.resolution,
        "density_threshold": threshold,
        "highest_density": highest,
        "floaters_removed": floaters,
        "cavities_filled": cavities,
        "faces": len(faces),
        **describe_surface(vertices, faces),
    }
    part, part_names, painted = np.zeros(len(faces), np.int64), (), np.zeros(len(faces), bool)
    if config.parts == "pieces":
        part = ranked_pieces(vertices, faces)
        part_names = tuple(f"piece {i + 1}" for i in range(report["pieces"]))
        report["parts"] = [
            {"name": name, "volume": volume, "watertight": report["watertight"]}
            for name, volume in zip(part_names, report["piece_volumes"], strict=True)
        ]
    elif config.parts == "words":
        words = split_by_labels(vertices, faces, normals, label_shares(field, vertices))
        vertices, normals, faces, part, painted = words.vertices, words.normals, words.faces, words.part, words.caps
        part_names = tuple([*field.label_names, REST][label] for label in words.labels)
        report["parts"] = [
            {"name": name, "volume": round(volume, 6), "watertight": watertight}
            for name, volume, watertight in zip(part_names, words.volumes, words.watertight, strict=True)
        ]
        report["absent"] = [name for name in field.label_names if name not in part_names]
        report["watertight"] = all(words.watertight)
    depth = config.shell_depth * 2 * half_size(field) / config.resolution
    uvs = texture = None
    with watch.stage("unwrap") as tick:
        colors = shell_colors(field, vertices, normals, depth, config.shell_samples, lambda part: tick(0.3 * part))
        if config.color == "texture":
            source, faces, uvs = unwrap(vertices, faces, normals, config.texture_size, lambda: tick(0.3))
            vertices, normals, colors = vertices[source], normals[source], colors[source]
    with watch.stage("bake") as tick:
        if config.color == "texture":
            texture, report["texture_coverage"] = bake_texture(
                field,
                vertices,
                normals,
                uvs,
                faces,
                config.texture_size,
                depth,
                config.shell_samples,
                tick,
                colors,
                painted,
            )
    report["seconds"] = watch.seconds
    return TriangleMesh(
        vertices=torch.from_numpy(vertices),
        faces=torch.from_numpy(faces),
        normals=torch.from_numpy(normals),
        vertex_colors=torch.from_numpy(colors),
        uvs=None if uvs is None else torch.from_numpy(uvs),
        texture=None if texture is None else torch.from_numpy(texture),
        part=torch.from_numpy(part),
        part_names=part_names,
        report=report,
    )


def refuse_unlabelled(field: Field) -> None:
    """Raises ValueError when `field` has no labels to cut by."""
    if not getattr(field, "label_names", ()) or not bool(field.label_grid.shares.any()):
        why = getattr(field, "provenance", {}).get("labels", {}).get("note", "")
        raise ValueError(
            "the field does not know which part belongs to which word"
            + (f" ({why})" if why else "")
            + ": choose parts 'pieces' or 'none', or fit it to views of the sampler with a prompt of two subjects or more"
        )


def label_shares(field: Field, points: np.ndarray) -> np.ndarray:
    """What `split_by_labels` compares at points `[N, 3]`, world units: `[N, S + 1]`, the shares of the field's S labels, 0..1,
    and last what has no label, less `UNLABELLED_BIAS`, since shares fade at the rim of what is labelled."""
    shares = query(field, "label_shares", points)
    return np.concatenate((shares, np.clip(1 - shares.sum(1, keepdims=True), 0, 1) - UNLABELLED_BIAS), axis=1)


def ranked_pieces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Connected piece of each face, numbered from the largest volume down."""
    labels = surface.piece_labels(vertices, faces)
    order = np.argsort(-surface.piece_volumes(vertices, faces, labels), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[labels].astype(np.int64)


def describe_surface(vertices: np.ndarray, faces: np.ndarray) -> dict:
    """Pieces with their volumes, and whether the surface is closed; measured before seams are cut."""
    defects = surface.find_defects(faces)
    volumes = surface.piece_volumes(vertices, faces, ranked_pieces(vertices, faces))
    return {
        "pieces": len(volumes),
        "piece_volumes": [round(float(volume), 6) for volume in volumes],
        "watertight": defects.watertight,
        "defects": defects.describe(),
    }
