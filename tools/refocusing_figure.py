"""docs/refocusing.png: the same prompts and seeds without and with refocusing, each subject's heat maps beside them.

python -m tools.refocusing_figure --out docs/refocusing.png
python -m tools.refocusing_figure --prompt "a red cube and a blue torus" --seed 3 --out figure.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gd_core.diffusion import load_mvdream
from gd_core.diffusion.sampling import sample_objects
from gd_core.views import ViewSet

EXAMPLES = (
    ("a red cube, a blue sphere and a yellow cone", 3),
    ("a cyan cube next to a red torus", 5),
    ("a green torus, an orange cube and a purple sphere", 7),
)
TILE, GAP, CAPTION = 96, 12, 18
HOT = torch.tensor([0.90, 0.10, 0.05])


def heat(view: Tensor, attention: Tensor, highest: float) -> Tensor:
    """A view `[H, W, 3]` in grey with one word's map `[h, w]` over it in red, `highest` the full colour."""
    height, width, _ = view.shape
    strength = F.interpolate(attention[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
    strength = (strength / highest).clamp(0, 1)[..., None]
    grey = 0.4 + 0.6 * view.mean(-1, keepdim=True).expand_as(view)
    return grey * (1 - strength) + HOT * strength


def tiles(images: Tensor) -> Tensor:
    """`[V, H, W, 3]` as one row of V tiles."""
    scaled = F.interpolate(images.movedim(-1, 1), (TILE, TILE), mode="bilinear", align_corners=False).movedim(1, -1)
    return torch.cat(list(scaled), dim=1)


def row(views: ViewSet, words: list[str], highest: dict[str, float]) -> Tensor:
    parts = [tiles(views.images)]
    for word in words:
        maps = [heat(v, a, highest[word]) for v, a in zip(views.images, views.attention[word], strict=True)]
        parts += [torch.ones(TILE, GAP, 3), tiles(torch.stack(maps))]
    return torch.cat(parts, dim=1)


def block(off: ViewSet, on: ViewSet) -> Image.Image:
    """One prompt: a caption, a row without refocusing and a row with it, on one scale for each word."""
    words = [entry["word"] for entry in on.provenance["focus"]["focus"]]
    words = [word for word in dict.fromkeys(words) if word in on.attention]
    highest = {word: float(torch.maximum(off.attention[word].max(), on.attention[word].max())) for word in words}
    rows = [row(off, words, highest), row(on, words, highest)]
    width = rows[0].shape[1]
    picture = Image.new("RGB", (width, 3 * CAPTION + 2 * TILE + GAP), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    draw.text((2, 1), f"{off.prompt}   (seed {off.seed})", "black", font)
    for i, (title, tiles_, views) in enumerate(zip(("without", "with refocusing"), rows, (off, on), strict=True)):
        top = CAPTION + i * (CAPTION + TILE)
        draw.text((2, top + 1), title, "gray", font)
        for k, word in enumerate(words):
            left = (k + 1) * (4 * TILE + GAP)
            draw.text((left, top + 1), f"{word}: presence {views.provenance['presence'][word]:.2f}", "gray", font)
        image = Image.fromarray((tiles_.clamp(0, 1) * 255).round().byte().numpy())
        picture.paste(image, (0, top + CAPTION))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="anything load_mvdream takes")
    parser.add_argument("--prompt", help="one prompt instead of the examples")
    parser.add_argument("--seed", type=int, default=0, help="with --prompt")
    parser.add_argument("--out", type=Path, default=Path("docs/refocusing.png"))
    args = parser.parse_args()
    examples = ((args.prompt, args.seed),) if args.prompt else EXAMPLES
    model = load_mvdream(args.model, device="cpu", dtype=torch.float32)
    prompts, seeds = [p for p, _ in examples], [s for _, s in examples]
    off = sample_objects(model, prompts, seeds=seeds)
    on = sample_objects(model, prompts, seeds=seeds, refocus="auto")
    blocks = [block(*pair) for pair in zip(off, on, strict=True)]
    sheet = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    top = 0
    for picture in blocks:
        sheet.paste(picture, (0, top))
        top += picture.height
    sheet.save(args.out)


if __name__ == "__main__":
    main()
