"""Which pixels of each view belong to which subject: attention maps, sharpened by the images' edges.

The maps that a model records are some sixteen pixels wide and soft. Compared with one another they still say which subject a
place belongs to. A random walker with priors (Grady 2005, "Multilabel Random Walker Image Segmentation Using Prior Models")
carries that to the image's own edges: neighbours of like colour agree, and where the maps say little their neighbours decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import cg
from torch import Tensor

from .views import ViewSet

FOREGROUND = 0.5
FLAT = 0.15  # spread of the subjects' shares over the foreground below which the maps tell nothing
WORKING_SIZE = 128  # pixels: the maps are coarse, and a finer walk only costs time
# Chosen on 24 scenes of two solids side by side, with the truth's views noised (docs/parts.md).
COLOR_CONTRAST = 300.0  # how much a squared difference of colour (RGB, 0..1) parts two neighbours
PRIOR_WEIGHT = 0.03  # of a pixel's own evidence against one like neighbour
WEAKEST_TIE = 1e-4  # neighbours across the sharpest edge


@dataclass(frozen=True)
class Subject:
    """A subject of the prompt: `key` of its noun in `ViewSet.attention`, and its name for people ("red cube", "cube 2")."""

    key: str
    name: str


@dataclass
class SubjectMasks:
    """Masks of S subjects in V views.

    Attributes:
        names: S names, in the prompt's order.
        shares: `[S, V, H, W]` float32, how much of each pixel is each subject's, 0..1; they add up to the foreground where the
            maps tell something, and are 0 elsewhere.
        note: why there is nothing in the masks, or "".
    """

    names: tuple[str, ...]
    shares: Float[Tensor, "S V H W"]
    note: str = ""


def named_subjects(nouns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Keys and names as `ViewSet.provenance["subjects"]` holds them, from (key of the noun, its phrase) pairs.

    Phrases that occur twice are told apart by the noun and a number: two times "cube" gives "cube 1" and "cube 2".
    """
    phrases = [phrase for _, phrase in nouns]
    named = []
    for i, (key, phrase) in enumerate(nouns):
        if phrases.count(phrase) > 1:
            phrase = f"{phrase} {phrases[: i + 1].count(phrase)}"
        named.append({"key": key, "name": phrase})
    return named


def subjects_of(views: ViewSet) -> list[Subject]:
    """The subjects of which `views` have attention maps; none for views that no model made."""
    known = views.provenance.get("subjects", [])
    return [Subject(s["key"], s["name"]) for s in known if s["key"] in views.attention]


def subject_masks(views: ViewSet) -> SubjectMasks:
    """Divide the foreground of `views` among the subjects of their prompt.

    One subject takes all of it. Views without attention maps, and maps that are flat, give empty masks and a `note`.
    """
    subjects = subjects_of(views)
    names = tuple(s.name for s in subjects)
    shares = torch.zeros(len(subjects), *views.masks.shape)
    if not subjects:
        return SubjectMasks(names, shares, "the views have no attention maps of subjects: they did not come from the sampler")
    foreground = views.masks.detach().cpu() > FOREGROUND
    if len(subjects) == 1 or not foreground.any():
        shares[0] = views.masks
        return SubjectMasks(names, shares)
    prior = relative_presence(torch.stack([views.attention[s.key].float() for s in subjects]).cpu(), foreground)
    spread = (prior.amax(0) - prior.amin(0))[foreground].mean()
    if not torch.isfinite(prior).all() or spread < FLAT:
        return SubjectMasks(names, shares, "the attention maps of the subjects are flat: they do not tell them apart")
    size = min(WORKING_SIZE, max(views.height, views.width))
    scale = size / max(views.height, views.width)
    small = [max(1, round(views.height * scale)), max(1, round(views.width * scale))]
    images = _resized(views.images.detach().cpu().movedim(-1, 1), small).movedim(1, -1).numpy()
    active = _resized(views.masks.detach().cpu()[:, None], small)[:, 0].numpy() > FOREGROUND
    priors = _resized(prior.movedim(0, 1), small).movedim(1, 0).numpy()
    walked = np.zeros_like(priors)
    for v in range(len(views)):
        walked[:, v] = random_walk(images[v], active[v], priors[:, v], np.ones(active[v].shape))
    # Back at full size each pixel takes what the nearest pixels of the foreground have.
    for v in range(len(views)):
        if active[v].any():
            nearest = ndimage.distance_transform_edt(~active[v], return_distances=False, return_indices=True)
            walked[:, v] = walked[:, v][:, nearest[0], nearest[1]]
    full = _resized(torch.from_numpy(walked).float(), [views.height, views.width])
    return SubjectMasks(names, full * views.masks.detach().cpu())


def whose_pixels(found: SubjectMasks) -> Int[Tensor, "V H W"]:
    """The subject with the largest share at each pixel, that of the nearest pixel that is somebody's; -1 in views where none
    is."""
    subject = torch.full(found.shares.shape[1:], -1)
    for v, shares in enumerate(found.shares.movedim(1, 0)):
        somebodys = (shares.sum(0) > FOREGROUND).numpy()
        if somebodys.any():
            row, column = ndimage.distance_transform_edt(~somebodys, return_distances=False, return_indices=True)
            subject[v] = shares.argmax(0)[torch.from_numpy(row), torch.from_numpy(column)]
    return subject


def relative_presence(maps: Float[Tensor, "S V h w"], foreground: Bool[Tensor, "V H W"]) -> Float[Tensor, "S V H W"]:
    """How much of the attention at each pixel is each subject's, every subject having the same mean over the foreground."""
    maps = F.interpolate(maps, foreground.shape[-2:], mode="bilinear", align_corners=False)
    level = (maps * foreground).sum((1, 2, 3)) / foreground.sum()
    maps = maps / level[:, None, None, None].clamp(min=1e-12)
    return maps / maps.sum(0).clamp(min=1e-12)


def random_walk(
    features: Float[np.ndarray, "*grid C"],
    active: Bool[np.ndarray, "*grid"],
    priors: Float[np.ndarray, S *grid],
    confidence: Float[np.ndarray, "*grid"],
) -> Float[np.ndarray, S *grid]:
    """Shares of S labels on the active cells of a grid of any dimension, 0 on all others.

    Args:
        features: what tells cells apart, a colour in 0..1.
        active: cells to label; labels spread among them along the grid's axes.
        priors: S shares that add up to 1. confidence: how much a cell's prior weighs, 0..1.

    Connected cells without any confidence among them stay unlabelled: their shares are 0.
    """
    shares = np.zeros((len(priors), *active.shape))
    pieces, count = ndimage.label(active)
    evidence = ndimage.sum_labels(confidence, pieces, range(1, count + 1)) if count else np.zeros(0)
    active = active & np.isin(pieces, 1 + np.flatnonzero(evidence > 0))
    total = int(active.sum())
    if not total:
        return shares
    number = np.full(active.shape, -1)
    number[active] = np.arange(total)
    starts, ends, ties = [], [], []
    for axis in range(active.ndim):
        here, there = (number.take(range(a, active.shape[axis] - 1 + a), axis).ravel() for a in (0, 1))
        both = (here >= 0) & (there >= 0)
        contrast = np.square(np.diff(features, axis=axis)).sum(-1).ravel()[both]
        starts.append(here[both])
        ends.append(there[both])
        ties.append(np.exp(-COLOR_CONTRAST * contrast) + WEAKEST_TIE)
    start, end, tie = map(np.concatenate, (starts, ends, ties))
    weights = coo_matrix((np.r_[tie, tie], (np.r_[start, end], np.r_[end, start])), shape=(total, total)).tocsr()
    own = PRIOR_WEIGHT * confidence[active] * np.clip(priors[:, active].max(0) - 1 / len(priors), 1e-3, None)
    diagonal = np.asarray(weights.sum(1)).ravel() + own + 1e-9
    system, scaling = (diags(diagonal) - weights).tocsr(), diags(1 / diagonal)
    for label, prior in enumerate(priors[:, active]):
        solved, _ = cg(system, own * prior, x0=prior, rtol=1e-4, maxiter=1000, M=scaling)
        shares[label, active] = solved.clip(0, 1)
    return shares


def _resized(images: Float[Tensor, "N C h w"], size: list[int]) -> Float[Tensor, "N C H W"]:
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
