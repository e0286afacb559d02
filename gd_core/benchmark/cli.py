"""`python -m gd_core evaluate SET`: run a prompt set, score it, write a report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..cli import add_lora
from ..metrics.alignment import two_step_judge
from ..metrics.clip import load_clip
from .prompt_sets import bundled_sets, load_prompts
from .protocols import PROTOCOLS, check_protocol
from .report import Run, write_report, write_small_report
from .runner import Plan, items_of, load_callable, run_benchmark
from .scoring import INCEPTION, Scorers, score_run
from .workers import RayCluster, run_here, run_processes

DESCRIPTION = """Run every prompt of a set with every seed, score what was made, and write DIR/report.html and DIR/report.json.
The same command goes on where an interrupted run stopped, tries failed items again, and makes only what is not there yet."""
BAD_INPUT, INTERRUPTED, SOME_FAILED = 2, 130, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 when some items failed; 2 for what the user can put right; 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m gd_core evaluate", description=DESCRIPTION)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sets = ", ".join(bundled_sets())
    parser.add_argument("set", metavar="SET", help=f"{sets}; or a .txt file, one prompt a line, or a .json file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--model", default="tiny", metavar="SOURCE", help="as for generate (default: tiny)")
    add_lora(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="two or more also measure diversity")
    parser.add_argument("--limit", type=int, metavar="N", help="only N prompts, drawn evenly over the set's groups")
    parser.add_argument("--small", type=Path, metavar="FILE", help="also FILE.md, FILE.json and FILE.jpg, to keep or commit")
    made = parser.add_argument_group("what is made")
    made.add_argument(
        "--maker",
        default="asset",
        metavar="KIND",
        help="'asset' (the whole pipeline, default), 'views' (stage 1 alone), or FILE.py:FUNCTION, a factory "
        "(model, settings) -> maker(prompt, seed) -> gd_core.benchmark.items.Made, to measure any other system",
    )
    made.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="a setting of generate, may be repeated: steps=20, refocus=null, 'refinement={\"multi_view\": false}'",
    )
    where = parser.add_argument_group("where it runs")
    where.add_argument("--workers", type=int, default=1, metavar="N", help="processes, or Ray tasks (default: 1)")
    where.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads of each worker (default: 1)")
    where.add_argument("--ray", metavar="ADDRESS", help="run on Ray: local, auto, HOST:PORT or ray://HOST:PORT")
    scored = parser.add_argument_group("what is measured besides")
    scored.add_argument(
        "--protocol",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)}: look and judge as its authors do, not in this pack's own way (docs/evaluation.md)",
    )
    scored.add_argument("--pool", metavar="SET", help="prompts that a protocol's R-Precision chooses from (default: the set's)")
    scored.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP model in transformers' layout: CLIP metrics")
    scored.add_argument("--judge", metavar="FUNCTION", help="FILE.py:NAME, (images [V,H,W,3], prompt) -> dict of verdicts")
    scored.add_argument("--captioner", metavar="FUNCTION", help="FILE.py:NAME, images [V,H,W,3] -> captions, for T3-style")
    scored.add_argument("--caption-judge", metavar="FUNCTION", help="FILE.py:NAME, (prompt, captions) -> 1 to 5")
    scored.add_argument("--language-model", metavar="FUNCTION", help="FILE.py:NAME, text -> answer: T3Bench's judge")
    scored.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="pictures for FID and KID to compare with: a text-to-image model's, of the same prompts, or real ones",
    )
    scored.add_argument("--inception", type=Path, metavar="FILE", help="FID's Inception weights; without them CLIP's features")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code. Everything that can be wrong with the arguments is found before anything is made.

    Raises:
        ValueError, OSError: bad input.
        ModuleNotFoundError: an optional package that was asked for is not installed.
    """
    if args.workers < 1 or args.threads < 1:
        raise ValueError(f"--workers and --threads must be at least 1, got {args.workers} and {args.threads}")
    prompts = load_prompts(args.set)
    if args.limit is not None:
        prompts = prompts.head(args.limit)
    items = items_of(prompts, args.seeds)
    scorers = make_scorers(args)
    settings = parse_settings(args.setting) | ({"loras": args.lora} if args.lora else {})
    if args.protocol is not None:
        settings["protocol"] = args.protocol
    plan = Plan(args.maker, args.model, settings, args.threads)
    with ExitStack() as stack:
        execute = run_here if args.workers == 1 else run_processes
        if args.ray is not None:
            execute = stack.enter_context(RayCluster(args.ray, args.workers))
        bar = stack.enter_context(tqdm(total=len(items), desc=prompts.name, dynamic_ncols=True))

        def tell(done: int, total: int, preview: Tensor | None) -> None:
            bar.update(done - bar.n)

        failed = run_benchmark(plan, items, args.out, execute, workers=args.workers, progress=tell)
    for key, error in failed.items():
        print(f"failed: {key}: {error}", file=sys.stderr)
    scores = score_run(args.out, items, scorers)
    runs = [Run(plan.model, plan, args.out, scores)]
    data = write_report(args.out, f"{prompts.title}: {plan.model}", prompts, items, runs)
    if args.small is not None:
        seeds = " ".join(map(str, args.seeds))
        limit = "" if args.limit is None else f" --limit {args.limit}"
        judge = "" if args.judge is None else f" --judge {Path(args.judge).name}"
        judge += "" if args.protocol is None else f" --protocol {args.protocol}"
        command = f"python -m gd_core evaluate {args.set}{limit} --maker {args.maker} --seeds {seeds}{judge} --out DIR"
        write_small_report(args.small, data, items, runs, command)
    print(f"{len(scores.items)} of {len(items)} items, report in {args.out / 'report.html'}")
    return SOME_FAILED if failed else 0


def parse_settings(pairs: Sequence[str]) -> dict:
    """`NAME=JSON` pairs as a dict."""
    settings = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"--setting '{pair}' should be NAME=JSON, for example steps=20")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"--setting {name}: '{value}' is not JSON ({error}); a text needs double quotes") from error
    return settings


def make_scorers(args: argparse.Namespace) -> Scorers:
    """What `args` asks to be measured, loaded."""
    if args.protocol is not None:
        check_protocol(args.protocol, args.maker, [name.replace("_", "-") for name, value in vars(args).items() if value])
    elif args.pool is not None:
        raise ValueError("--pool is for the R-Precision of a protocol: give --protocol dreamfields or paper, too")
    if args.caption_judge is not None and args.language_model is not None:
        raise ValueError("--caption-judge and --language-model are two judges of the captions: give one")
    scorers = Scorers(
        clip=None if args.clip is None else load_clip(args.clip),
        judge=None if args.judge is None else load_callable(args.judge),
        captioner=None if args.captioner is None else load_callable(args.captioner),
        caption_judge=None if args.caption_judge is None else load_callable(args.caption_judge),
        protocol=args.protocol,
        pool=() if args.pool is None else [prompt.text for prompt in load_prompts(args.pool).prompts],
    )
    if args.language_model is not None:
        scorers.caption_judge = two_step_judge(load_callable(args.language_model))
    if (scorers.captioner is None) != (scorers.caption_judge is None):
        raise ValueError("T3-style alignment needs both --captioner and --caption-judge or --language-model")
    if args.inception is not None and args.reference is None:
        raise ValueError("--inception is for FID and KID, which also need --reference FOLDER")
    if args.reference is not None:
        scorers.reference = load_pictures(args.reference)
        if args.inception is not None:
            from ..metrics.distribution import inception_features  # noqa: PLC0415  (torchmetrics is an optional extra)

            scorers.features, scorers.feature_name = inception_features(args.inception), INCEPTION
        elif scorers.clip is not None:
            clip = scorers.clip
            scorers.features = lambda images: clip.embed_images(images.movedim(1, -1))
            scorers.feature_name = f"CLIP ({clip.name})"
        else:
            raise ValueError("FID and KID need a feature network: give --inception FILE, or --clip FOLDER for CLIP's features")
    return scorers


def load_pictures(folder: Path) -> Tensor:
    """Every picture of a folder as `[n, H, W, 3]` in 0..1, all cut square and scaled to the first one's smaller side.

    Raises:
        ValueError: no folder, or no picture in it.
    """
    suffixes = {".png", ".jpg", ".jpeg", ".webp"}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"no pictures (.png, .jpg, .webp) in reference folder '{folder}'")
    size, pictures = 0, []
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        size = size or min(image.size)
        left, top = (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
        square = image.crop((left, top, left + min(image.size), top + min(image.size)))
        data = square.resize((size, size), Image.Resampling.LANCZOS).tobytes()
        pictures.append(torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(size, size, 3))
    return torch.stack(pictures).float() / 255
