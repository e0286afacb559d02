"""Training and validation of the judge's network (`tools/tiny/judge.py`).

    python -m tools.tiny.judge_training train --run RUN       writes tools/tiny/judge.safetensors
    python -m tools.tiny.judge_training validate               accuracy on renders of seeds never trained on
    python -m tools.tiny.judge_training validate --size 128 --worlds toys mixed --vae RUN/vae    half of them soft
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from gd_core.cameras import Cameras, orbit_cameras
from gd_core.diffusion.bundle import read_json
from gd_core.diffusion.card import TINY

from .data import IMAGE_SIZE, front
from .judge import (
    ANGLES,
    BEAK,
    CLASSES,
    MIN_AREA,
    PATCH,
    SIDEWAYS,
    WEIGHTS,
    Network,
    judge_views,
    patches_of,
    shipped_network,
    verdict,
)
from .renderer import render
from .scenes import WORLDS, Scene, Solid, random_scene
from .toys import FRONTED


def soften(views: Tensor, rng: random.Random) -> Tensor:
    """Views `[V, H, W, 3]` somewhat as an autoencoder leaves them: scaled down and up, blurred, with noise."""
    x, size = views.movedim(-1, 1), views.shape[1]
    coarse = round(size / (rng.uniform(2.0, 3.0) if size > 64 else rng.uniform(1.2, 1.8)))
    x = F.interpolate(F.interpolate(x, size=coarse, mode="area"), size=size, mode="bicubic", align_corners=False)
    x = torch.lerp(x, F.avg_pool2d(F.pad(x, (1,) * 4, mode="replicate"), 3, 1), rng.random())
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    return (x + rng.uniform(0, 0.03) * noise).clamp(0, 1).movedim(1, -1)


def load_vae(folder: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()


def _autoencoders(run: Path) -> dict[int, AutoencoderKL]:
    """Size of views -> the autoencoder for it: the run's, and that of the bundle that ships."""
    found = {IMAGE_SIZE: load_vae(run / "vae")} if (run / "vae").exists() else {}
    size = read_json(TINY / "mvdream.json")["image_size"]
    return {size: load_vae(TINY / "vae")} | found


@torch.no_grad()
def through(vae: AutoencoderKL, views: Tensor) -> Tensor:
    """Views `[V, H, W, 3]` in 0..1 encoded and decoded."""
    decoded = vae.decode(vae.encode(views.movedim(-1, 1) * 2 - 1).latent_dist.mode()).sample
    return (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def _visible(solids: Sequence[Solid], cameras: Cameras, coverage: Tensor) -> list[list[float]]:
    """Of each thing, the share that each view shows of it, by `coverage` `[V, n, H, W]` with all of them."""
    alone = [render([thing], cameras, coverage.shape[-1], supersample=1)[1][:, 0].sum((1, 2)) for thing in solids]
    return [(coverage[:, i].sum((1, 2)) / whole).tolist() for i, whole in enumerate(alone)]


@dataclass
class Patches:
    """Training data.

    Attributes:
        planes: `[n, 7, PATCH, PATCH]` uint8; sizes: `[n]`; labels: `[n]`, indices into `CLASSES`.
        fronts: `[n]` cosines, NaN where there is no front or too little is seen of it.
    """

    planes: Tensor
    sizes: Tensor
    labels: Tensor
    fronts: Tensor

    @classmethod
    def cut(cls, run: Path, scenes: int) -> Patches:
        """Of fresh renders, some of them at half size; most are soft, by an autoencoder of their size."""
        vaes, rows = _autoencoders(run), []
        for number in range(scenes):
            rng = random.Random(f"judge-train-{number}")
            world, count = rng.choices(WORLDS, (0.2, 0.6, 0.2))[0], rng.choices((1, 2, 3), (0.2, 0.4, 0.4))[0]
            half = rng.random() < (0.6 if world == "solids" else 0.1)
            held_out = rng.random() < 0.14
            soft = rng.random() < (0.4 if half else 0.7)
            scene = random_scene(rng, count, held_out, world=world)
            grey = rng.choice((1.0, rng.uniform(0.6, 1.0)))
            cameras = orbit_cameras(4, rng.choice((15.0, rng.uniform(0, 30))), rng.uniform(0, 360))
            views, coverage = render(scene.solids, cameras, IMAGE_SIZE, (grey, grey, grey))
            if half:
                views = F.avg_pool2d(views.movedim(-1, 1), 2).movedim(1, -1)
            if soft:
                vae = vaes.get(views.shape[1])
                views = soften(views, rng) if vae is None or rng.random() < 0.15 else through(vae, views)
            known = {}  # colour -> label, share seen in each view, cosine in each view
            for thing, shares in zip(scene.solids, _visible(scene.solids, cameras, coverage), strict=True):
                cosines = front(Scene((thing,), ""), cameras).tolist() if thing.shape in FRONTED else [math.nan] * 4
                known[thing.color] = CLASSES.index(thing.shape), shares, cosines
            if any(thing.shape == "duck" for thing in scene.solids):
                known.setdefault("orange", (CLASSES.index(BEAK), [1.0] * 4, [math.nan] * 4))
            for index, view in enumerate(views):
                masks, patches = patches_of(view)
                for color, (patch, side) in zip(masks, patches, strict=True):
                    if color not in known:
                        continue
                    label, shares, cosines = known[color]
                    if shares[index] > 0.05:
                        cosine = cosines[index] if shares[index] > 0.45 else math.nan
                        rows.append(((patch.clamp(0, 1) * 255).round().byte(), side, label, cosine))
            if number % 250 == 249:
                print(f"scene {number + 1}: {len(rows)} patches", flush=True)
        planes, *numbers = zip(*rows, strict=True)
        return cls(torch.stack(planes), *map(torch.tensor, numbers))


def _vary(x: Tensor) -> Tensor:
    """Patches mirrored, moved, scaled, partly hidden, darkened, made softer and noisy, each in its own way."""
    n = len(x)
    scale, shift = 1 + 0.1 * (2 * torch.rand(n) - 1), 0.08 * (2 * torch.rand(n, 2) - 1)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border", align_corners=False)
    # A fifth is hidden from one side, up to a third of the patch.
    angle, edge = 2 * math.pi * torch.rand(n, 1, 1), 0.35 + 0.6 * torch.rand(n, 1, 1)
    steps = torch.linspace(-1, 1, PATCH)
    hidden = (angle.cos() * steps + angle.sin() * steps[:, None] > edge) & (torch.rand(n, 1, 1) < 0.2)
    ground = x[:, 2:4, [0, 0, -1, -1], [0, -1, 0, -1]].median(-1).values.T
    zero, one = torch.zeros(n), torch.ones(n)
    x = torch.where(hidden[:, None], torch.stack((zero, one, *ground, zero, *ground), 1)[:, :, None, None], x)
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), (2 * torch.rand(n, 1, 1, 1) - 1).clamp(min=0))
    x[:, [2, 3, 5, 6]] *= 0.9 + 0.2 * torch.rand(n, 1, 1, 1)
    return x + 0.03 * torch.rand(n, 1, 1, 1) * torch.randn_like(x)


def _monsters(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Patches with a part of another shape's in the place of their own, in an eighth of the batch, and which these are."""
    n = len(x)
    other = torch.randperm(n)
    cut = (0.3 + 0.4 * torch.rand(n, 1)) * PATCH
    beyond = (torch.arange(PATCH) > cut) ^ (torch.rand(n, 1) < 0.5)
    across = torch.rand(n, 1, 1) < 0.7
    region = torch.where(across, beyond[:, :, None], beyond[:, None, :])[:, None]
    changed = ((x - x[other])[:, [0, 2, 3]].abs() * region).sum((1, 2, 3)) / (3 * region.sum((1, 2, 3)))
    chosen = (torch.rand(n) < 0.125) & (labels != labels[other]) & (changed > 0.15)
    return torch.where(chosen[:, None, None, None] & region, x[other], x), chosen


def _angles(cosines: Tensor) -> Tensor:
    """What logits of angles should say of cosines `[n]`: probabilities `[n, ANGLES]` about the true angle."""
    middles = (torch.arange(ANGLES) + 0.5) * math.pi / ANGLES
    apart = (cosines.clamp(-1, 1).arccos()[:, None] - middles) / (0.7 * math.pi / ANGLES)
    return (-0.5 * apart**2).softmax(1)


def train(run: Path, renders: int, epochs: int = 13) -> None:
    torch.manual_seed(0)
    fit(Patches.cut(run, renders), epochs)


def fit(data: Patches, epochs: int) -> None:
    network, batch = Network(), 128
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * (len(data.labels) // batch))
    for epoch in range(epochs):
        right = 0
        for index in torch.randperm(len(data.labels)).split(batch)[: len(data.labels) // batch]:
            patches, monsters = _monsters(data.planes[index].float() / 255, data.labels[index])
            labels = data.labels[index].masked_fill(monsters, CLASSES.index(""))
            logits, angles = network(_vary(patches), data.sizes[index])
            turned = ~data.fronts[index].isnan() & ~monsters
            loss = F.cross_entropy(logits, labels, label_smoothing=0.02)
            loss = loss + F.cross_entropy(angles[turned], _angles(data.fronts[index][turned]), reduction="sum") / batch
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right += int((logits.argmax(1) == labels).sum())
        print(f"epoch {epoch}: {right / len(data.labels):.4f}", flush=True)
    weights = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, WEIGHTS)
    shipped_network.cache_clear()


def validate(
    scenes: int = 300,
    supersample: int = 2,
    size: int = 64,
    world: str = "solids",
    soft: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Shares of fresh ground-truth scenes (one to three things, held-out pairs among them) that are judged right.

    `soft` changes the views of every other scene. Beside whole scenes ("1 things" to "3 things", "all") the result has the
    share of single views of a thing that is seen to 60 % at least ("in one view"), and of its fronts where the camera sees one
    or the back ("fronts"), with the numbers of each.
    """
    rng, coin = random.Random("judge-validation"), random.Random("judge-soft")
    right, seen, fronts = {1: [], 2: [], 3: []}, [], []
    for i in range(scenes):
        count = 1 + i % 3
        scene = random_scene(rng, count, held_out=rng.random() < 0.3, world=world)
        grey = rng.choice((1.0, rng.uniform(0.6, 1.0)))
        cameras = orbit_cameras(4, rng.choice((15.0, rng.uniform(0, 30))), rng.uniform(0, 360))
        views, coverage = render(scene.solids, cameras, size, (grey, grey, grey), supersample)
        if soft is not None and coin.random() < 0.5:
            views = soft(views)
        per_view = judge_views(views)
        for thing, shares in zip(scene.solids, _visible(scene.solids, cameras, coverage), strict=True):
            cosines = front(Scene((thing,), ""), cameras).tolist()
            for blobs, share, cosine in zip(per_view, shares, cosines, strict=True):
                if share < 0.6:
                    continue
                blob = blobs.get(thing.color)
                seen.append(blob is not None and blob.shape == thing.shape)
                if blob is not None and abs(cosine) > SIDEWAYS:
                    fronts.append((blob.front > 0) == (cosine > 0))
        whole = verdict(per_view, [(s.color, s.shape) for s in scene.solids])
        if count == 3 and (coverage.sum((2, 3)) < MIN_AREA * (size / 64) ** 2).any(0).sum() > 0:
            continue  # three things can hide one another in several views; the rule speaks of one
        right[count].append(whole.all_present and not whole.extra_colors)
    scores = {f"{n} things": float(np.mean(r)) for n, r in right.items()}
    scores |= {"all": float(np.mean(sum(right.values(), []))), "n": sum(map(len, right.values()))}
    scores |= {"in one view": float(np.mean(seen)), "n in one view": len(seen)}
    return scores | ({"fronts": float(np.mean(fronts)), "n fronts": len(fronts)} if fronts else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "validate"))
    parser.add_argument("--run", type=Path, help="whose vae/ makes renders to train on soft")
    parser.add_argument("--renders", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--size", type=int, default=64, help="pixels a side of the views to validate on")
    parser.add_argument("--worlds", nargs="+", default=["solids"], choices=WORLDS, help="what to validate on")
    parser.add_argument("--vae", type=Path, help="folder of an autoencoder; half of the scenes to validate on pass through it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.action == "train":
        train(args.run, args.renders)
    vae = load_vae(args.vae) if args.vae else None
    for world in args.worlds:
        scores = validate(args.scenes, size=args.size, world=world, soft=vae and (lambda views: through(vae, views)))
        print(world, json.dumps({k: round(v, 4) for k, v in scores.items()}), flush=True)


if __name__ == "__main__":
    main()
