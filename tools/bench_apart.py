"""Views that disagree: do two things side by side come out as two plain pieces?

    python -m tools.bench_apart --out out/apart                     40 development scenes
    python -m tools.bench_apart --out out/apart --split test        the 40 whose numbers are reported

Prompts of two solids beside one another, no tori (no view from 15 degrees sees through their hole), sampled by the model with
its own settings, from seeds that no training saw. A scene is sound when its mesh is two pieces of genus 0. Convexity, the share
of a piece's convex hull that it fills, is 1 for these solids: spikes and dents lower it. OUT keeps the sampled views, so that
another fit has the same, and a sheet a scene: the views above, the mesh below, seen from between the views and from above.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.ray.ray_pyembree import RayMeshIntersector

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.diffusion import load_mvdream
from gd_core.diffusion.sampling import sample_objects
from gd_core.mesh import TriangleMesh, extract_mesh
from gd_core.nerf import FitConfig, fit_views
from gd_core.views import ViewSet, load_views
from tools.bench_nerf import parsed
from tools.tiny.judge import judge, solids_of_prompt
from tools.tiny.measure import seeds_of
from tools.tiny.scenes import random_scene

BATCH = 4
SHEET = 160  # pixels a side of a picture in a sheet


def prompts_of(scenes: int, split: str) -> list[str]:
    rng, prompts = random.Random(f"{split}-apart"), []
    while len(prompts) < scenes:
        scene = random_scene(rng, 2, relation="beside")
        if all(solid.shape != "torus" for solid in scene.solids):
            prompts.append(scene.prompt)
    return prompts


def sampled(model_name: str, split: str, scenes: int, out: Path) -> list[ViewSet]:
    """Sampled as `generate` does, or what an earlier call has left in `out`."""
    prompts, seeds = prompts_of(scenes, split), seeds_of(scenes, split)
    files = [out / f"{split}-{i:02d}.views.safetensors" for i in range(scenes)]
    missing = [i for i in range(scenes) if not files[i].exists()]
    model = load_mvdream(model_name, device="cpu") if missing else None
    for first in range(0, len(missing), BATCH):
        batch = missing[first : first + BATCH]
        made = sample_objects(model, [prompts[i] for i in batch], seeds=[seeds[i] for i in batch], refocus="auto")
        for i, views in zip(batch, made, strict=True):
            views.save(files[i])
    return [load_views(file) for file in files]


def measure(mesh: TriangleMesh) -> dict:
    """Pieces from the largest down: genus (`None` where a piece is not closed) and convexity."""
    whole = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    pieces = sorted(whole.split(only_watertight=False), key=lambda p: -abs(p.volume))
    genus = [1 - p.euler_number // 2 if p.is_watertight else None for p in pieces]
    convexity = [round(float(abs(p.volume) / p.convex_hull.volume), 3) for p in pieces]
    return {"sound": genus == [0, 0], "pieces": len(pieces), "genus": genus, "convexity": convexity}


def pictures(mesh: TriangleMesh, cameras: Cameras) -> Tensor:
    """`[V, SHEET, SHEET, 3]` of the mesh's surface, in its own colours and some light, so that bumps are seen."""
    whole = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays(SHEET, SHEET))
    points, rays, faces = RayMeshIntersector(whole).intersects_location(
        origins.numpy(), directions.numpy(), multiple_hits=False
    )
    inside = trimesh.triangles.points_to_barycentric(whole.triangles[faces], points)
    mixed = [(values.numpy()[whole.faces[faces]] * inside[..., None]).sum(1) for values in (mesh.vertex_colors, mesh.normals)]
    facing = np.abs((mixed[1] * directions.numpy()[rays]).sum(1, keepdims=True))
    shown = np.ones((len(origins), 3), np.float32)
    shown[rays] = mixed[0] * (0.35 + 0.65 * facing)
    return torch.from_numpy(shown).view(len(cameras), SHEET, SHEET, 3).clamp(0, 1)


def sheet(views: ViewSet, mesh: TriangleMesh) -> Image.Image:
    around = orbit_cameras(4, elevation_deg=20.0, azimuth_start_deg=135.0)
    above = orbit_cameras(1, elevation_deg=80.0, azimuth_start_deg=90.0)
    seen = views.images.movedim(-1, 1)
    seen = torch.nn.functional.interpolate(seen, (SHEET, SHEET), mode="nearest").movedim(1, -1)
    rows = torch.cat((seen, torch.ones(1, SHEET, SHEET, 3))), torch.cat((pictures(mesh, around), pictures(mesh, above)))
    pixels = torch.cat([torch.cat(list(row), 1) for row in rows])
    return Image.fromarray((255 * pixels).round().byte().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--out", type=Path, required=True, help="folder for views, sheets and figures")
    parser.add_argument("--name", default="now", help="of this fit's sheets and figures")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the scenes to fit")
    parser.add_argument("--no-words", action="store_true", help="hide the attention, as if the views were images")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override part of FitConfig")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    everything, rows = sampled(args.model, args.split, args.scenes, args.out), []
    for index in args.only or range(args.scenes):
        views = everything[index]
        found = judge(views.images, solids_of_prompt(views.prompt))
        config: FitConfig = dataclasses.replace(views.recipe.fit, **parsed(args.set))
        started = time.process_time()
        field = fit_views(replace(views, attention={}) if args.no_words else views, config, device="cpu")
        seconds = time.process_time() - started
        mesh = extract_mesh(field, replace(views.recipe.mesh, color="vertex"))
        drawn = {"scene": index, "prompt": views.prompt, "all_drawn": found.all_present}
        rows.append(drawn | measure(mesh) | {"fit_cpu_seconds": round(seconds, 1)})
        print(json.dumps(rows[-1]), flush=True)
        with (args.out / f"{args.split}-{args.name}.jsonl").open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        sheet(views, mesh).save(args.out / f"{args.split}-{args.name}-{index:02d}.png")
    sound, convexity = [r for r in rows if r["sound"]], np.mean([np.mean(r["convexity"]) for r in rows])
    print(f"{len(sound)} of {len(rows)} scenes are two pieces of genus 0; mean convexity {convexity:.3f}")


if __name__ == "__main__":
    main()
