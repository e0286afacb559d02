"""Does the model's own verdict find the start that has every subject in it? Candidates, retries and refocusing, at equal time.

    python -m tools.bench_candidates --time 6 --out DIR           CPU seconds of each part, one prompt after another
    python -m tools.bench_candidates --scenes 200 --out DIR       the test: sample and judge (any device), then tables
    python -m tools.bench_candidates --split dev --sets two_held_out --scenes 40 --out DEV
    python -m tools.bench_candidates --summary --out DIR          only the tables of what DIR holds
    python -m tools.bench_candidates --real-size 2 10 --out DIR   a verdict and an update at MVDream's size, random weights

Every start of every prompt is compared early. Those that an arm finishes are sampled to the end and judged
(`tools.tiny.judge`); with --all every one, which the oracle needs. What candidates and retries would have chosen, and what
it would have cost, follows from that (`tools.candidate_arms`).

Lines of DIR/rows.jsonl are samples, so that a run that was cut short goes on. It also goes on from the rows that
`tools.claims` keeps: they lack what verdicts saw, so that only arms without verdicts can be added. Coefficients, layers and
refocusing are the recipe's, chosen on the development split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch

from gd_core.attention import Focus, RefocusConfig, Refocuser
from gd_core.diffusion import load_mvdream, predict_noise
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.prompts import encode_prompt
from gd_core.diffusion.random_weights import random_mvdream
from gd_core.diffusion.sampling import Candidate, candidate_seeds, sample_objects
from gd_core.diffusion.verdict import Witness
from gd_core.settings.refocus import refocusing
from gd_core.settings.verdict import VerdictConfig
from tools.candidate_arms import (
    DOUBTFUL,
    EARLY,
    PAPER,
    PLAIN,
    TODAY,
    Prompt,
    Rows,
    compare,
    is_done,
    markdown,
    of_verdicts,
    unfinished,
)
from tools.tiny.judge import judge, solids_of_prompt
from tools.tiny.labels import looking_only, one_start
from tools.tiny.measure import SETS, prompts_of, seeds_of

NOUNS = ("corgi", "teapot", "kite", "chair", "lamp", "boat", "guitar", "hat", "bicycle", "cactus")
SEVERAL = [name for name, (count, *_) in SETS.items() if count > 1]


def sample(model: MVDream, rows: Rows, name: str, wanted: Sequence[tuple[int, int]], arm: str, args) -> None:
    """Sample and judge the candidates (prompt, k) of a set that are not there yet."""
    prompts, seeds = prompts_of(name, args.scenes, args.split), seeds_of(args.scenes, args.split)
    missing = [(i, k) for i, k in wanted if (name, i, arm, k) not in rows.rows]
    refocus = {
        PLAIN: looking_only(model),
        TODAY: replace(model.recipe.refocus, when="always"),
        DOUBTFUL: replace(model.recipe.refocus, when="doubtful"),
        PAPER: paper(model),
    }[arm]
    for start in range(0, len(missing), args.batch):
        part = missing[start : start + args.batch]
        views = sample_objects(
            model,
            [prompts[i] for i, _ in part],
            seeds=[candidate_seeds(seeds[i], k + 1)[k] for i, k in part],
            refocus=refocus,
            candidates=one_start(model),
        )
        judged = []
        for (i, k), made in zip(part, views, strict=True):
            things = solids_of_prompt(prompts[i])
            seen = judge(made.images, things)
            report = made.provenance.get("refocus_report") or {"updates": []}
            judged.append(
                {
                    "set": name,
                    "index": i,
                    "arm": arm,
                    "k": k,
                    "all": seen.all_present,
                    "in_three": all(count >= 3 for count in seen.in_views.values()),
                    "same_content": seen.same_content,
                    "there": [seen.present[thing] for thing in things],
                    "in_views": [seen.in_views[thing] for thing in things],
                    "early": [v.early for v in made.verdicts],
                    "final": [v.features for v in made.verdicts],
                    "acted": bool(report["updates"]),
                }
            )
        rows.add(judged)
        print(f"{name} {arm}: {start + len(part)}/{len(missing)}", flush=True)


def paper(model: MVDream) -> RefocusConfig:
    """Attend-and-Excite's objective over the mean of the views, through the layers that the recipe names."""
    return replace(model.recipe.refocus, **refocusing("paper"))


def compare_early(model: MVDream, rows: Rows, name: str, wanted: Sequence[tuple[int, int]], args) -> None:
    """What the early verdict sees of the candidates (prompt, k) of a set that are not there yet."""
    prompts, seeds = prompts_of(name, args.scenes, args.split), seeds_of(args.scenes, args.split)
    missing = [(i, k) for i, k in wanted if (name, i, EARLY, k) not in rows.rows]
    for i in dict.fromkeys(i for i, _ in missing):
        compared: list[Candidate] = []

        def stop(candidates: list[Candidate], _: int, compared: list[Candidate] = compared) -> None:
            compared += candidates
            raise _Compared

        with suppress(_Compared):
            config = replace(model.recipe.candidates, count=args.starts, retries=0)
            sample_objects(model, [prompts[i]], seeds=[seeds[i]], candidates=config, on_candidates=stop)
        for k, candidate in enumerate(compared):
            row = {"set": name, "index": i, "arm": EARLY, "k": k, "early": [v.features for v in candidate.verdicts]}
            rows.add([row])


class _Compared(Exception):
    """Ends a run whose candidates have been compared."""


def measure_time(model: MVDream, names: Sequence[str], prompts: int, split: str) -> dict:
    """CPU seconds: a plain sample, one with today's refocusing, one with refocusing that acts for its doubt, and of candidates
    what each costs until they are compared (`early`) and what the winner costs from there (`rest`)."""
    recipe = model.recipe
    silent, doubt = replace(recipe.verdict, timesteps=()), replace(recipe.verdict, early=(-30.0, 0.0, 0.0, 0.0, 0.0))
    once, four = (replace(recipe.candidates, count=count, retries=0) for count in (1, 4))
    of = {
        PLAIN: {"verdict": silent, "candidates": once},
        "judged": {"candidates": once},
        TODAY: {"verdict": silent, "candidates": once, "refocus": replace(recipe.refocus, when="always")},
        PAPER: {"verdict": silent, "candidates": once, "refocus": paper(model)},
        "looked": {"candidates": once, "refocus": looking_only(model)},
        DOUBTFUL: {"candidates": once, "refocus": replace(recipe.refocus, when="doubtful"), "verdict": doubt},
        "four": {"candidates": four},
    }
    seconds = dict.fromkeys(of, 0.0)
    jobs = [(prompt, seed) for name in names for seed, prompt in enumerate(prompts_of(name, prompts, split))]
    for prompt, seed in [jobs[0], *jobs]:  # the first once more: it warms up
        for arm, settings in of.items():
            start = time.process_time()
            sample_objects(model, [prompt], seeds=[seed], **settings)
            if seed or prompt != jobs[0][0]:
                seconds[arm] += (time.process_time() - start) / (len(jobs) - 1)
    early = (seconds["four"] - seconds["looked"]) / 3
    return seconds | {"early": early, "rest": seconds["looked"] - early, "prompts": len(jobs) - 1}


@torch.no_grad()
def real_size(model: MVDream, count: int) -> dict:
    """CPU seconds of a guided step, of one verdict on so many subjects and of one update of refocusing for them."""
    conditioning, latents, timestep = model.default_cameras().conditioning(), torch.randn(4, 4, 32, 32), torch.tensor(500)
    prompt = encode_prompt(model, " and ".join(f"a {noun}" for noun in NOUNS[:count]))
    focus = Focus.of_subjects(prompt.text).locate(prompt.text, prompt.words, prompt.end_token)

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return predict_noise(model.unet, z, t, prompt.embeddings, conditioning, 4)

    witness = Witness(model, prompt, conditioning, VerdictConfig())
    refocuser = Refocuser(model.unet, predict, [focus], replace(RefocusConfig(), share=1.0), num_views=4, steps=1)
    work = {
        "guided step": lambda: (predict(latents, timestep), predict(latents, timestep)),
        "verdict": lambda: witness.lift(latents),
        "update": lambda: refocuser(0, latents, timestep, 0.3),
    }
    seconds = {"subjects": count}
    for name, of in work.items():
        start = time.process_time()
        of()
        seconds[name] = round(time.process_time() - start, 2)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="anything load_mvdream takes")
    parser.add_argument("--lora", action="append", default=[], metavar="FILE", help="on top of the model")
    parser.add_argument("--recipe", type=Path, help="JSON of what to change of the model's recipe")
    parser.add_argument("--sets", nargs="*", default=["two", "two_held_out", "three"], choices=SEVERAL)
    parser.add_argument("--scenes", type=int, default=200, help="of each set")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--starts", type=int, default=4, help="candidates of each prompt, 1 to 8")
    parser.add_argument("--chosen", type=int, help="candidates whose winner is refocused, too (default: --starts)")
    refocused = (TODAY, DOUBTFUL, PAPER)
    parser.add_argument("--refocus", nargs="*", default=[TODAY, DOUBTFUL], choices=refocused, help="arms with refocusing")
    parser.add_argument("--no-verdict", action="store_true", help="leave out the arms with candidates and retries")
    parser.add_argument("--all", action="store_true", help="sample every start to the end: for the oracle")
    parser.add_argument("--batch", type=int, default=8, help="samples made together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--time", type=int, metavar="PROMPTS", help="only measure CPU seconds, on so many prompts of each set")
    parser.add_argument("--real-size", type=int, nargs="+", metavar="SUBJECTS", help="only the cost at MVDream's size (8 GB)")
    parser.add_argument("--summary", action="store_true", help="only the tables")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.real_size:
        model = random_mvdream(torch.float32)
        for count in args.real_size:
            print(json.dumps(real_size(model, count)), flush=True)
        return
    model = load_mvdream(args.model, device=args.device, dtype=torch.float32, loras=args.lora)
    if args.recipe:
        model = replace(model, recipe=type(model.recipe).from_json(args.recipe.read_text(), model.recipe))
    args.out.mkdir(parents=True, exist_ok=True)
    timing = args.out / "time.json"
    if args.time:
        timing.write_text(json.dumps(measure_time(model, args.sets, args.time, "dev"), indent=1))
        print(timing.read_text())
        return
    rows, config = Rows(args.out / "rows.jsonl"), model.recipe.verdict
    chosen = args.chosen or args.starts
    step = max(1, args.batch // args.starts)
    if not args.summary:
        for start in range(0, args.scenes, step):
            part = range(start, min(start + step, args.scenes))
            for name in args.sets:
                first = [(i, 0) for i in part]
                sample(model, rows, name, first, PLAIN, args)
                for arm in (TODAY, PAPER):
                    if arm in args.refocus:
                        sample(model, rows, name, first, arm, args)
                if args.no_verdict:
                    continue
                every = [(i, k) for i in part for k in range(args.starts)]
                compare_early(model, rows, name, every, args)
                if args.all:
                    sample(model, rows, name, every, PLAIN, args)
                while wanted := unfinished(rows, name, part, config, args.starts):
                    sample(model, rows, name, wanted, PLAIN, args)
                if DOUBTFUL in args.refocus:
                    tried = {i: Prompt(rows, name, i, config, args.starts) for i in part}
                    winners = {(i, tried[i].winner(n)) for i in part for n in (1, chosen)}
                    doubted = [(i, k) for i, k in sorted(winners) if not tried[i].sure[k]]
                    sample(model, rows, name, doubted, DOUBTFUL, args)
    if not timing.exists():
        parser.error(f"no {timing}: measure CPU seconds first, with --time")
    seconds = json.loads(timing.read_text())
    summary, tables = {"model": model.config.name, "split": args.split, "verdict": asdict(config), "seconds": seconds}, []
    for name in args.sets:
        tried = {i: Prompt(rows, name, i, config, args.starts) for i in range(args.scenes)}
        counts = [] if args.no_verdict else range(1, args.starts + 1)
        prompts = [p for p in tried.values() if is_done(p, args.refocus, counts, chosen)]
        if not prompts:
            continue
        arms, verdicts = compare(prompts, seconds, args.starts), of_verdicts([r for p in prompts for r in p.rows if r], config)
        summary[name] = {"arms": arms, "verdicts": verdicts}
        tables.append(markdown(name, arms, verdicts))
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
    (args.out / "summary.md").write_text("\n\n".join(tables) + "\n")
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
