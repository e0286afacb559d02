"""docs/candidates.png: the candidates of some prompts with their scores, the one that went on, and what became of it.

    python -m tools.candidates_figure --out docs/candidates.png
    python -m tools.candidates_figure --sets three --prompts 2 5 --out figure.png

Prompts are the development split's, taken in order and not by their results; what `tools.tiny.judge` finds stands below the
final views, failures included.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gd_core.diffusion import load_mvdream
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.sampling import Candidate, sample_views
from gd_core.views import ViewSet
from tools.tiny.judge import judge, solids_of_prompt
from tools.tiny.measure import SETS, prompts_of, seeds_of

TILE, GAP, CAPTION = 72, 10, 16
COUNT = 4
GOOD, BAD = (34, 120, 60), (190, 50, 40)


def strip(row: Tensor, tile: int) -> Image.Image:
    """`[H, V*W, 3]` as a picture with views of `tile` pixels."""
    picture = Image.fromarray((row.clamp(0, 1) * 255).round().byte().numpy())
    return picture.resize((tile * row.shape[1] // row.shape[0], tile))


def block(views: ViewSet, candidates: list[Candidate]) -> Image.Image:
    """One prompt: candidates on the left, the one that went on framed; the final views on the right."""
    font = ImageFont.load_default(12)
    left, right = 4 * TILE, 4 * 2 * TILE
    width, height = left + 250 + right, CAPTION + COUNT * (TILE + 4) + 2 * CAPTION + GAP
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((2, 0), views.prompt, "black", font)
    for k, candidate in enumerate(candidates):
        top = CAPTION + k * (TILE + 4)
        picture.paste(strip(candidate.preview, TILE), (0, top))
        won = candidate.seed == views.seed
        if won:
            draw.rectangle((0, top, left - 1, top + TILE - 1), outline=GOOD, width=3)
        lines = [f"seed {candidate.seed}, score {candidate.score:.2f}" + (" goes on" if won else "")]
        lines += [str(verdict) for verdict in candidate.verdicts]
        for n, line in enumerate(lines):
            draw.text((left + 6, top + n * 15), line, "black" if won else "gray", font)
    picture.paste(strip(torch.cat(list(views.images), 1), 2 * TILE), (left + 250, CAPTION))
    things = solids_of_prompt(views.prompt)
    seen = judge(views.images, things)
    top = CAPTION + 2 * TILE + 4
    draw.text((left + 250, top), "the model: " + ", ".join(map(str, views.verdicts)), "black", font)
    missing = [" ".join(thing) for thing in things if not seen.present[thing]]
    said = f"the judge misses: {', '.join(missing)}" if missing else "the judge finds all"
    draw.text((left + 250, top + CAPTION), said, BAD if missing else GOOD, font)
    return picture


def made(model: MVDream, prompt: str, seed: int) -> Image.Image:
    tried: list[list[Candidate]] = []
    config = replace(model.recipe.candidates, count=COUNT)
    views = sample_views(model, prompt, seed=seed, candidates=config, on_candidates=lambda c, _: tried.append(c))
    return block(views, tried[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="anything load_mvdream takes")
    several = [name for name, (count, *_) in SETS.items() if count > 1]
    parser.add_argument("--sets", nargs="+", default=["two_held_out", "three"], choices=several)
    parser.add_argument("--prompts", type=int, nargs="+", default=[0, 1, 2], help="of each set, which of the development split")
    parser.add_argument("--out", type=Path, default=Path("docs/candidates.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_mvdream(args.model, device="cpu", dtype=torch.float32)
    count = max(args.prompts) + 1
    jobs = [(prompts_of(name, count, "dev")[i], seeds_of(count, "dev")[i]) for name in args.sets for i in args.prompts]
    blocks = [made(model, prompt, seed) for prompt, seed in jobs]
    sheet = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    top = 0
    for one in blocks:
        sheet.paste(one, (0, top))
        top += one.height
    sheet.quantize(256).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
