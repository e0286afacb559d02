"""Stage 5: measure a tiny bundle on prompts and seeds that training never saw.

python -m tools.tiny.measure --model gd_core/weights/tiny --scenes 200 --out measured.json
python -m tools.tiny.measure --run RUN --gate        the cross-view gate on a checkpoint, in a minute
python -m tools.tiny.measure --run RUN --sets toys flat --scenes 32 --split dev --out RUN/sheets/1000.json
python -m tools.tiny.measure --model tiny --sets toy toys fronts flat_toys       200 scenes a set
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.diffusion import load_mvdream
from gd_core.diffusion.denoising import sample_latents
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.multiview import predict_noise
from gd_core.diffusion.sampling import sample_objects
from gd_core.views import ViewSet

from .judge import SIDEWAYS, Blob, centroid_offsets, judge_views, solids_of_prompt, verdict
from .renderer import render
from .scenes import Scene, random_scene
from .toys import ANIMALS, FRONTED

SETS = {  # number of things, of held-out pairs alone, world
    "one": (1, False, "solids"),
    "two": (2, False, "solids"),
    "two_held_out": (2, True, "solids"),
    "three": (3, False, "solids"),
    "toy": (1, False, "toys"),
    "toys": (2, False, "toys"),
    "toys_held_out": (2, True, "toys"),
    "three_toys": (3, False, "toys"),
    "mixed": (2, False, "mixed"),
    "fronts": (1, False, "toys"),  # of the things with a front alone
    "flat": (1, False, "solids"),  # single images without a camera
    "flat_toys": (1, False, "toys"),
}
FLAT = ("flat", "flat_toys")
BATCH = {"cpu": 8, "cuda": 64}  # scenes at once
ALLOWANCE = 0.5  # by which a judged cosine may be off before it says that the thing is turned another way


def prompts_of(name: str, scenes: int, split: str = "test") -> list[str]:
    """The prompts of a set; `split` "dev" is for choosing settings, "test" for the numbers that are reported."""
    count, held_out, world = SETS[name]
    rng, prompts = random.Random(f"{split}-{name}"), []
    while len(prompts) < scenes:
        scene = random_scene(rng, count, held_out, world=world)
        if name != "fronts" or scene.solids[0].shape in FRONTED:
            prompts.append(scene.prompt)
    return prompts


def seeds_of(scenes: int, split: str = "test") -> list[int]:
    return list(range(1_000_000, 1_000_000 + scenes)) if split == "test" else list(range(2_000_000, 2_000_000 + scenes))


def sample_set(model: MVDream, prompts: Sequence[str], seeds: Sequence[int], **settings) -> list[ViewSet]:
    views, batch = [], BATCH[model.device.type]
    for i in range(0, len(prompts), batch):
        views += sample_objects(model, prompts[i : i + batch], seeds=seeds[i : i + batch], **settings)
    return views


@torch.no_grad()
def sample_flat(model: MVDream, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Single images `[n, H, W, 3]`, without cameras: MVDream's plain 2D mode."""
    images, size, batch = [], model.latent_size, 4 * BATCH[model.device.type]
    for i in range(0, len(prompts), batch):
        context = torch.cat([model.encode_prompt(p).embeddings for p in prompts[i : i + batch]])
        noise = torch.cat(
            [torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(s)) for s in seeds[i : i + batch]]
        )
        latents = sample_latents(
            model.unet,
            noise.to(model.device),
            context,
            model.encode_prompt("").embeddings,
            None,
            num_views=1,
            steps=model.recipe.sampling.steps,
            guidance_scale=model.recipe.sampling.guidance_scale,
            schedule=model.scheduler,
        )
        images.append(model.decode(latents).cpu())
    return torch.cat(images)


def score_flat(images: Tensor, prompts: Sequence[str]) -> dict:
    seen = zip(judge_views(images), prompts, strict=True)
    right = sum(verdict([blobs], solids_of_prompt(prompt)).all_present for blobs, prompt in seen)
    return {"n": len(prompts), "right": right / len(prompts), "right_interval": wilson(right, len(prompts))}


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share."""
    z = 1.96
    centre = (right + z * z / 2) / (n + z * z)
    half = z * ((right * (n - right) / n + z * z / 4) ** 0.5) / (n + z * z)
    return centre - half, centre + half


def score(views: Sequence[ViewSet]) -> dict:
    """Judge sampled scenes: all subjects there, the same content in every view, opposite views' centroids, faces."""
    blobs = iter(judge_views([image for v in views for image in v.images]))
    seen = [[next(blobs) for _ in v.images] for v in views]
    named = [solids_of_prompt(v.prompt) for v in views]
    verdicts = [verdict(s, things) for s, things in zip(seen, named, strict=True)]
    n = len(views)
    in_three = sum(all(k >= 3 for k in v.in_views.values()) for v in verdicts)
    everywhere = sum(v.all_present for v in verdicts)
    result = {
        "n": n,
        "same_content": sum(v.same_content for v in verdicts) / n,
        "extra_colors": sum(bool(v.extra_colors) for v in verdicts) / n,
        "in_three_of_four_views": in_three / n,
        "in_three_interval": wilson(in_three, n),
        "all_subjects": everywhere / n,
        "all_subjects_interval": wilson(everywhere, n),
        "subjects": float(np.mean([p for v in verdicts for p in v.present.values()])),
    }
    offsets = [
        centroid_offsets(s, things[0][0], things[1][0])
        for s, things, v in zip(seen, named, views, strict=True)
        if len(things) == 2 and " on " not in v.prompt
    ]
    pairs = [(o[i], o[i + 2]) for o in offsets for i in (0, 1) if o[i] is not None and o[i + 2] is not None]
    if len(pairs) > 2:
        result["opposite_view_correlation"] = float(np.corrcoef(np.array(pairs).T)[0, 1])
        result["opposite_view_pairs"] = len(pairs)
    return result | score_fronts(seen, named, [v.cameras for v in views])


def score_fronts(
    seen: Sequence[Sequence[dict[str, Blob]]], named: Sequence[Sequence[tuple[str, str]]], cameras: Sequence[Cameras]
) -> dict:
    """Of the scenes of one thing with a front: on how many is the face on one side only, and how often is it seen twice?"""
    rows = []
    for per_view, things, rig in zip(seen, named, cameras, strict=True):
        if len(things) == 1 and things[0][1] in FRONTED:
            (color, shape), azimuths = things[0], torch.atan2(rig.positions[:, 1], rig.positions[:, 0]).tolist()
            cosines = [blobs[color].front if color in blobs else None for blobs in per_view]
            rows.append((shape in ANIMALS, one_sided(cosines, azimuths), janus(cosines, azimuths)))
    result = {}
    for name, chosen in (("fronted", rows), ("animals", [row for row in rows if row[0]])):
        if chosen:
            once, twice = sum(row[1] for row in chosen), sum(row[2] > 0 for row in chosen)
            result |= {f"{name}_n": len(chosen), f"{name}_one_sided": once / len(chosen), f"{name}_janus": twice}
            result[f"{name}_one_sided_interval"] = wilson(once, len(chosen))
    return result


def one_sided(cosines: Sequence[float | None], azimuths: Sequence[float]) -> bool:
    """Is there a yaw at which a thing turns its front to every view as the judge sees it there, within `ALLOWANCE`?

    `cosines` are the judged ones, None where the thing is not seen; `azimuths` the cameras', in radians. A face that is seen
    from nowhere is on no side.
    """
    answers = [(c, a) for c, a in zip(cosines, azimuths, strict=True) if c is not None]
    yaws = [math.radians(degrees) for degrees in range(360)]
    fits = any(all(abs(c - math.cos(yaw - a)) < ALLOWANCE for c, a in answers) for yaw in yaws)
    return fits and any(c > SIDEWAYS for c, _ in answers)


def janus(cosines: Sequence[float | None], azimuths: Sequence[float]) -> int:
    """In how many pairs of opposite views (150 degrees apart at least) the judge sees the front."""
    fronts = [a for c, a in zip(cosines, azimuths, strict=True) if c is not None and c > SIDEWAYS]
    return sum(math.cos(a - b) < -math.cos(math.radians(30)) + 1e-6 for i, a in enumerate(fronts) for b in fronts[:i])


def gate_scenes(count: int) -> list[tuple[Scene, Scene]]:
    """Pairs of two-solid scenes with the same prompt and solids, one turned about the vertical axis by 60 to 300 degrees."""
    rng = random.Random("gate")
    pairs = []
    for i in range(count):
        first = random_scene(random.Random(f"gate-{i}"), 2, relation="beside")
        solids = first.solids
        turn = rng.uniform(math.pi / 3, 5 * math.pi / 3)
        cosine, sine = math.cos(turn), math.sin(turn)
        turned = tuple(
            replace(s, center=(cosine * x - sine * y, sine * x + cosine * y, z), yaw=s.yaw + turn)
            for s in solids
            for x, y, z in [s.center]
        )
        pairs.append((first, Scene(turned, first.prompt, first.relation)))
    return pairs


@torch.no_grad()
def gate(model: MVDream, count: int = 32, timesteps: Sequence[int] = (850, 900, 950, 990)) -> dict[int, tuple[float, float]]:
    """x0-error of one view when the other three belong to its scene, and when they belong to the same solids turned.

    Unless the first is clearly lower the views do not look at one another, and nothing downstream means anything.
    """
    cameras, device = orbit_cameras(4, 15.0, 90.0), model.device
    conditioning = cameras.conditioning().repeat(count, 1).to(device)
    matched, mismatched = [], []
    for scene, turned in gate_scenes(count):
        views = (render(s.solids, cameras, model.config.image_size)[0].to(device) for s in (scene, turned))
        a, b = map(model.encode, views)
        matched.append(a)
        mismatched.append(torch.cat((a[:1], b[1:])))
    context = torch.cat([model.encode_prompt(s.prompt).embeddings for s, _ in gate_scenes(count)])
    alphas = model.scheduler.alphas_cumprod.to(device)
    result = {}
    for t in timesteps:
        errors = []
        for latents in (matched, mismatched):
            clean = torch.cat(latents)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(t)).to(device)
            alpha = alphas[t]
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            out = predict_noise(model.unet, noisy, t, context, conditioning, 4)
            x0 = alpha.sqrt() * noisy - (1 - alpha).sqrt() * out  # v-prediction
            errors.append(float(((x0 - clean) ** 2)[::4].mean()))
        result[t] = tuple(errors)
    return result


def contact_sheet(views: Sequence[ViewSet], path: Path, columns: int = 4) -> None:
    """A picture of sampled scenes, one row of views each, `columns` scenes a line."""
    rows = [torch.cat(list(v.images), 1) for v in views]
    rows += [torch.ones_like(rows[0])] * (-len(rows) % columns)
    sheet = torch.cat([torch.cat(rows[i : i + columns], 1) for i in range(0, len(rows), columns)], 0)
    save_picture(sheet, path)


def save_picture(picture: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).round().byte().numpy()).save(path)


def noun_attention(views: Sequence[ViewSet]) -> Tensor | None:
    """Mean attention of each noun on its own solid, on the others and on the background, from the ViewSets' maps."""
    from .judge import segment  # noqa: PLC0415

    means = []
    for v in views:
        for color, shape in solids_of_prompt(v.prompt):
            maps = {w: m for w, m in v.attention.items() if w.split("#")[0] in _nouns(shape)}
            if len(maps) != 1:
                continue  # the same noun twice: whose map it is cannot be told here
            attention = next(iter(maps.values()))
            for view, a in zip(v.images, attention, strict=True):
                masks = segment(view)
                if color not in masks:
                    continue
                small = {
                    c: torch.nn.functional.interpolate(torch.from_numpy(m)[None, None].float(), a.shape, mode="area")[0, 0]
                    for c, m in masks.items()
                }
                own = small.pop(color)
                other = sum(small.values(), torch.zeros_like(own))
                background = (1 - own - other).clamp(min=0)
                means.append([float((a * w).sum() / w.sum()) if w.sum() > 0.5 else np.nan for w in (own, other, background)])
    return torch.tensor(np.nanmean(np.array(means), axis=0)) if means else None


def _nouns(shape: str) -> tuple[str, ...]:
    from .scenes import SYNONYMS  # noqa: PLC0415

    return SYNONYMS.get(shape, (shape,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="anything load_mvdream takes")
    parser.add_argument("--run", type=Path, help="a training run; its averaged checkpoint instead of --model")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--sets", nargs="+", default=list(SETS)[:4], choices=list(SETS))
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--gate", action="store_true", help="only the cross-view gate")
    parser.add_argument("--out", type=Path, help="JSON of every number; contact sheets go beside it")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.run:
        from .export import assemble  # noqa: PLC0415

        model = assemble(args.run)
        for part in (model.unet, model.vae, model.text_encoder):
            part.to(args.device)
    else:
        model = load_mvdream(args.model, device=args.device, dtype=torch.float32)
    results = {"gate": gate(model)}
    print({t: [round(e, 4) for e in pair] for t, pair in results["gate"].items()}, flush=True)
    if args.gate:
        return
    for name in args.sets:
        start = time.process_time()
        if name in FLAT:
            prompts = prompts_of(name, args.scenes, args.split)
            images = sample_flat(model, prompts, seeds_of(args.scenes, args.split))
            results[name] = score_flat(images, prompts)
            print(name, json.dumps(results[name]), flush=True)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                sheet = torch.cat([torch.cat(list(row), 1) for row in images[: len(images) // 8 * 8].split(8)], 0)
                save_picture(sheet, args.out.with_name(f"{args.out.stem}-{name}.png"))
                args.out.write_text(json.dumps(results, indent=1))
            continue
        views = sample_set(model, prompts_of(name, args.scenes, args.split), seeds_of(args.scenes, args.split))
        results[name] = score(views)
        results[name]["cpu_seconds_per_scene"] = (time.process_time() - start) / args.scenes
        attention = noun_attention(views)
        if attention is not None:
            results[name]["noun_attention_own_other_background"] = attention.tolist()
        print(name, json.dumps(results[name]), flush=True)
        if args.out:
            contact_sheet(views[:32], args.out.with_name(f"{args.out.stem}-{name}.png"))
            args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
