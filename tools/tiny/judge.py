"""Which coloured solids are in four views of a scene, and do the views agree?

Colours come from hue segmentation; shapes from a small network on the segmented patch, trained on renders (half of them passed
through the autoencoder, so that its softness does not count as a wrong shape). It knows nothing of any prompt. Of toys it
knows the colour only: what shape it calls them means nothing.

    python -m tools.tiny.judge train --run RUN       writes tools/tiny/judge.safetensors
    python -m tools.tiny.judge validate              accuracy on renders of seeds never trained on
"""

from __future__ import annotations

import argparse
import colorsys
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from gd_core.cameras import orbit_cameras

from .renderer import render
from .scenes import COLORS, NOUN_TO_SHAPE, random_scene
from .toys import SOLIDS

WEIGHTS = Path(__file__).with_name("judge.safetensors")
PATCH = 28
MIN_AREA = 14  # pixels of a 64 x 64 view
HUES = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in COLORS.values()])
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class Blob:
    """One colour's largest piece in one view: area in pixels, centroid (x, y) in pixels, judged shape and its probability."""

    color: str
    area: int
    centroid: tuple[float, float]
    shape: str
    confidence: float
    touches: frozenset[str]


def segment(view: Tensor) -> dict[str, np.ndarray]:
    """Colour -> boolean mask `[H, W]` of its largest piece, for one view `[H, W, 3]` in 0..1."""
    image = view.numpy()
    low, high = image.min(-1), image.max(-1)
    chroma = high - low
    saturated = (chroma > 0.16) & (chroma > 0.28 * high)
    with np.errstate(divide="ignore", invalid="ignore"):
        r, g, b = np.moveaxis(image, -1, 0)
        hue = np.where(high == r, (g - b) / chroma, np.where(high == g, 2 + (b - r) / chroma, 4 + (r - g) / chroma)) / 6 % 1
    distance = np.abs(hue[..., None] - HUES)
    nearest = np.minimum(distance, 1 - distance).argmin(-1)
    minimum = MIN_AREA * image.shape[0] * image.shape[1] / 64**2
    found = {}
    for index, color in enumerate(COLOR_NAMES):
        mask = saturated & (nearest == index)
        if mask.sum() < minimum:
            continue
        # A rim of mixed colours between two solids is thin: what erosion leaves nothing of is not a solid.
        labels, count = ndimage.label(mask)
        if not count:
            continue
        areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
        largest = labels == 1 + int(areas.argmax())
        if largest.sum() >= minimum and ndimage.binary_erosion(largest).sum() >= minimum / 4:
            found[color] = largest
    return found


def _patch(view: Tensor, mask: np.ndarray, others: np.ndarray) -> Tensor:
    """`[4, PATCH, PATCH]`: mask, brightness, other solids, and how large the piece is, around its bounding box."""
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = max(bottom - top, right - left) + 4
    cy, cx = (top + bottom) / 2, (left + right) / 2
    height, width = mask.shape
    brightness = view.max(-1).values * torch.from_numpy(mask)
    brightness = brightness / brightness.max().clamp(min=1e-3)
    planes = torch.stack((torch.from_numpy(mask).float(), brightness, torch.from_numpy(others).float()))
    steps = (torch.arange(PATCH) + 0.5) / PATCH - 0.5
    y = (cy + steps * side) / height * 2 - 1
    x = (cx + steps * side) / width * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None].float()
    patch = F.grid_sample(planes[None], grid, align_corners=False)[0]
    return torch.cat((patch, torch.full((1, PATCH, PATCH), float(side) / height)))


class ShapeNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, len(SOLIDS)),
        )  # fmt: skip


@cache
def _network() -> ShapeNet:
    network = ShapeNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def _patches(view: Tensor) -> tuple[dict[str, np.ndarray], list[Tensor]]:
    masks = segment(view)
    everything = np.zeros(view.shape[:2], bool)
    for mask in masks.values():
        everything |= mask
    return masks, [_patch(view, mask, everything & ~mask) for mask in masks.values()]


@torch.no_grad()
def judge_view(view: Tensor) -> dict[str, Blob]:
    """The solids in one view `[H, W, 3]` in 0..1, by colour."""
    masks, patches = _patches(view.detach().float().cpu())
    if not masks:
        return {}
    probabilities = _network()(torch.stack(patches)).softmax(1)
    grown = {color: ndimage.binary_dilation(mask, iterations=2) for color, mask in masks.items()}
    blobs = {}
    for (color, mask), p in zip(masks.items(), probabilities, strict=True):
        rows, columns = np.nonzero(mask)
        touches = frozenset(o for o, m in masks.items() if o != color and (grown[color] & m).any())
        best = int(p.argmax())
        blobs[color] = Blob(
            color, int(mask.sum()), (float(columns.mean()), float(rows.mean())), SOLIDS[best], float(p[best]), touches
        )
    return blobs


@dataclass(frozen=True)
class Verdict:
    """What four (or more) views show of the named solids.

    Attributes:
        in_views: solid -> in how many views its colour and shape are there.
        present: solid -> there in every view where it is not occluded.
        extra_colors: colours seen in at least two views that nobody named.
        same_content: every view shows the same colours, up to occlusion.
    """

    in_views: dict[tuple[str, str], int]
    present: dict[tuple[str, str], bool]
    extra_colors: frozenset[str]
    same_content: bool

    @property
    def all_present(self) -> bool:
        return all(self.present.values())


def judge(views: Tensor, solids: Sequence[tuple[str, str]]) -> Verdict:
    """Judge `views` `[V, H, W, 3]` (0..1) against (colour, shape) pairs.

    A solid may be hidden by another: in at most one of four views its colour may be missing while something else is there, or
    be cut to less than 60 % of its usual area while touching another colour; such a view says nothing, for or against.
    """
    per_view = [judge_view(view) for view in views]
    named = {color for color, _ in solids}
    hidden_allowance = max(1, len(views) // 4)
    in_views, present = {}, {}
    for color, shape in solids:
        usual = float(np.median([blobs[color].area for blobs in per_view if color in blobs] or [0]))
        right = wrong = hidden = 0
        for blobs in per_view:
            blob = blobs.get(color)
            if blob is None:
                hidden, wrong = (hidden + 1, wrong) if len(blobs) and len(solids) > 1 else (hidden, wrong + 1)
            elif blob.shape == shape:
                right += 1
            elif blob.area < 0.6 * usual and blob.touches:
                hidden += 1
            else:
                wrong += 1
        in_views[color, shape] = right
        present[color, shape] = wrong == 0 and hidden <= hidden_allowance and right > 0
    counts = {c: sum(c in blobs for blobs in per_view) for c in COLOR_NAMES}
    everywhere = {c for c, n in counts.items() if n >= len(views) - hidden_allowance}
    same = all(n == 0 or c in everywhere for c, n in counts.items() if n > 1 or c in named)
    return Verdict(in_views, present, frozenset(c for c, n in counts.items() if n >= 2 and c not in named), same)


def centroid_offsets(views: Tensor, first: str, second: str) -> list[float | None]:
    """Per view, the horizontal offset in pixels from `first`'s centroid to `second`'s, None where either is not seen."""
    offsets = []
    for view in views:
        blobs = judge_view(view)
        both = first in blobs and second in blobs
        offsets.append(blobs[second].centroid[0] - blobs[first].centroid[0] if both else None)
    return offsets


def solids_of_prompt(prompt: str) -> list[tuple[str, str]]:
    """(colour, shape) pairs in the order of the prompt's words."""
    solids, color = [], None
    for word in prompt.replace(",", " ").replace(".", " ").split():
        if word in COLORS:
            color = word
        elif word in NOUN_TO_SHAPE and color is not None:
            solids.append((color, NOUN_TO_SHAPE[word]))
            color = None
    return solids


def _training_patches(run: Path, shards: int) -> tuple[Tensor, Tensor]:
    from diffusers import AutoencoderKL  # noqa: PLC0415

    from .data import load_shard  # noqa: PLC0415

    vae = AutoencoderKL.from_pretrained(run / "vae").eval()
    rng, patches, labels = random.Random(0), [], []
    for path in sorted((run / "shards").glob("*.safetensors"))[:shards]:
        tensors, prompts = load_shard(path)
        for views, prompt in zip(tensors["images"], prompts, strict=True):
            shape_of = dict(solids_of_prompt(prompt))
            views = views.float() / 255
            if rng.random() < 0.5:
                with torch.no_grad():
                    decoded = vae.decode(vae.encode(views.movedim(-1, 1) * 2 - 1).latent_dist.sample()).sample
                views = (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1)
            for view in views:
                masks, found = _patches(view)
                for color, patch in zip(masks, found, strict=True):
                    if shape_of.get(color) in SOLIDS:
                        patches.append(patch.half())
                        labels.append(SOLIDS.index(shape_of[color]))
    return torch.stack(patches), torch.tensor(labels)


def train(run: Path, shards: int = 6, epochs: int = 6) -> None:
    torch.manual_seed(0)
    patches, labels = _training_patches(run, shards)
    print(f"{len(labels)} patches", flush=True)
    network = ShapeNet()
    batch = 128
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (len(labels) // batch))
    for epoch in range(epochs):
        right = 0
        for index in torch.randperm(len(labels)).split(batch)[: len(labels) // batch]:
            x = patches[index].float()
            flip = torch.rand(len(x)) < 0.5
            x[flip] = x[flip].flip(-1)
            x[:, :3] += 0.03 * torch.randn_like(x[:, :3])
            logits = network(x)
            loss = F.cross_entropy(logits, labels[index], label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right += int((logits.argmax(1) == labels[index]).sum())
        print(f"epoch {epoch}: {right / len(labels):.4f}", flush=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, WEIGHTS)


def validate(scenes: int = 300, supersample: int = 2) -> dict[str, float]:
    """Share of fresh ground-truth scenes (one to three solids, held-out pairs among them) that are judged right."""
    rng = random.Random("judge-validation")
    right = {1: [], 2: [], 3: []}
    for i in range(scenes):
        count = 1 + i % 3
        scene = random_scene(rng, count, held_out=rng.random() < 0.3)
        grey = rng.choice((1.0, rng.uniform(0.6, 1.0)))
        cameras = orbit_cameras(4, rng.choice((15.0, rng.uniform(0, 30))), rng.uniform(0, 360))
        views, coverage = render(scene.solids, cameras, 64, (grey, grey, grey), supersample)
        verdict = judge(views, [(s.color, s.shape) for s in scene.solids])
        if count == 3 and (coverage.sum((2, 3)) < MIN_AREA).any(0).sum() > 0:
            continue  # three solids can hide one another in several views; the rule speaks of one
        right[count].append(verdict.all_present and not verdict.extra_colors)
    scores = {f"{n} solids": float(np.mean(r)) for n, r in right.items()}
    return scores | {"all": float(np.mean(sum(right.values(), []))), "n": sum(map(len, right.values()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "validate"))
    parser.add_argument("--run", type=Path)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.action == "train":
        train(args.run, args.shards)
    print(validate(args.scenes))


if __name__ == "__main__":
    main()
