"""Which coloured solids and toys are in the views of a scene, which way do they face, and do the views agree?

Colours come from hue segmentation; shapes and fronts from a small network on a patch around each piece of colour and what
belongs to it: eyes, wheels and legs have no hue. It is trained on renders of one to three things. Most of them are soft, by an
autoencoder or otherwise, so that softness does not count as a wrong shape; an eighth of the patches are put together from two
shapes and count as none. The network sees how bright and how grey a pixel is, not which hue, so that no pair of colour and
shape is likelier to it than another. It knows nothing of any prompt. `tools/tiny/judge_training.py` trains and validates it.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from .scenes import COLORS, NOUN_TO_SHAPE, SHAPES
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
ANGLES = 12  # parts of the half turn between front and back
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
    return {color: largest for color, (largest, _) in _pieces(_planes(view)).items()}


def _planes(view: Tensor) -> np.ndarray:
    """A view `[H, W, 3]` as an image `[3, H, W]`."""
    return np.ascontiguousarray(view.movedim(-1, 0).numpy())


def _pieces(image: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of an image `[3, H, W]`: colour -> masks `[H, W]` of its largest piece and of all its pixels."""
    high, low = _bounds(image)
    chroma = high - low
    saturated = (chroma > 0.16) & (chroma > 0.28 * high)
    with np.errstate(divide="ignore", invalid="ignore"):
        r, g, b = image
        hue = np.where(high == r, (g - b) / chroma, np.where(high == g, 2 + (b - r) / chroma, 4 + (r - g) / chroma)) / 6 % 1
    nearest = NEAREST[np.where(saturated, hue * len(NEAREST), 0).astype(int) % len(NEAREST)]
    minimum = MIN_AREA * chroma.size / 64**2
    found = {}
    for index, color in enumerate(COLOR_NAMES):
        mask = saturated & (nearest == index)
        if mask.sum() < minimum:
            continue
        # A rim of mixed colours between two solids is thin: what erosion leaves nothing of is not a solid.
        labels, _ = ndimage.label(mask)
        largest = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
        if largest.sum() >= minimum and ndimage.binary_erosion(largest[_around(largest)]).sum() >= minimum / 4:
            found[color] = largest, mask
    return found


def _things(image: np.ndarray, pieces: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, list[tuple]]:
    """How far each pixel is from the background `[H, W]`, and of each colour the masks of its own pixels and of its thing.

    What has no hue belongs to the nearest colour of the pieces that it hangs together with.
    """
    apart, _ = _bounds(np.abs(image - _background(image)[:, None, None]))
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
    r, g, b = image
    return np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)


def _background(image: np.ndarray) -> np.ndarray:
    """The colour `[3]` of most of the rim."""
    return np.median(np.concatenate((image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]), 1), 1)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _around(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a mask's box and of a margin about it."""
    top, bottom, left, right = _box(mask)
    return slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)


def _touching(first: np.ndarray, second: np.ndarray) -> bool:
    """Are there pixels of two masks within two steps of one another?"""
    place = _around(first, margin=2)
    return second[place].any() and (ndimage.binary_dilation(first[place], iterations=2) & second[place]).any()


def patches_of(view: Tensor) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[tuple[Tensor, float]]]:
    """Masks of each colour's largest piece and thing, and for each a patch of the thing and the patch's share of the height.

    A patch `[7, PATCH, PATCH]` holds the colour's own pixels, other things, each pixel's brightest and darkest channel and how
    far it is from the background, all three with other things painted over with the background, and the two channels as seen.
    """
    image = _planes(view)
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
        planes = np.stack((own, others, *painted, *image)).astype(np.float32)
        top, bottom, left, right = _box(thing)
        side = 1.1 * max(bottom - top, right - left) + 3
        fine = max(1, round(side / PATCH))  # samples per patch pixel and axis
        steps = (torch.arange(PATCH * fine) + 0.5) / (PATCH * fine) - 0.5
        y = ((top + bottom) / 2 + steps * side) / height * 2 - 1
        x = ((left + right) / 2 + steps * side) / width * 2 - 1
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None].float()
        patch = F.grid_sample(torch.from_numpy(planes)[None], grid, padding_mode="border", align_corners=False)
        patch = F.avg_pool2d(patch, fine)[0]
        patches.append((torch.stack((*patch[:5], patch[5:].amax(0), patch[5:].amin(0))), float(side / height)))
    masks = {c: (largest, thing) for (c, (largest, _)), (_, thing) in zip(pieces.items(), things, strict=True)}
    return masks, patches


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_layer(width, width), nn.ReLU(), _layer(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class Network(nn.Module):
    """Patches `[n, 7, PATCH, PATCH]` and their sizes `[n]` to the logits of `CLASSES` `[n, 21]` and of angles `[n, ANGLES]`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(_layer(7, 32, stride=2), nn.ReLU()),
            *(_layer(32, 64, stride=2), nn.ReLU(), Residual(64)),
            *(_layer(64, 96, stride=2), nn.ReLU(), Residual(96)),
            nn.Flatten(),
        )
        self.mix = nn.Sequential(nn.Linear(96 * (PATCH // 8) ** 2 + 1, 96), nn.ReLU(), nn.Dropout(0.2))
        self.shape = nn.Linear(96, len(CLASSES))
        self.front = nn.Linear(96, ANGLES)

    def forward(self, patches: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.mix(torch.cat((self.features(patches), sizes[:, None]), 1))
        return self.shape(mixed), self.front(mixed)

    def answers(self, patches: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of `CLASSES` `[n, 21]` and cosines of fronts `[n]`, which a mirror image has a say in, too."""
        shapes, angles = self(patches, sizes)
        cosines, p = _cosine(angles), shapes.softmax(1)
        turned = torch.tensor([CLASSES[best] in FRONTED for best in p.argmax(1).tolist()])
        if turned.any():
            mirrored = _cosine(self(patches[turned].flip(-1), sizes[turned])[1])
            cosines[turned] = (cosines[turned] + mirrored) / 2
        return p, cosines


def _cosine(angles: Tensor) -> Tensor:
    """Cosine `[n]` of the median of the angles that `[n, ANGLES]` logits make probable: its sign is the likelier one."""
    p = angles.softmax(1)
    below = p.cumsum(1) - p
    part = (below <= 0.5).sum(1, keepdim=True) - 1
    within = (0.5 - below.gather(1, part)) / p.gather(1, part)
    return torch.cos((part + within)[:, 0] * math.pi / ANGLES)


@cache
def shipped_network() -> Network:
    network = Network()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval()


@torch.no_grad()
def judge_views(views: Tensor | Sequence[Tensor]) -> list[dict[str, Blob]]:
    """What is in each of the views `[V, H, W, 3]` (0..1), by colour. The network sees all of them at once."""
    seen = [patches_of(view.detach().float().cpu()) for view in views]
    found = [patch for _, patches in seen for patch in patches]
    if not found:
        return [{} for _ in seen]
    answers = [
        shipped_network().answers(torch.stack([p for p, _ in chunk]), torch.tensor([s for _, s in chunk]))
        for chunk in (found[i : i + 256] for i in range(0, len(found), 256))
    ]
    probabilities = iter(torch.cat([shapes for shapes, _ in answers]))
    cosines = iter(torch.cat([fronts for _, fronts in answers]).tolist())
    result = []
    for masks, _ in seen:
        blobs = {}
        for color, (mask, _) in masks.items():
            rows, columns = np.nonzero(mask)
            own = masks[color][1]
            touches = frozenset(o for o, (_, thing) in masks.items() if o != color and _touching(own, thing))
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
