"""Which coloured solids and toys are in the views of a scene, which way do they face, and do the views agree?

Colours come from hue segmentation; shapes and fronts from a small network on a patch around each piece of colour and what
belongs to it: eyes, wheels and legs have no hue. It is trained on renders. Half of them are soft, by an autoencoder or
otherwise, so that softness does not count as a wrong shape; an eighth of the patches are put together from two shapes and
count as none. The network sees how bright and how grey a pixel is, not which hue, so that no pair of colour and shape is
likelier to it than another. It knows nothing of any prompt.

    python -m tools.tiny.judge train --run RUN        writes tools/tiny/judge.safetensors
    python -m tools.tiny.judge validate               accuracy on renders of seeds never trained on
    python -m tools.tiny.judge validate --size 128 --worlds toys mixed --vae RUN/vae      half of them through an autoencoder
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from gd_core.cameras import orbit_cameras
from gd_core.diffusion.bundle import read_json
from gd_core.diffusion.card import TINY

from .data import IMAGE_SIZE, front, load_shard
from .renderer import render
from .scenes import COLORS, NOUN_TO_SHAPE, SHAPES, WORLDS, Scene, random_scene
from .toys import FRONTED

WEIGHTS = Path(__file__).with_name("judge.safetensors")
PATCH = 40
MIN_AREA = 14  # pixels of a 64 x 64 view
HUES = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in COLORS.values()])
COLOR_NAMES = tuple(COLORS)
NEAREST = np.abs((np.arange(7200)[:, None] / 7200 - HUES + 0.5) % 1 - 0.5).argmin(1)  # of each hue, the colour's index
BEAK = "beak"  # the one part of a toy that has a hue of its own, which is orange
CLASSES = (*SHAPES, BEAK, "")  # the last: nothing of these
SURE = 0.3  # a shape that is less probable is none
SIDEWAYS = 0.3  # cosine between a front and a camera below which a thing shows neither front nor back: 73 to 107 degrees
REACH = 1.3  # how far a thing goes from its colour's middle, in sides of its colour's box


@dataclass(frozen=True)
class Blob:
    """One colour's largest piece in one view.

    Attributes:
        color: a key of `COLORS`; area: in pixels; centroid: (x, y) in pixels.
        shape: one of `SHAPES`, or "" where it is none of them or the network is not sure; confidence: the
            likeliest shape's probability.
        front: the judged cosine of the angle about the vertical between its front and the camera, -1 (from behind) to 1. It
            says something of the shapes in `FRONTED` alone, and below `SIDEWAYS` neither front nor back.
        touches: the colours of the things beside its own.
    """

    color: str
    area: int
    centroid: tuple[float, float]
    shape: str
    confidence: float
    front: float
    touches: frozenset[str]


def segment(view: Tensor) -> dict[str, np.ndarray]:
    """Colour -> boolean mask `[H, W]` of its largest piece, for one view `[H, W, 3]` in 0..1."""
    return {color: largest for color, (largest, _) in _pieces(view.numpy()).items()}


def _pieces(image: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Colour -> masks `[H, W]` of its largest piece and of all its pixels."""
    high, low = _bounds(image)
    chroma = high - low
    saturated = (chroma > 0.16) & (chroma > 0.28 * high)
    with np.errstate(divide="ignore", invalid="ignore"):
        r, g, b = np.moveaxis(image, -1, 0)
        hue = np.where(high == r, (g - b) / chroma, np.where(high == g, 2 + (b - r) / chroma, 4 + (r - g) / chroma)) / 6 % 1
    nearest = NEAREST[np.where(saturated, hue * len(NEAREST), 0).astype(int) % len(NEAREST)]
    minimum = MIN_AREA * image.shape[0] * image.shape[1] / 64**2
    found = {}
    for index, color in enumerate(COLOR_NAMES):
        mask = saturated & (nearest == index)
        if mask.sum() < minimum:
            continue
        # A rim of mixed colours between two solids is thin: what erosion leaves nothing of is not a solid.
        labels, _ = ndimage.label(mask)
        largest = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
        if largest.sum() >= minimum and ndimage.binary_erosion(largest).sum() >= minimum / 4:
            found[color] = largest, mask
    return found


def _things(image: np.ndarray, pieces: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, list[tuple]]:
    """How far each pixel is from the background `[H, W]`, and of each colour the masks of its own pixels and of its thing.

    What has no hue belongs to the nearest colour of the pieces that it hangs together with.
    """
    apart, _ = _bounds(np.abs(image - _background(image)))
    islands, _ = ndimage.label((apart > 0.08) | np.any([mask for mask, _ in pieces.values()], 0))
    own = []
    for largest, mask in pieces.values():
        own.append(mask & (islands == np.bincount(islands[largest]).argmax()))
    owner = np.full(islands.shape, -1)
    for index, mask in enumerate(own):
        owner[mask] = index
    if len(own) > 1:
        rows, columns = ndimage.distance_transform_edt(owner < 0, return_distances=False, return_indices=True)
        owner = owner[rows, columns]
    else:
        owner[:] = 0
    things = []
    for index, mask in enumerate(own):
        thing = (owner == index) & (islands == islands[mask][0])
        top, bottom, left, right = _box(mask)
        reach = REACH * max(bottom - top, right - left) + 2
        cy, cx = (top + bottom) / 2, (left + right) / 2
        thing[: max(0, int(cy - reach))] = thing[int(cy + reach) + 1 :] = False
        thing[:, : max(0, int(cx - reach))] = thing[:, int(cx + reach) + 1 :] = False
        things.append((mask, thing))
    return apart, things


def _bounds(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's brightest and darkest channel, `[H, W]` each."""
    r, g, b = np.moveaxis(image, -1, 0)
    return np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)


def _background(image: np.ndarray) -> np.ndarray:
    """The colour `[3]` of most of the rim."""
    return np.median(np.concatenate((image[0], image[-1], image[:, 0], image[:, -1])), 0)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _patches(view: Tensor) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[tuple[Tensor, float]]]:
    """Masks of each colour's largest piece and thing, and for each a patch of the thing and the patch's share of the height.

    A patch `[5, PATCH, PATCH]` holds the colour's own pixels, other things, each pixel's brightest and darkest channel, and how
    far it is from the background. Other things are painted over with the background.
    """
    image = view.numpy()
    pieces = _pieces(image)
    if not pieces:
        return {}, []
    apart, things = _things(image, pieces)
    ground, (high, low) = _background(image), _bounds(image)
    everything = np.any([thing for _, thing in things], 0)
    height, width = apart.shape
    patches = []
    for own, thing in things:
        others = everything & ~thing
        painted = (np.where(others, value, plane) for plane, value in ((high, ground.max()), (low, ground.min()), (apart, 0)))
        planes = np.stack((own, others, *painted)).astype(np.float32)
        top, bottom, left, right = _box(thing)
        side = 1.1 * max(bottom - top, right - left) + 3
        fine = max(1, round(side / PATCH))  # samples per patch pixel and axis
        steps = (torch.arange(PATCH * fine) + 0.5) / (PATCH * fine) - 0.5
        y = ((top + bottom) / 2 + steps * side) / height * 2 - 1
        x = ((left + right) / 2 + steps * side) / width * 2 - 1
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None].float()
        patch = F.grid_sample(torch.from_numpy(planes)[None], grid, padding_mode="border", align_corners=False)
        patches.append((F.avg_pool2d(patch, fine)[0], float(side / height)))
    masks = {c: (largest, thing) for (c, (largest, _)), (_, thing) in zip(pieces.items(), things, strict=True)}
    return masks, patches


class Network(nn.Module):
    """Patches `[n, 5, PATCH, PATCH]` and their sizes `[n]` to the logits of `CLASSES` `[n, 21]` and cosines of fronts `[n]`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (5, 32, 64, 96)
        self.features = nn.Sequential(
            *(
                layer
                for a, b in zip(widths, widths[1:], strict=False)
                for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            ),
            nn.Flatten(),
        )
        self.mix = nn.Sequential(nn.Linear(96 * (PATCH // 8) ** 2 + 1, 96), nn.ReLU(), nn.Dropout(0.2))
        self.shape = nn.Linear(96, len(CLASSES))
        self.front = nn.Linear(96, 1)

    def forward(self, patches: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.mix(torch.cat((self.features(patches), sizes[:, None]), 1))
        return self.shape(mixed), self.front(mixed)[:, 0].tanh()


@cache
def _network() -> Network:
    network = Network()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval()


@torch.no_grad()
def judge_views(views: Tensor | Sequence[Tensor]) -> list[dict[str, Blob]]:
    """What is in each of the views `[V, H, W, 3]` (0..1), by colour. The network sees all of them at once."""
    seen = [_patches(view.detach().float().cpu()) for view in views]
    found = [patch for _, patches in seen for patch in patches]
    if not found:
        return [{} for _ in seen]
    answers = [
        _network()(torch.stack([p for p, _ in chunk]), torch.tensor([s for _, s in chunk]))
        for chunk in (found[i : i + 256] for i in range(0, len(found), 256))
    ]
    probabilities = iter(torch.cat([shapes for shapes, _ in answers]).softmax(1))
    cosines = iter(torch.cat([fronts for _, fronts in answers]).tolist())
    result = []
    for masks, _ in seen:
        grown = {color: ndimage.binary_dilation(thing, iterations=2) for color, (_, thing) in masks.items()}
        blobs = {}
        for color, (mask, _) in masks.items():
            rows, columns = np.nonzero(mask)
            touches = frozenset(o for o, (_, thing) in masks.items() if o != color and (grown[color] & thing).any())
            p, middle = next(probabilities), (float(columns.mean()), float(rows.mean()))
            best = int(p[:-1].argmax())
            shape = CLASSES[best] if p[best] >= SURE else ""
            blobs[color] = Blob(color, len(rows), middle, shape, float(p[best]), next(cosines), touches)
        result.append(_without_beak(blobs))
    return result


def _without_beak(blobs: dict[str, Blob]) -> dict[str, Blob]:
    """An orange beak on a duck is no thing of its own; anywhere else it is, though of no known shape."""
    beak = blobs.get("orange")
    if beak is None or beak.shape != BEAK:
        return blobs
    if any(blobs[color].shape == "duck" for color in beak.touches):
        return {c: replace(b, touches=b.touches - {"orange"}) for c, b in blobs.items() if c != "orange"}
    return blobs | {"orange": replace(beak, shape="")}


def judge_view(view: Tensor) -> dict[str, Blob]:
    """What is in one view `[H, W, 3]` in 0..1, by colour."""
    return judge_views(view[None])[0]


@dataclass(frozen=True)
class Verdict:
    """What four (or more) views show of the named things.

    Attributes:
        in_views: thing -> in how many views its colour and shape are there.
        present: thing -> there in every view where it is not occluded.
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
    """Judge `views` `[V, H, W, 3]` (0..1) against (colour, shape) pairs of solids and toys; the rule is `verdict`'s."""
    return verdict(judge_views(views), solids)


def verdict(per_view: Sequence[dict[str, Blob]], solids: Sequence[tuple[str, str]]) -> Verdict:
    """What `judge_views` saw of one scene, against (colour, shape) pairs.

    A thing may be hidden by another: in at most one of four views its colour may be missing while something else is there, or
    be cut to less than 60 % of its usual area while touching another colour; such a view says nothing, for or against.
    """
    named = {color for color, _ in solids}
    hidden_allowance = max(1, len(per_view) // 4)
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
    everywhere = {c for c, n in counts.items() if n >= len(per_view) - hidden_allowance}
    same = all(n == 0 or c in everywhere for c, n in counts.items() if n > 1 or c in named)
    return Verdict(in_views, present, frozenset(c for c, n in counts.items() if n >= 2 and c not in named), same)


def centroid_offsets(per_view: Sequence[dict[str, Blob]], first: str, second: str) -> list[float | None]:
    """Per view, the horizontal offset in pixels from `first`'s centroid to `second`'s, None where either is not seen."""
    return [
        blobs[second].centroid[0] - blobs[first].centroid[0] if first in blobs and second in blobs else None
        for blobs in per_view
    ]


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


@dataclass
class Patches:
    """Training data.

    Attributes:
        planes: `[n, 5, PATCH, PATCH]` uint8; sizes: `[n]`; labels: `[n]`, indices into `CLASSES`.
        fronts: `[n]` cosines, NaN where there is no front or nothing says how it is turned.
    """

    planes: Tensor
    sizes: Tensor
    labels: Tensor
    fronts: Tensor

    @classmethod
    def cut(cls, run: Path, shards: int) -> Patches:
        """Of the run's shards, two fifths of the scenes at half size. Half of all are soft, by an autoencoder of their size."""
        vaes = _autoencoders(run)
        rng, rows = random.Random(0), []
        for path in sorted((run / "shards").glob("*.safetensors"))[:shards]:
            tensors, prompts = load_shard(path)
            for views, prompt, fronts in zip(tensors["images"], prompts, tensors["front"].tolist(), strict=True):
                named = solids_of_prompt(prompt)
                turned = next((color for color, shape in named if shape in FRONTED), None)
                views = views.float() / 255
                if rng.random() < 0.4:
                    views = F.avg_pool2d(views.movedim(-1, 1), 2).movedim(1, -1)
                if rng.random() < 0.5:
                    vae = vaes.get(views.shape[1])
                    views = soften(views, rng) if vae is None or rng.random() < 0.2 else through(vae, views)
                label_of = dict(named)
                if "duck" in label_of.values():
                    label_of.setdefault("orange", BEAK)
                for view, cosine in zip(views, fronts, strict=True):
                    masks, patches = _patches(view)
                    for color, (patch, side) in zip(masks, patches, strict=True):
                        if color in label_of:
                            label = CLASSES.index(label_of[color])
                            rows.append(((patch * 255).byte(), side, label, cosine if color == turned else float("nan")))
            print(f"{path.name}: {len(rows)} patches", flush=True)
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
    ground = x[:, 2:4, [0, 0, -1, -1], [0, -1, 0, -1]].median(-1).values
    zero, one = torch.zeros(n), torch.ones(n)
    x = torch.where(hidden[:, None], torch.stack((zero, one, *ground.T, zero), 1)[:, :, None, None], x)
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), (2 * torch.rand(n, 1, 1, 1) - 1).clamp(min=0))
    x[:, 2:4] *= 0.9 + 0.2 * torch.rand(n, 1, 1, 1)
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


def train(run: Path, shards: int = 6, epochs: int = 8) -> None:
    torch.manual_seed(0)
    fit(Patches.cut(run, shards), epochs)


def fit(data: Patches, epochs: int) -> None:
    network, batch = Network(), 128
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * (len(data.labels) // batch))
    for epoch in range(epochs):
        right = 0
        for index in torch.randperm(len(data.labels)).split(batch)[: len(data.labels) // batch]:
            patches, monsters = _monsters(data.planes[index].float() / 255, data.labels[index])
            labels = data.labels[index].masked_fill(monsters, CLASSES.index(""))
            logits, cosines = network(_vary(patches), data.sizes[index])
            turned = ~data.fronts[index].isnan() & ~monsters
            loss = F.cross_entropy(logits, labels, label_smoothing=0.02)
            loss = loss + 2 * ((cosines - data.fronts[index])[turned] ** 2).sum() / batch
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right += int((logits.argmax(1) == labels).sum())
        print(f"epoch {epoch}: {right / len(data.labels):.4f}", flush=True)
    weights = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, WEIGHTS)
    _network.cache_clear()


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
        for index, thing in enumerate(scene.solids):
            alone = render([thing], cameras, size, supersample=1)[1][:, 0].sum((1, 2))
            cosines = front(Scene((thing,), ""), cameras).tolist()
            for blobs, share, cosine in zip(per_view, (coverage[:, index].sum((1, 2)) / alone).tolist(), cosines, strict=True):
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
    parser.add_argument("--run", type=Path)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--size", type=int, default=64, help="pixels a side of the views to validate on")
    parser.add_argument("--worlds", nargs="+", default=["solids"], choices=WORLDS, help="what to validate on")
    parser.add_argument("--vae", type=Path, help="folder of an autoencoder; half of the scenes to validate on pass through it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.action == "train":
        train(args.run, args.shards)
    vae = load_vae(args.vae) if args.vae else None
    for world in args.worlds:
        scores = validate(args.scenes, size=args.size, world=world, soft=vae and (lambda views: through(vae, views)))
        print(world, json.dumps({k: round(v, 4) for k, v in scores.items()}), flush=True)


if __name__ == "__main__":
    main()
