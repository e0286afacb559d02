"""Does multi-view SDS avoid the Janus problem where 2D SDS does not, and do reference views? One toy with a front a prompt.

    python -m tools.bench_janus --device cuda --lora fronts70=fronts70.safetensors --out RUN
    python -m tools.bench_janus --arms fit hybrid --out RUN
    python -m tools.bench_janus --summary --figure docs/images/janus.jpg --out RUN
    python -m tools.bench_janus --summary --arms hybrid --figure docs/images/hybrid.jpg --out RUN

SDS turns a ball into the prompt's toy, under each arm from the same seed: the model judges four renders together with their
cameras ("multi-view"), or each alone and without ("2D": the model's own mode without cameras; or that mode under a LoRA that
saw a known share of fronts). Two arms start from four sampled views instead, with the recipe's settings: the field fitted to
them ("fit"), and refined ("hybrid", the paper's). RUN keeps a strip of 16 renders around for each result, so that a run that
was stopped goes on.

The judge says in which of them the front is seen. Janus is a thing that shows it to two opposite cameras. A thing with one face
shows it in 40 % of the renders. Both say something only where the toy can be told: the gate is that the judge finds it, in its
colour, in half of the renders.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gd_core.benchmark.statistics import bootstrap_mean, paired_difference, wilson_interval
from gd_core.cameras import orbit_cameras
from gd_core.diffusion import load_mvdream, sample_views
from gd_core.diffusion.model import MVDream
from gd_core.distillation import RefineConfig, cold_schedule, refine
from gd_core.nerf import RadianceField, fit_views, load_field
from gd_core.settings.schedule import Ramp
from gd_core.views import ViewSet
from tools.bench_nerf import parsed
from tools.tiny.judge import SIDEWAYS, judge_views, solids_of_prompt
from tools.tiny.measure import prompts_of, sample_flat, save_picture, seeds_of

AROUND = orbit_cameras(16, elevation_deg=15.0)
RENDER = 96  # pixels a side of what the judge sees
RADIUS = 0.6  # of the ball that SDS starts from, world units
SOFTNESS = 0.04  # of its surface, world units
MULTI_VIEW, PLAIN, FIT, HYBRID = "multi-view", "2D", "fit", "hybrid"
SETTINGS = RefineConfig(
    steps=200,
    guidance_scale=5.0,
    timesteps=cold_schedule(last=0.8),
    sds_weight=Ramp(1.0, 1.0),
    suffix=True,
    elevation_deg=(0.0, 30.0),
    uniform_elevation=1.0,
    fov_y_deg=None,
    relative_distance=None,
    milestones=((0.0, 0.5),),
    reference_weight=0.0,
    mask_weight=0.0,
    orient_weight=0.01,
    opacity_weight=0.001,
    shape_lr=0.02,
    grid_lr=0.02,
    mlp_lr=0.01,
    evaluate_every=10_000,
)


def ball(model: MVDream) -> RadianceField:
    field = RadianceField(model.recipe.fit.field, model.device)
    resolution = field.shape.grids[-1].shape[-1]
    steps = ((torch.arange(resolution) + 0.5) / resolution * 2 - 1) * field.config.half_size
    inside = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).norm(dim=0) < RADIUS
    field.shape.start_from(inside[None])
    field.shape.softness.fill_(SOFTNESS)
    return field


def nothing_but_words(model: MVDream, prompt: str) -> ViewSet:
    """White views, which refinement without reference weights takes nothing from but their prompt, cameras and background."""
    cameras, size = model.default_cameras(), model.image_size
    return ViewSet(torch.ones(len(cameras), size, size, 3), torch.zeros(len(cameras), size, size), cameras, prompt=prompt)


def judged(images: Tensor, prompt: str) -> dict:
    """What 16 renders `[16, s, s, 3]` show of the prompt's one toy: in how many it is found, whether two from opposite sides
    show its front, and the share of them that do."""
    (color, shape), *_ = solids_of_prompt(prompt)
    blobs = [seen.get(color) for seen in judge_views(images)]
    fronts = [blob is not None and blob.front > SIDEWAYS for blob in blobs]
    half = len(fronts) // 2
    return {
        "found": sum(blob is not None and blob.shape == shape for blob in blobs),
        "janus": any(a and b for a, b in zip(fronts[:half], fronts[half:], strict=True)),
        "front": sum(fronts) / len(fronts),
    }


def from_views(model: MVDream, prompt: str, seed: int, arm: str, file: Path) -> RadianceField:
    """The recipe's field of four sampled views; `file` keeps it as it was fitted, for the other arm."""
    views = sample_views(model, prompt, seed=seed)
    if not file.exists():
        fit_views(views, device=model.device).save(file)
    field = load_field(file, model.device)
    return field if arm == FIT else refine(field, views, model)


def run(model: MVDream, arm: str, prompt: str, seed: int, config: RefineConfig, strip: Path) -> None:
    if arm in (FIT, HYBRID):
        field = from_views(model, prompt, seed, arm, strip.with_name(f"{strip.stem[-3:]}.safetensors"))
    else:
        config = replace(config, multi_view=arm == MULTI_VIEW, seed=seed)
        field = refine(ball(model), nothing_but_words(model, prompt), model, config)
    save_picture(torch.cat(list(field.render(AROUND, RENDER, RENDER).rgb.cpu()), 1), strip)


def read_strip(path: Path) -> Tensor:
    """`[16, s, s, 3]` in 0..1 of a picture that `run` saved."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float() / 255
    return torch.stack(pixels.split(len(pixels), 1))


def fronts_of_pictures(model: MVDream, count: int) -> float:
    """Of `count` single pictures without cameras in which the judge finds the toy, the share that shows it its front."""
    prompts = prompts_of("fronts", count, "dev")
    shows = []
    for seen, prompt in zip(judge_views(sample_flat(model, prompts, seeds_of(count, "dev"))), prompts, strict=True):
        (color, shape), *_ = solids_of_prompt(prompt)
        if color in seen and seen[color].shape == shape:
            shows.append(seen[color].front > SIDEWAYS)
    return sum(shows) / max(1, len(shows))


def told(row: dict) -> bool:
    """Whether the judge finds the toy in half of the renders."""
    return row["found"] >= len(AROUND) // 2


def summary(rows: dict[str, dict[int, dict]], gates: dict[str, float]) -> str:
    """Markdown: an arm a line, and each 2D arm against multi-view SDS where both pass the gate (exact sign test). `rows`: what
    `judged` says by arm and prompt; `gates`: shares of fronts by arm."""
    head = (
        "arm",
        "fronts in its pictures",
        "toy found",
        "Janus, of those",
        "renders with the front",
        "Janus, more",
        "front, more",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    passed = {arm: {i: r for i, r in of.items() if told(r)} for arm, of in rows.items()}
    for arm, of in passed.items():
        cells = [arm, f"{100 * gates[arm]:.0f} %" if arm in gates else "", f"{len(of)} of {len(rows[arm])}"]
        if of:
            twice = wilson_interval(sum(r["janus"] for r in of.values()), len(of))
            front = bootstrap_mean([r["front"] for r in of.values()])
            cells += [f"{100 * e.value:.0f} % [{100 * e.low:.0f}, {100 * e.high:.0f}]" for e in (twice, front)]
            both = [i for i in of if i in passed.get(MULTI_VIEW, {})]
            if both and arm != MULTI_VIEW:
                for question in ("janus", "front"):
                    a, b = ([float(side[i][question]) for i in both] for side in (passed[MULTI_VIEW], of))
                    paired = paired_difference(a, b)
                    d = paired.difference
                    change = f"{100 * d.value:+.0f} points [{100 * d.low:.0f}, {100 * d.high:.0f}]"
                    cells.append(f"{change} of {len(both)}, p = {paired.p_value:.2g}")
        lines.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    return "\n".join(lines)


def figure(out: Path, arms: Sequence[str], indices: Sequence[int]) -> Tensor:
    """A prompt a row: every other render of each arm, from left to right."""
    rows, gap = [], torch.ones(RENDER, RENDER // 4, 3)
    for index in indices:
        strips = [torch.cat(list(read_strip(out / f"{arm}-{index:03d}.png")[::2]), 1) for arm in arms]
        rows.append(torch.cat([part for strip in strips for part in (strip, gap)][:-1], 1))
    return torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toys", help="anything load_mvdream takes")
    parser.add_argument("--lora", action="append", default=[], metavar="ARM=FILE", help="a 2D arm under a LoRA")
    parser.add_argument("--arms", nargs="*", help="of these only (default: all)")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first prompt, to share the work among processes")
    parser.add_argument("--stride", type=int, default=1, help="every how many prompts")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--gate", type=int, default=64, metavar="PICTURES", help="for the share of fronts; 0: not measured")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override part of the settings")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--summary", action="store_true", help="only the table")
    parser.add_argument("--figure", type=Path, help="a picture of the prompts that the arms drew so that they can be told")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    prompts, seeds = prompts_of("fronts", args.scenes, args.split), seeds_of(args.scenes, args.split)
    files = {PLAIN: None, **dict(entry.split("=", 1) for entry in args.lora)}
    config, chosen = dataclasses.replace(SETTINGS, **parsed(args.set)), args.arms or [MULTI_VIEW, *files, FIT, HYBRID]
    for arm in () if args.summary else chosen:
        lora = files.get(arm)
        model = load_mvdream(args.model, device=args.device, dtype=torch.float32, loras=[lora] if lora else [])
        gate = args.out / f"{arm}.gate.json"
        if arm in files and args.gate and args.first == 0 and not gate.exists():
            gate.write_text(json.dumps(fronts_of_pictures(model, args.gate)))
        for index in range(args.first, args.scenes, args.stride):
            strip = args.out / f"{arm}-{index:03d}.png"
            if not strip.exists():
                run(model, arm, prompts[index], seeds[index], config, strip)
    gates = {path.name.removesuffix(".gate.json"): json.loads(path.read_text()) for path in args.out.glob("*.gate.json")}
    rows: dict[str, dict[int, dict]] = {}
    for path in sorted(args.out.glob("*-[0-9][0-9][0-9].png")):
        arm, index = path.stem[:-4], int(path.stem[-3:])
        rows.setdefault(arm, {})[index] = judged(read_strip(path), prompts[index])
    (args.out / "rows.json").write_text(json.dumps(rows, indent=1))
    print(summary(rows, gates))
    if args.figure:
        arms = args.arms or [MULTI_VIEW, PLAIN]
        shown = [i for i in range(args.scenes) if all(told(rows[arm].get(i, {"found": 0})) for arm in arms)]
        save_picture(figure(args.out, arms, shown), args.figure)


if __name__ == "__main__":
    main()
