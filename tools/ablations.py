"""The ablations, one command each: the same prompts and seeds under two or more settings, judged, paired and reported.

    python -m tools.ablations refocus --out out/refocus          attention refocusing off and on (stage 1)
    python -m tools.ablations guidance --out out/guidance        guidance scales of the sampler (stage 1)
    python -m tools.ablations sds --out out/sds                  refinement without and with score distillation
    python -m tools.ablations multiview-sds --out out/mvsds      2D and multi-view score distillation
    python -m tools.ablations diversity --seeds 0 1 2 --out out/diversity   how unlike the assets of one prompt are

Each leaves `report.html` and `report.json` in DIR, and with `--small docs/reports/NAME` a page and a picture small enough to
commit. A second run of the same command goes on where the first stopped. With `--model` and `--set` they run on any model; the
judge knows the tiny model's coloured solids and toys only, so give your own (`--judge FILE.py:FUNCTION`) or `--judge none`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from gd_core.benchmark import load_prompts
from gd_core.benchmark.cli import parse_settings
from gd_core.benchmark.report import Run, write_report, write_small_report
from gd_core.benchmark.runner import Item, Plan, items_of, load_callable, run_benchmark
from gd_core.benchmark.scoring import Scorers, score_run
from gd_core.benchmark.workers import run_here, run_processes
from gd_core.metrics import load_clip

from .tiny.judge import judge as judge_solids
from .tiny.judge import solids_of_prompt

QUICK = {
    "steps": 15,
    "fit": {"steps": 250},
    "refinement": {"steps": 30},
    "mesh": {"resolution": 96, "target_faces": 4000, "color": "vertex"},
}
"""Settings under which an asset of the tiny model takes half a minute of one core instead of several."""
NO_SDS = {"sds_weight": {"start": 0.0, "end": 0.0}}
ABLATIONS: dict[str, tuple[str, str, dict[str, dict]]] = {
    "refocus": (
        "Ablation: attention refocusing",
        "views",
        {"refocusing off": {"refocus": None}, "refocusing on": {}},
    ),
    "guidance": (
        "Ablation: guidance scale of the sampler",
        "views",
        {f"guidance {scale:g}": {"refocus": None, "guidance_scale": scale} for scale in (1.0, 2.5, 5.0, 7.5, 10.0)},
    ),
    "sds": (
        "Ablation: score distillation in the refinement",
        "asset",
        {"references alone": {"refinement": NO_SDS}, "references and SDS": {}},
    ),
    "multiview-sds": (
        "Ablation: 2D against multi-view score distillation",
        "asset",
        {"2D SDS": {"refinement": {"multi_view": False}}, "multi-view SDS": {"refinement": {"multi_view": True}}},
    ),
    "diversity": (
        "Ablation: diversity of assets beside their alignment",
        "asset",
        {
            "plain": {"refocus": None, "candidates": {"count": 1}},
            "refocusing": {"refocus": {"when": "always"}, "candidates": {"count": 1}},
            "four candidates": {"refocus": None, "candidates": {"count": 4}},
        },
    ),
}
"""Name -> title, what is made, and the settings of each run, of which the first is what the others are compared with."""


def judge_tiny(images: torch.Tensor, prompt: str) -> dict[str, float | bool]:
    """The tiny model's judge as `gd_core.metrics`'s: which of the prompt's things the views `[V, H, W, 3]` show."""
    verdict = judge_solids(images, solids_of_prompt(prompt))
    found = [count / len(images) for count in verdict.in_views.values()]
    return {
        "all_subjects": verdict.all_present,
        "subjects_found": sum(verdict.present.values()) / max(1, len(verdict.present)),
        "in_views": sum(found) / max(1, len(found)),
        "nothing_extra": not verdict.extra_colors,
        "views_agree": verdict.same_content,
    }


def merged(common: dict, own: dict) -> dict:
    """`own` over `common`, stage by stage: a stage that both speak of gets the fields of both."""
    result = dict(common)
    for name, value in own.items():
        both = isinstance(value, dict) and isinstance(common.get(name), dict)
        result[name] = {**common[name], **value} if both else value
    return result


def run_ablation(name: str, args: argparse.Namespace, items: Sequence[Item], scorers: Scorers) -> tuple[str, list[Run]]:
    """Make and score every run of an ablation."""
    title, maker, variants = ABLATIONS[name]
    common, runs = merged(QUICK if args.quick and maker == "asset" else {}, parse_settings(args.setting)), []
    for number, (label, settings) in enumerate(variants.items()):
        plan = Plan(maker, args.model, merged(common, settings), args.threads)
        out = args.out / f"{number}-{label.replace(' ', '-')}"
        with tqdm(total=len(items), desc=label, dynamic_ncols=True) as bar:
            execute = run_here if args.workers == 1 else run_processes
            run_benchmark(
                plan, items, out, execute, workers=args.workers, progress=lambda done, *_, bar=bar: bar.update(done - bar.n)
            )
        runs.append(Run(label, plan, out, score_run(out, items, scorers)))
    return title, runs


def command_of(args: argparse.Namespace) -> str:
    """The command that makes this report again, without the folders of whoever made it."""
    words = ["python -m tools.ablations", args.ablation, "--seeds", *map(str, args.seeds)]
    for name in ("set", "model", "group", "limit"):
        if getattr(args, name) not in (None, "tiny"):
            words += [f"--{name}", f"'{getattr(args, name)}'" if name == "group" else str(getattr(args, name))]
    words += ["--quick"] if args.quick else []
    words += [word for pair in args.setting for word in ("--setting", f"'{pair}'")]
    return " ".join([*words, "--out DIR"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ablation", choices=ABLATIONS)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--set", default="tiny", metavar="SET")
    parser.add_argument("--model", default="tiny", metavar="SOURCE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="only N prompts, drawn evenly over the set's groups")
    parser.add_argument("--group", metavar="NAME", help="only the prompts of this group of the set")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=JSON", help="of every run, as for evaluate")
    parser.add_argument("--quick", action="store_true", help="assets by a shorter fit and refinement, and a coarser mesh")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--clip", type=Path, metavar="FOLDER")
    parser.add_argument("--judge", default=f"{__package__}.ablations:judge_tiny", metavar="FUNCTION", help="or 'none'")
    parser.add_argument("--small", type=Path, metavar="FILE", help="also write FILE.md, FILE.json and FILE.jpg")
    args = parser.parse_args(argv)
    try:
        prompts = load_prompts(args.set)
        prompts = prompts if args.group is None else prompts.only(args.group)
        prompts = prompts if args.limit is None else prompts.head(args.limit)
        items = items_of(prompts, args.seeds)
        scorers = Scorers(
            clip=None if args.clip is None else load_clip(args.clip),
            judge=None if args.judge == "none" else load_callable(args.judge),
        )
        title, runs = run_ablation(args.ablation, args, items, scorers)
        data = write_report(args.out, title, prompts, items, runs)
        if args.small is not None:
            write_small_report(args.small, data, items, runs, command_of(args))
    except (ValueError, OSError, RuntimeError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"report in {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
