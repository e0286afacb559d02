"""Does attention refocusing bring missing subjects back? The same prompts and seeds without and with it, judged.

    python -m tools.bench_refocus --scenes 200 --out refocus.jsonl           the test: every set, McNemar, dose-response
    python -m tools.bench_refocus --split dev --sets three --scenes 48 --out dev.jsonl --set step_size=0.2 --set share=0.5
    python -m tools.bench_refocus --real-size                                 cost of one step at MVDream's size, random weights

The judge is `tools.tiny.judge`. Every judged scene is a line of the --out file, so a run that was cut short goes on where it
stopped, and several settings share one baseline. Settings are chosen on the development split; the test split is for the
defaults, once.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from gd_core.attention import Focus, RefocusConfig, Refocuser
from gd_core.benchmark.statistics import paired_difference, wilson_interval
from gd_core.cameras import orbit_cameras
from gd_core.diffusion import load_mvdream, load_unet, predict_noise, sample_latents
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.sampling import sample_objects
from tools.tiny.judge import judge, solids_of_prompt
from tools.tiny.measure import SETS, prompts_of, seeds_of

DOSES = (0.0, 0.5, 1.0, 2.0)
DOSE_SET = "three"  # the set with the most to gain


class Rows:
    """Judged scenes, one JSON line each, keyed by (set, index, arm)."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = {(r["set"], r["index"], r["arm"]): r for r in map(json.loads, lines)}

    def add(self, rows: Sequence[dict]) -> None:
        with self.path.open("a") as file:
            for row in rows:
                self.rows[row["set"], row["index"], row["arm"]] = row
                file.write(json.dumps(row) + "\n")

    def shared(self, name: str, arms: Sequence[str]) -> list[list[dict]]:
        """For each arm the rows of the scenes that all arms have, in order."""
        indices = sorted(set.intersection(*({i for n, i, a in self.rows if n == name and a == arm} for arm in arms)))
        return [[self.rows[name, i, arm] for i in indices] for arm in arms]


def focus_with_dose(prompt: str, index: int, dose: float) -> tuple[Focus, int]:
    """The prompt's subjects at weight 1 but for one, the index-th in turn, at `dose`; and which one that is."""
    focus = Focus.of_subjects(prompt)
    if len(focus.words) != len(solids_of_prompt(prompt)):
        raise RuntimeError(f"the subjects found in {prompt!r} are not its solids: {focus.to_json()}")
    target = index % len(focus.words)
    words = [replace(word, weight=dose) if i == target else word for i, word in enumerate(focus.words)]
    return replace(focus, words=tuple(words)), target


Arm = tuple[str, RefocusConfig | None, float | None]  # name, refocusing, weight of one word


def run(model: MVDream, rows: Rows, name: str, arms: Sequence[Arm], scenes: int, args: argparse.Namespace) -> None:
    """Sample and judge what is missing, the arms in turn for each batch: a run that is cut short is still paired."""
    prompts, seeds = prompts_of(name, scenes, args.split), seeds_of(scenes, args.split)
    for start in range(0, scenes, args.batch):
        for arm in arms:
            missing = [i for i in range(start, min(start + args.batch, scenes)) if (name, i, arm[0]) not in rows.rows]
            if missing:
                rows.add(judged_batch(model, name, arm, missing, prompts, seeds))
        print(f"{name}: {min(start + args.batch, scenes)}/{scenes}", flush=True)


def judged_batch(
    model: MVDream, name: str, arm: Arm, batch: Sequence[int], prompts: Sequence[str], seeds: Sequence[int]
) -> list[dict]:
    label, refocus, dose = arm
    chosen = [focus_with_dose(prompts[i], i, dose) if dose is not None else (None, None) for i in batch]
    start = time.process_time()
    views = sample_objects(
        model,
        [prompts[i] for i in batch],
        seeds=[seeds[i] for i in batch],
        focuses=[focus for focus, _ in chosen],
        refocus=refocus,
    )
    seconds = (time.process_time() - start) / len(batch)
    judged = []
    for i, view_set, (_, target) in zip(batch, views, chosen, strict=True):
        solids = solids_of_prompt(prompts[i])
        verdict = judge(view_set.images, solids)
        judged.append(
            {
                "set": name,
                "index": i,
                "arm": label,
                "prompt": prompts[i],
                "all": verdict.all_present,
                "in_three": all(count >= 3 for count in verdict.in_views.values()),
                "subjects": [verdict.present[solid] for solid in solids],
                "views": [verdict.in_views[solid] for solid in solids],
                "same_content": verdict.same_content,
                "target": target,
                "presence": view_set.provenance["presence"],
                "report": view_set.provenance.get("refocus_report"),
                "cpu_seconds": seconds,
            }
        )
    return judged


def compare(rows: Rows, name: str, arm: str) -> dict:
    """Refocusing off against `arm` over the same scenes, with McNemar's exact test for each yes/no question."""
    off, on = rows.shared(name, ("off", arm))
    scenes = len(off)
    result = {"set": name, "scenes": scenes, "arm": arm}
    for question in ("all", "in_three", "same_content"):
        a, b = ([float(row[question]) for row in side] for side in (off, on))
        paired = paired_difference(a, b)
        result[question] = {
            "off": asdict(wilson_interval(int(sum(a)), scenes)),
            "on": asdict(wilson_interval(int(sum(b)), scenes)),
            "difference": asdict(paired.difference),
            "gained": paired.risen,
            "lost": paired.fallen,
            "p": paired.p_value,
        }
    for key, most in (("subjects", 1), ("views", 4)):
        shares = [sum(sum(row[key]) for row in side) / sum(most * len(row[key]) for row in side) for side in (off, on)]
        result[key] = {"off": shares[0], "on": shares[1]}
    cpu = [sum(row["cpu_seconds"] for row in side) / scenes for side in (off, on)]
    result["cpu_seconds"] = {"off": cpu[0], "on": cpu[1], "ratio": cpu[1] / cpu[0]}
    result["stopped"] = sum(bool(row["report"] and row["report"]["stopped"]) for row in on)
    return result


def doses(rows: Rows, name: str) -> list[dict]:
    """The targeted word's own subject, by weight: in how many scenes it is there, in how many views, and its presence."""
    result = []
    for dose, of_dose in zip(DOSES, rows.shared(name, [f"dose {dose:g}" for dose in DOSES]), strict=True):
        scenes = len(of_dose)
        there = sum(row["subjects"][row["target"]] for row in of_dose)
        result.append(
            {
                "weight": dose,
                "subject": asdict(wilson_interval(there, scenes)),
                "views": sum(row["views"][row["target"]] for row in of_dose) / scenes,
                "presence": sum(list(row["presence"].values())[row["target"]] for row in of_dose) / scenes,
            }
        )
    return result


def markdown(comparisons: Sequence[dict], dose_rows: Sequence[dict]) -> str:
    lines = [
        "| set | scenes | question | off | on | gained / lost | difference (95 %) | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    titles = {"all": "all subjects", "in_three": "all subjects in 3 of 4 views", "same_content": "views agree"}
    for c in comparisons:
        for question, title in titles.items():
            q = c[question]
            d = q["difference"]
            lines.append(
                f"| {c['set']} | {c['scenes']} | {title} | {q['off']['value']:.3f} | {q['on']['value']:.3f} | {q['gained']} / "
                f"{q['lost']} | {d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) | {q['p']:.2g} |"
            )
    lines += ["", "| set | sampling CPU s off | on | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {c['set']} | {c['cpu_seconds']['off']:.2f} | {c['cpu_seconds']['on']:.2f} | {c['cpu_seconds']['ratio']:.2f} |"
        for c in comparisons
    ]
    if dose_rows:
        lines += ["", "| weight of one word | its subject there | in views (of 4) | presence |", "|---|---|---|---|"]
        lines += [
            f"| {r['weight']:g} | {r['subject']['value']:.3f} ({r['subject']['low']:.3f} to {r['subject']['high']:.3f}) | "
            f"{r['views']:.2f} | {r['presence']:.3f} |"
            for r in dose_rows
        ]
    return "\n".join(lines)


def real_size_cost(config: RefocusConfig, steps: int) -> dict:
    """CPU seconds of a guided step of four views at 256 px, of one update, and the ratio over a whole run, random weights."""
    shapes = json.loads((Path(__file__).parents[1] / "tests/data/unet_keys/sd21_unet_keys.json").read_text())
    generator = torch.Generator().manual_seed(0)
    unet = load_unet(
        {k: torch.randn(s, generator=generator) * 0.02 if len(s) > 1 else torch.ones(s) for k, s in shapes.items()}
    )
    context, cameras = torch.randn(1, 77, 1024, generator=generator), orbit_cameras(4).conditioning()
    latents = torch.randn(4, 4, 32, 32, generator=generator)
    focus = Focus.on_tokens([2, 6], end_token=10)

    def predict(z, t):
        return predict_noise(unet, z, t, context, cameras, 4)

    with torch.no_grad():
        predict(latents, 500)  # warm-up
    start = time.process_time()
    sample_latents(unet, latents, context, context, cameras, num_views=4, steps=1, guidance_scale=7.5)
    step_seconds = time.process_time() - start
    refocuser = Refocuser(unet, predict, [focus], replace(config, share=1.0, thresholds=()), num_views=4, steps=1)
    start = time.process_time()
    refocuser(0, latents, torch.tensor(500), 0.3)
    update_seconds = time.process_time() - start
    altered = Refocuser(unet, predict, [focus], config, num_views=4, steps=steps).num_altered
    ratio = 1 + altered * update_seconds / (steps * step_seconds)
    return {"step": step_seconds, "update": update_seconds, "steps": steps, "altered": altered, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="anything load_mvdream takes")
    parser.add_argument("--scenes", type=int, default=200, help="of each set")
    parser.add_argument("--sets", nargs="*", default=list(SETS)[:4], choices=list(SETS)[:4])
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--batch", type=int, default=8, help="objects sampled together")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a field of RefocusConfig")
    parser.add_argument("--dose", type=int, default=0, metavar="SCENES", help="dose-response over so many scenes")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--summary", action="store_true", help="only the tables of what the --out file holds")
    parser.add_argument("--out", type=Path, help="JSON lines of every judged scene; the summary goes beside it")
    parser.add_argument("--real-size", action="store_true", help="only the cost at MVDream's size (5 GB of memory, minutes)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    overrides = {name: ast.literal_eval(value) for name, value in (item.split("=", 1) for item in args.set)}
    if args.real_size:
        print(json.dumps(real_size_cost(replace(RefocusConfig(), **overrides), steps=30), indent=1))
        return
    if args.out is None:
        parser.error("--out is needed: the file that a cut run goes on from")

    model = load_mvdream(args.model, device="cpu", dtype=getattr(torch, args.dtype))
    config = replace(model.recipe.refocus, **overrides)
    rows = Rows(args.out)
    arm = json.dumps(overrides) if overrides else "on"
    if not args.summary:
        for name in args.sets:
            run(model, rows, name, [("off", None, None), (arm, config, None)], args.scenes, args)
        run(model, rows, DOSE_SET, [(f"dose {dose:g}", config, dose) for dose in DOSES], args.dose, args)
    comparisons = [compare(rows, name, arm) for name in args.sets]
    dose_rows = doses(rows, DOSE_SET) if args.dose else []
    summary = {
        "model": model.config.name,
        "split": args.split,
        "config": asdict(config),
        "sets": comparisons,
        "dose": dose_rows,
    }
    args.out.with_suffix(".json").write_text(json.dumps(summary, indent=1))
    table = markdown(comparisons, dose_rows)
    args.out.with_suffix(".md").write_text(table + "\n")
    print(json.dumps(summary))
    print(table)


if __name__ == "__main__":
    main()
