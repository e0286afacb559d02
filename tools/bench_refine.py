"""Does refinement add to novel views without losing the composition? The table of docs/refinement.md.

    python -m tools.bench_refine run --out RUN [--model tiny] [--scenes 48] [--steps N]
    python -m tools.bench_refine run --out RUN --views 1 2 4 --world toys --model toys --device cuda
    python -m tools.bench_refine table --out RUN [--write docs/refinement.md]
    python -m tools.bench_refine plot docs/refinement_schedule.png

Two-subject scenes, alternately from ground-truth renders and from views that the model samples. Every variant of a scene
starts from the same fitted field and is judged on the same 8 renders between the reference views. A result is one small JSON
file, so a run that was stopped goes on, and a table can be made at any time.

`--views` gives the fit and the refinement fewer of the four views, in the orbit's order (azimuths 90, 180, 270, 0), so that
two stand at a right angle: opposite outlines mirror each other, and say nothing of depth. Only ground-truth scenes do that.
Beside the fit alone goes a gate: does the model know more of the novel views than the fit does?
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from gd_core.cameras import orbit_cameras
from gd_core.diffusion import load_mvdream, sample_views
from gd_core.diffusion.model import MVDream
from gd_core.distillation import RefineConfig, TimestepSchedule, cold_schedule, multiview_guidance, refine, warm_schedule
from gd_core.nerf import FitConfig, RadianceField, fit_views, load_field
from gd_core.nerf.evidence import view_backgrounds
from gd_core.nerf.field import RenderedViews
from gd_core.views import ViewSet, load_views

from .tiny.judge import judge
from .tiny.renderer import render
from .tiny.scenes import WORLDS, Scene, random_scene

NOVEL = orbit_cameras(8, elevation_deg=[5, 25] * 4, azimuth_start_deg=112.5)  # none within 22 degrees of a reference view
ORBITS = [0, 2, 4, 6, 1, 3, 5, 7]  # of `NOVEL`: two times four orthogonal views at one elevation, as the model knows them
GATE_TIMESTEPS = (200, 400, 600, 800)
ALL_VIEWS = 4
Truth = tuple[Tensor, Tensor]  # images [8, s, s, 3] of the novel views, and the things' coverage [8, n, s, s]
VARIANTS = {
    "fit only": "the field as fitted",
    "SDS only": "no reference views, MVDream's schedule",
    "hybrid, cold": "reference views and SDS, MVDream's schedule",
    "hybrid, warm": "reference views and SDS, warm-started schedule (the default)",
}

TITLES = {
    "all_present": "both subjects in all novel views",
    "right_views": "subjects right, share of novel views",
    "reference_psnr": "reference PSNR, dB",
    "novel_psnr": "novel PSNR, dB",
    "novel_iou": "novel mask IoU",
    "cpu_seconds": "CPU s",
}


def config_of(variant: str, model: MVDream, steps: int | None) -> RefineConfig:
    config = model.recipe.refine if steps is None else replace(model.recipe.refine, steps=steps)
    cold: TimestepSchedule = cold_schedule(last=0.8)  # 8000 of 10000 steps in MVDream-threestudio
    if variant == "SDS only":
        return replace(config, timesteps=cold, reference_weight=0.0, mask_weight=0.0)
    return replace(config, timesteps=cold) if variant == "hybrid, cold" else config


def make_views(scene: Scene, index: int, model: MVDream, count: int) -> ViewSet:
    """Even scenes: renders of the truth from the first of the model's own cameras. Odd ones: what the model samples."""
    if index % 2:
        return sample_views(model, scene.prompt, seed=index)
    cameras = model.default_cameras()[:count]
    images, coverage = render(scene.solids, cameras, model.image_size)
    return ViewSet(images, coverage.sum(1).clamp(0, 1), cameras, prompt=scene.prompt)


def measure(novel: RenderedViews, field: RadianceField, views: ViewSet, scene: Scene, truth: Truth | None) -> dict:
    """Composition on the novel renders, and how well the field matches references and, where there is one, the truth."""
    background = view_backgrounds(views).mean(0).to(field.device)  # the views have one between them
    reference = field.render(views.cameras, views.height, views.width, background)
    named = [(solid.color, solid.shape) for solid in scene.solids]
    verdict = judge(novel.rgb, named)
    result = {
        "all_present": verdict.all_present,
        "right_views": sum(verdict.in_views.values()) / (len(named) * len(NOVEL)),
        "extra_colors": len(verdict.extra_colors),
        "reference_psnr": psnr(reference.rgb.cpu(), views.images),
    }
    if truth is not None:
        images, coverage = truth
        shown, there = novel.alpha.cpu() > 0.5, coverage.sum(1) > 0.5
        result |= {
            "novel_psnr": psnr(novel.rgb.cpu(), images),
            "novel_iou": float((shown & there).sum() / (shown | there).sum()),
        }
    return result


@torch.no_grad()
def gate(model: MVDream, prompt: str, drawn: Tensor, true: Tensor) -> dict[str, float]:
    """Squared errors per latent number against the true novel views `[8, s, s, 3]`: "fit", that of the views `drawn` by it, and
    for each timestep that of the model's unguided x0 predictions from the true ones, noised."""
    guidance = multiview_guidance(model, prompt, suffix=model.recipe.refine.suffix)
    drawn, true = (model.encode(images[ORBITS].to(model.device)).float() for images in (drawn, true))
    errors = {"fit": float((drawn - true).square().mean())}
    for t in GATE_TIMESTEPS:
        noise = torch.Generator().manual_seed(t)
        loss = guidance.latent_loss(true, NOVEL[ORBITS], t, noise, guidance_scale=1.0, std_rescale=0.0)
        errors[str(t)] = 2 * float(loss) / guidance.latent_numel
    return errors


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))


def run_scene(index: int, count: int, model: MVDream, out: Path, world: str, steps: int | None) -> None:
    """Every variant of a scene with `count` of its four views; those that are there are left as they are."""
    scene, truth = random_scene(random.Random(f"refine-{index}"), 2, world=world), None
    if index % 2 == 0:
        truth = render(scene.solids, NOVEL, model.image_size)
    folder = out / (f"{index:03d}" if count == ALL_VIEWS else f"{index:03d}-{count}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "views.safetensors").exists():
        make_views(scene, index, model, count).save(folder / "views.safetensors")
    views = load_views(folder / "views.safetensors")
    if not (folder / "fit.safetensors").exists():
        fit_views(views, FitConfig(seed=index), device=model.device).save(folder / "fit.safetensors")
    fitted = load_field(folder / "fit.safetensors", model.device)
    for variant in VARIANTS:
        path = folder / f"{variant}.json"
        if path.exists():
            continue
        started, field = time.process_time(), fitted
        if variant != "fit only":
            config = replace(config_of(variant, model, steps), seed=index)
            field = refine(fitted, views, model, config, resume=folder / f"{variant}.checkpoint")
        result = {"scene": index, "views": count, "truth": truth is not None, "prompt": scene.prompt}
        result["cpu_seconds"] = time.process_time() - started
        if variant != "fit only":
            report = field.provenance["refine"]
            result |= {key: report[key] for key in ("best_step", "history", "events")}
        novel = field.render(NOVEL, model.image_size, model.image_size)
        result |= measure(novel, field, views, scene, truth)
        if variant == "fit only" and truth is not None:
            result["gate"] = gate(model, scene.prompt, novel.rgb, truth[0])
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(result))
        temporary.replace(path)
        (folder / f"{variant}.checkpoint").unlink(missing_ok=True)
        print(index, count, variant, {k: round(v, 3) for k, v in result.items() if isinstance(v, (int, float))}, flush=True)


def table(out: Path) -> str:
    """Markdown: means over the scenes of which every variant is there."""
    scenes = [
        {v: json.loads((folder / f"{v}.json").read_text()) for v in VARIANTS}
        for folder in sorted(out.iterdir())
        if all((folder / f"{v}.json").exists() for v in VARIANTS)
    ]
    lines = []
    for count, truth in product(range(1, ALL_VIEWS + 1), (True, False)):
        chosen = [s for s in scenes if (s["fit only"].get("views", ALL_VIEWS), s["fit only"]["truth"]) == (count, truth)]
        if not chosen:
            continue
        title = ("ground-truth" if truth else "sampled") + (" view in" if count == 1 else " views in")
        title = title if count == ALL_VIEWS else f"{count} {title}"
        columns = [*TITLES] if truth else [c for c in TITLES if not c.startswith("novel")]
        lines += [f"{len(chosen)} scenes, {title}:", "", "| variant | " + " | ".join(TITLES[c] for c in columns) + " |"]
        lines += ["|" + "---|" * (len(columns) + 1)]
        for variant in VARIANTS:
            cells = [_cell([s[variant][c] for s in chosen], c) for c in columns]
            lines.append(f"| {variant} | " + " | ".join(cells) + " |")
        lines += ["", "Paired differences to fit only (mean, 95 % interval of the mean):", ""]
        for variant in list(VARIANTS)[1:]:
            differences = [
                f"{TITLES[c]} {_difference([s[variant][c] - s['fit only'][c] for s in chosen])}"
                for c in columns
                if c not in ("all_present", "cpu_seconds")
            ]
            lost = sum(s["fit only"]["all_present"] and not s[variant]["all_present"] for s in chosen)
            won = sum(s[variant]["all_present"] and not s["fit only"]["all_present"] for s in chosen)
            lines.append(f"- {variant}: {'; '.join(differences)}; composition lost in {lost}, won in {won} scenes")
        lines += ["", *_gate_lines([s["fit only"]["gate"] for s in chosen if "gate" in s["fit only"]])]
    return "\n".join(lines)


def _gate_lines(gates: list[dict[str, float]]) -> list[str]:
    """How much closer than the fit the model's x0 predictions come to the true novel views, at each timestep."""
    if not gates:
        return []
    parts = []
    for t in map(str, GATE_TIMESTEPS):
        differences = [gate[t] - gate["fit"] for gate in gates]
        parts.append(f"t = {t} {_difference(differences)}, lower in {sum(d < 0 for d in differences)}/{len(gates)}")
    error = sum(gate["fit"] for gate in gates) / len(gates)
    return [f"Gate, squared error per latent number: the fit {error:.3f}; the model's x0 less that: {'; '.join(parts)}", ""]


def _cell(values: list[float], column: str) -> str:
    mean = sum(values) / len(values)
    if column == "all_present":
        return f"{sum(values)}/{len(values)} ({100 * mean:.0f} %)"
    return f"{mean:.3f}" if column in ("right_views", "novel_iou") else f"{mean:.2f}"


def _difference(values: list[float]) -> str:
    tensor = torch.tensor(values, dtype=torch.float64)
    half = 1.96 * float(tensor.std()) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{float(tensor.mean()):+.3f} ± {half:.3f}"


def plot_schedules(path: Path) -> None:
    """Bounds of the timestep over a run, warm-started and MVDream's."""
    positions = [i / 200 for i in range(201)]
    figure, axes = plt.subplots(figsize=(6, 3.2), constrained_layout=True)
    for name, schedule, color in (
        ("MVDream's, for a field that starts as a blob", cold_schedule(last=0.8), "tab:grey"),
        ("warm start, for a field fitted to four views", warm_schedule(), "tab:red"),
    ):
        lower, upper = zip(*(schedule.bounds(p) for p in positions), strict=True)
        axes.fill_between(positions, lower, upper, color=color, alpha=0.35, label=name)
        axes.plot(positions, lower, color=color, linewidth=1)
        axes.plot(positions, upper, color=color, linewidth=1)
    axes.set(xlabel="share of the refinement", ylabel="timestep t is drawn from", xlim=(0, 1), ylim=(0, 1000))
    axes.legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is not there yet")
    run.add_argument("--model", default="tiny", help="what load_mvdream reads")
    run.add_argument("--scenes", type=int, default=48)
    run.add_argument("--first", type=int, default=0, help="first scene, to share the work among processes")
    run.add_argument("--stride", type=int, default=1, help="every how many scenes")
    run.add_argument("--steps", type=int, help="of the refinement; its default otherwise")
    run.add_argument("--views", type=int, nargs="+", default=[ALL_VIEWS], choices=range(1, ALL_VIEWS + 1), help="how many")
    run.add_argument("--world", default="solids", choices=WORLDS)
    run.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    plot = commands.add_parser("plot", help="plot the timestep schedules")
    plot.add_argument("file", type=Path)
    write = commands.add_parser("table", help="print the table of what is there")
    write.add_argument("--write", type=Path, help="replace the table between the markers in this file")
    for command in (run, write):
        command.add_argument("--out", type=Path, required=True, help="run folder")
    args = parser.parse_args()
    if args.command == "run":
        torch.set_num_threads(1)
        model = load_mvdream(args.model, device=args.device, dtype=torch.float32)
        for index, count in product(range(args.first, args.scenes, args.stride), args.views):
            if index % 2 == 0 or count == ALL_VIEWS:
                run_scene(index, count, model, args.out, args.world, args.steps)
        return
    if args.command == "plot":
        plot_schedules(args.file)
        return
    text = table(args.out)
    print(text)
    if args.write is not None:
        before, rest = args.write.read_text(encoding="utf-8").split("<!-- bench_refine -->\n", 1)
        after = rest.split("<!-- end -->\n", 1)[1]
        args.write.write_text(f"{before}<!-- bench_refine -->\n{text}<!-- end -->\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
