"""Labels and parts against the truth: is each piece of the surface given to the subject it belongs to?

    python -m tools.bench_parts --scenes 40                  truth's views, maps from the model over the noised truth
    python -m tools.bench_parts --scenes 40 --sampled        views sampled from prompts

Scenes of two things side by side, apart and touching in turns. With the truth's views the truth of a surface point is the thing
that most of 24 renders show there; with sampled views it is the colour that the prompt gives the thing, as the judge sees it.
Parts: watertight, volumes against the whole, and their renders against those of the unsplit mesh.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from gd_core.attention import AttentionCapture, Focus
from gd_core.attention.subjects import noun_phrases
from gd_core.cameras import Cameras, orbit_cameras
from gd_core.diffusion import load_mvdream, predict_noise, sample_views
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.prompts import encode_prompt
from gd_core.mesh import MeshConfig, TriangleMesh, extract_mesh
from gd_core.mesh.surface import piece_volumes
from gd_core.nerf import RadianceField, fit_views
from gd_core.nerf.hull import project
from gd_core.subject_masks import named_subjects
from gd_core.views import ViewSet
from tools.bench_mesh import render_glb
from tools.tiny.judge import segment
from tools.tiny.renderer import render
from tools.tiny.scenes import Scene, random_scene

TIMESTEPS = (900, 750, 600, 450, 300, 150)  # where the maps of a noised truth are taken, as sampling would meet them
OVERLAP = 0.06  # world units by which touching things are pushed into each other


def make_scene(rng: random.Random, touching: bool) -> Scene:
    """Two things side by side; touching ones overlap by `OVERLAP`."""
    scene = random_scene(rng, 2, relation="beside")
    if not touching:
        return scene
    a, b = scene.solids
    between = np.array(b.center[:2]) - np.array(a.center[:2])
    far = np.linalg.norm(between)
    shift = between / far * (far - a.footprint - b.footprint + OVERLAP) / 2
    moved = [
        replace(s, center=(s.center[0] + sign * shift[0], s.center[1] + sign * shift[1], s.center[2]))
        for s, sign in ((a, 1), (b, -1))
    ]
    return replace(scene, solids=tuple(moved))


@torch.no_grad()
def true_views(model: MVDream, scene: Scene, seed: int) -> ViewSet:
    """The scene's own four views, with the attention that the model pays to its words when it sees them under noise."""
    cameras = model.default_cameras()
    images, coverage = render(scene.solids, cameras, model.config.image_size)
    prompt = encode_prompt(model, scene.prompt)
    focus = Focus.of_subjects(scene.prompt).locate(scene.prompt, prompt.words, prompt.end_token)
    clean = model.vae.encode(images.movedim(-1, 1) * 2 - 1).latent_dist.mean * model.vae.config.scaling_factor
    alphas, total = model.scheduler.alphas_cumprod, 0
    for t in TIMESTEPS:
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed * 1000 + t))
        config = model.recipe.refocus
        capture = AttentionCapture(model.unet, downscale=config.downscale, layers=config.layers, num_tokens=prompt.end_token)
        with capture:
            noisy = alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * noise
            predict_noise(model.unet, noisy, t, prompt.embeddings, cameras.conditioning(), len(cameras))
        total = total + capture.take(*clean.shape[-2:])
    attention = {word.key: total[..., list(word.tokens)].sum(-1) / len(TIMESTEPS) for word in focus.words}
    subjects = [(p.noun.key, " ".join(w.text for w in (*p.modifiers, p.noun))) for p in noun_phrases(scene.prompt)]
    return ViewSet(
        images=images,
        masks=coverage.sum(1).clamp(0, 1),
        cameras=cameras,
        attention=attention,
        prompt=scene.prompt,
        provenance={"subjects": named_subjects(subjects)},
    )


def around() -> Cameras:
    """24 cameras on three rings."""
    rings = [orbit_cameras(8, elevation_deg=e) for e in (-20.0, 15.0, 50.0)]
    return Cameras(torch.cat([r.c2w for r in rings]), torch.cat([r.fov_y_deg for r in rings]))


def truth_at(points: Tensor, field: RadianceField, cameras: Cameras, shown: Tensor) -> Tensor:
    """`[N]`: the thing that most of the cameras which see a point show there, -1 where they show none.

    Args:
        shown: `[V, S, H, W]`, each thing's coverage.
    """
    height, width = shown.shape[-2:]
    rendered = field.render(cameras, height, width)
    depth = torch.where(rendered.alpha > 0.5, rendered.depth, torch.inf)
    votes = torch.zeros(len(points), shown.shape[1])
    for v in range(len(cameras)):
        column, row, _ = (x[0] for x in project(cameras[v], points, height, width))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        x, y = column.clamp(0, width - 1).long(), row.clamp(0, height - 1).long()
        sees = inside & ((points - cameras.positions[v]).norm(dim=1) < depth[v, y, x] + 0.04)
        votes += shown[v][:, y, x].T * sees[:, None]
    return torch.where(votes.amax(1) > 0, votes.argmax(1), -1)


def judged_coverage(images: Tensor, scene: Scene) -> Tensor:
    """`[V, S, H, W]` where renders show each thing's colour."""
    masks = [segment(image) for image in images]
    empty = np.zeros(images.shape[1:3], bool)
    return torch.stack([torch.stack([torch.from_numpy(m.get(s.color, empty)).float() for s in scene.solids]) for m in masks])


def measure_parts(mesh: TriangleMesh, whole: TriangleMesh) -> dict:
    together = sum(p["volume"] for p in mesh.report["parts"])
    alone = float(piece_volumes(whole.vertices.numpy(), whole.faces.numpy(), np.zeros(len(whole.faces), int))[0])
    cameras = orbit_cameras(4, azimuth_start_deg=45.0)
    with TemporaryDirectory() as folder:
        a, b = (render_glb(m.export(Path(folder, f"{i}.glb")), cameras, 128) for i, m in enumerate((mesh, whole)))
    return {
        "parts": len(mesh.part_names),
        "watertight": all(p["watertight"] for p in mesh.report["parts"]),
        "volume_error": abs(together - alone) / alone,
        "psnr": float(-10 * torch.log10((a - b).square().mean().clamp(min=1e-12))),
    }


def run_scene(model: MVDream, index: int, sampled: bool, steps: int) -> dict:
    rng = random.Random(f"parts-{index}")
    touching = index % 2 == 1
    scene = make_scene(rng, touching)
    views = sample_views(model, scene.prompt, seed=index) if sampled else true_views(model, scene, index)
    field = fit_views(views, replace(views.recipe.fit, steps=steps))
    row = {"scene": index, "touching": touching, "prompt": scene.prompt, "names": list(field.label_names)}
    config = MeshConfig(resolution=128, target_faces=6000, texture_size=512)
    whole = extract_mesh(field, config)
    points, cameras = whole.vertices, around()
    if sampled:
        shown = judged_coverage(field.render(cameras, 96, 96).rgb, scene)
    else:
        shown = render(scene.solids, cameras, 96)[1]
    truth, label = truth_at(points, field, cameras, shown), field.labels(points)
    known = truth >= 0
    row |= {"right": float((label == truth)[known].float().mean()), "unlabelled": float((label < 0).float().mean())}
    if (label < 0).all():  # the maps tell nothing: parts are refused
        return row | {"parts": 0}
    mesh = extract_mesh(field, replace(config, parts="words"))
    return row | measure_parts(mesh, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toys")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500, help="of each fit")
    parser.add_argument("--sampled", action="store_true", help="views from prompts instead of the truth's")
    parser.add_argument("--out", type=Path, help="JSON lines, one a scene; scenes that it holds are not made again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_mvdream(args.model, device="cpu")
    rows = [json.loads(line) for line in args.out.open()] if args.out and args.out.exists() else []
    done = {row["scene"] for row in rows}
    for index in range(args.first, args.first + args.scenes):
        if index in done:
            continue
        started = time.process_time()
        row = run_scene(model, index, args.sampled, args.steps)
        rows.append(row | {"cpu_seconds": round(time.process_time() - started, 1)})
        print(json.dumps(rows[-1]), flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    for name, chosen in (("apart", [r for r in rows if not r["touching"]]), ("touching", [r for r in rows if r["touching"]])):
        if chosen:
            right, lowest = (f([r["right"] for r in chosen]) for f in (np.mean, np.min))
            cut = [r for r in chosen if r["parts"]]
            psnr = np.min([r["psnr"] for r in cut])
            closed, volume = np.mean([r["watertight"] for r in cut]), np.max([r["volume_error"] for r in cut])
            print(
                f"{name}: {len(chosen)} scenes, {len(chosen) - len(cut)} without labels, "
                f"surface labelled right {right:.3f} (lowest {lowest:.3f}), parts watertight {closed:.3f}, "
                f"volume error at most {volume:.4f}, PSNR to the unsplit mesh at least {psnr:.1f} dB"
            )


if __name__ == "__main__":
    main()
