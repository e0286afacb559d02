"""Views of the tiny world that are judged, as labels for `python -m gd_core calibrate`; no hand is needed.

    python -m tools.tiny.labels --model tiny --sets two_held_out three --scenes 40 --seeds 2 --out LABELS

OUT becomes a folder with the views and labels.json. A run that was cut short goes on. Prompts and seeds are the development
split's: calibrate on them, test on the other.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from gd_core.attention import RefocusConfig
from gd_core.attention.subjects import noun_phrases
from gd_core.diffusion import load_mvdream
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.sampling import sample_objects
from gd_core.files import write_text
from gd_core.recipe import Recipe
from gd_core.settings.candidates import CandidateConfig
from gd_core.views import load_views

from .judge import judge, solids_of_prompt
from .measure import SETS, prompts_of, seeds_of


def looking_only(model: MVDream) -> RefocusConfig:
    """Refocusing that waits for the early verdict and then does nothing: views as without it, with early features."""
    return replace(model.recipe.refocus, when="doubtful", share=0.0)


def one_start(model: MVDream) -> CandidateConfig:
    """No candidates and no retries, compared after as many steps as the recipe's are."""
    return replace(model.recipe.candidates, count=1, retries=0)


def missing_subjects(views) -> list[str]:
    """Keys of the nouns whose things the judge does not find in every view where they are not hidden."""
    things = solids_of_prompt(views.prompt)
    verdict = judge(views.images, things)
    nouns = [phrase.noun.key for phrase in noun_phrases(views.prompt)]
    if len(nouns) != len(things):
        raise RuntimeError(f"the subjects found in {views.prompt!r} are not its things: {nouns}")
    return [noun for noun, thing in zip(nouns, things, strict=True) if not verdict.present[thing]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="anything load_mvdream takes")
    parser.add_argument("--lora", action="append", default=[], help="on top of the model")
    parser.add_argument("--recipe", type=Path, help="JSON of what to change of the model's recipe")
    several = [name for name, (count, *_) in SETS.items() if count > 1]
    parser.add_argument("--sets", nargs="+", default=["two_held_out", "three"], choices=several)
    parser.add_argument("--scenes", type=int, default=40, help="of each set")
    parser.add_argument("--seeds", type=int, default=2, help="of each scene")
    parser.add_argument("--batch", type=int, default=4, help="scenes made together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_mvdream(args.model, device=args.device, dtype=torch.float32, loras=args.lora)
    if args.recipe:
        model = replace(model, recipe=Recipe.from_json(args.recipe.read_text(), model.recipe))
    args.out.mkdir(parents=True, exist_ok=True)
    labels = []
    for start in range(0, args.scenes, args.batch):
        part = range(start, min(start + args.batch, args.scenes))
        for name in args.sets:
            prompts, first = prompts_of(name, args.scenes, "dev"), seeds_of(args.scenes, "dev")
            wanted = {args.out / f"{name}-{i}-{k}.safetensors": (i, k) for i in part for k in range(args.seeds)}
            missing = {file: of for file, of in wanted.items() if not file.exists()}
            if missing:
                seeds = [first[i] + 10_000 * k for i, k in missing.values()]
                chosen = [prompts[i] for i, _ in missing.values()]
                made = sample_objects(model, chosen, seeds=seeds, refocus=looking_only(model), candidates=one_start(model))
                for file, views in zip(missing, made, strict=True):
                    views.save(file)
            labels += [{"views": file.name, "missing": missing_subjects(load_views(file))} for file in wanted]
            write_text(args.out / "labels.json", json.dumps(labels, indent=1))
            print(f"{name}: {len(labels)} views, {sum(map(len, (e['missing'] for e in labels)))} subjects missing", flush=True)


if __name__ == "__main__":
    main()
