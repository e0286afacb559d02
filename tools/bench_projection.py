"""Views painted onto a true mesh that lies elsewhere, seen from between them.

    python -m tools.bench_projection --out DIR --field                   analytic solids, two of them hiding parts of themselves
    python -m tools.bench_projection --out DIR --field --scenes toys     or any scenes that `tools/bench_nerf.py` fits

The true surface of each scene is turned by quarter turns, scaled by 1.3 and shifted; `project_views` finds its place again and
paints it from four views. Beside it, with `--field`, the mesh of a field that was fitted to the same views. Pictures show the
truth, the painted mesh and the field's, one below another.

`bled`, of analytic solids, is the share of the surface that took another's colour, farther than `BORDER` from that one.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.mesh import MeshConfig, TriangleMesh, extract_mesh, project_views
from gd_core.mesh.surface import decimate, vertex_normals
from gd_core.nerf import fit_views
from gd_core.views import ViewSet
from tools import nerf_scenes
from tools.bench_mesh import SIZE, held_out_cameras, render_glb
from tools.mesh_scenes import HIDING, SCENES, SolidScene, psnr

VIEW_PIXELS = 128
BORDER = 0.04  # world units: two pixels of a view
TURN = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # y up, then a quarter about the vertical
SCALE, SHIFT = 1.3, np.array([0.3, -0.2, 0.15])


def views_of(scene: SolidScene | nerf_scenes.Scene, cameras: Cameras, size: int) -> ViewSet:
    """The scene as the cameras see it."""
    return scene.views(cameras, size) if isinstance(scene, SolidScene) else ViewSet(*scene.draw(cameras, size), cameras)


def misplaced(scene: SolidScene | nerf_scenes.Scene, faces: int) -> TriangleMesh:
    """The true mesh out of its place."""
    surface = scene.surface()
    vertices, faces = decimate(np.float32(surface.vertices), np.int64(surface.faces), faces)
    moved = np.float32(SCALE * vertices @ TURN.T + SHIFT)
    normals = torch.from_numpy(vertex_normals(moved, faces))
    return TriangleMesh(torch.from_numpy(moved), torch.from_numpy(faces), normals, torch.full((len(moved), 3), 0.7))


def in_place(mesh: TriangleMesh) -> TriangleMesh:
    """Where `project_views` found that the views show it."""
    turn = torch.tensor(mesh.report["turn"], dtype=torch.float32)
    shift = torch.tensor(mesh.report["shift"], dtype=torch.float32)
    return replace(mesh, vertices=mesh.report["scale"] * mesh.vertices @ turn.T + shift, normals=mesh.normals @ turn.T)


def bled(mesh: TriangleMesh, scene: SolidScene) -> float:
    """Share of the area of a painted mesh, in its place, whose hue is nearest to that of another solid, far from it."""
    corners = mesh.vertices[mesh.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    distance = torch.stack([solid.distance(corners.mean(1)) for solid in scene.solids], dim=1)
    size = len(mesh.texture)
    column, row = (mesh.uvs[mesh.faces].mean(1) * size).long().clamp(0, size - 1).unbind(1)
    hues = torch.nn.functional.normalize(torch.tensor([solid.color for solid in scene.solids]), dim=1)
    alike = torch.nn.functional.normalize(mesh.texture[row, column], dim=1) @ hues.T
    near = distance < distance.amin(1, keepdim=True) + BORDER
    wrong = alike.amax(1) > torch.where(near, alike, -1).amax(1) + 1e-4
    return float((area * wrong).sum() / area.sum())


def strip(rows: list[torch.Tensor], path: Path) -> None:
    """Pictures `[V, H, W, 3]` side by side, one row below another."""
    pixels = torch.cat([torch.cat(list(row), dim=1) for row in rows]).clamp(0, 1)
    Image.fromarray((pixels * 255).round().byte().numpy()).save(path)


def bench(name: str, scene: SolidScene | nerf_scenes.Scene, out: Path, with_field: bool) -> dict:
    views, expected = views_of(scene, orbit_cameras(4), VIEW_PIXELS), views_of(scene, held_out_cameras(), SIZE).images
    painted = project_views(misplaced(scene, 10_000), views, texture_size=512)
    placed, stem = in_place(painted), re.sub(r"\W+", "_", name)
    path = placed.export(out / f"{stem}_projected.glb", overwrite=True)
    shown = [expected, render_glb(path, held_out_cameras(), SIZE)]
    row = {
        "agreement": painted.report["agreement"],
        "seen": painted.report["seen"],
        "psnr_projected": round(psnr(shown[1], expected), 2),
    }
    if isinstance(scene, SolidScene):
        row["bled"] = round(bled(placed, scene), 4)
    if with_field:
        baked = extract_mesh(fit_views(views), MeshConfig(texture_size=512))
        path = baked.export(out / f"{stem}_baked.glb", overwrite=True)
        shown.append(render_glb(path, held_out_cameras(), SIZE))
        row["psnr_baked_field"] = round(psnr(shown[2], expected), 2)
    strip(shown, out / f"{stem}.png")
    print(name, json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the meshes and projection.json")
    parser.add_argument("--field", action="store_true", help="also fit a field to the views and bake its mesh")
    parser.add_argument(
        "--scenes", default="analytic", help="analytic (default), or what tools/bench_nerf.py takes: solids, toys, ..."
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.scenes == "analytic":
        chosen = SCENES | HIDING
    else:
        chosen = {scene.name: scene for scene in nerf_scenes.scenes(args.scenes)}
    rows = {name: bench(name, scene, args.out, args.field) for name, scene in chosen.items()}
    for measure in ("psnr_projected", "psnr_baked_field"):
        if all(measure in row for row in rows.values()):
            print(f"mean {measure}: {np.mean([row[measure] for row in rows.values()]):.2f}")
    (args.out / "projection.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
