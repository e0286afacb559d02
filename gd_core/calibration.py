"""What a model knows of its own views: which layers' attention tells whether a subject is there, and what verdicts are worth.

Somebody looks at views that the model has made and says which subjects they lack. `gate` asks each cross-attention layer the
same; `fit_verdicts` finds the coefficients that turn a verdict's features into a probability.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .attention import AttentionCapture, Focus
from .attention.capture import cross_attention_layers, layer_name
from .diffusion import predict_noise
from .diffusion.model import MVDream
from .diffusion.prompts import encode_prompt
from .settings.verdict import FEATURES
from .views import ViewSet, load_views

TIMESTEPS = (750, 550)  # where layouts are settled
NEAR_BEST = 0.05  # of the area under the curve: layers that know nearly as much as the best one are kept with it
KNOWS = 0.6  # a layer below it knows nothing worth having
RIDGE = 1.0  # of the standardised coefficients
FEWEST = 8  # subjects that are there, and that are missing, below which nothing is calibrated


@dataclass(frozen=True)
class Labelled:
    """Views that somebody has looked at: for each subject's key whether it is in them."""

    views: ViewSet
    there: dict[str, bool]


def calibrate(model: MVDream, labelled: Sequence[Labelled]) -> tuple[dict, list[str]]:
    """What a recipe should say of the model's layers and verdicts, as `Recipe.from_json` reads it, and a report in lines.

    The attention of a verdict comes from the layers that the views were made with. Where others turn out to know, the recipe
    has the layers alone: views that were made with it are to be labelled anew.

    Raises:
        ValueError: too few subjects are missing, or there, to tell anything.
    """
    areas, lines = {}, []
    for downscale in (1, 2, 4, 8):
        try:
            cross_attention_layers(model.unet, downscale)
        except ValueError:
            continue
        areas[downscale] = gate(model, labelled, downscale)
        lines += [f"1/{downscale} {name}: {area:.2f}" for name, area in areas[downscale].items()]
    found = knowing_layers(areas)
    recipe: dict = {}
    used = (model.recipe.refocus.downscale, model.recipe.refocus.layers)
    if found is None:
        lines.append("no layer's attention tells whether a subject is there: the layers stay as they are")
    elif found != used:
        recipe["refocus"] = {"downscale": found[0], "layers": list(found[1])}
        lines.append(f"layers that know: {', '.join(found[1])} at 1/{found[0]}")
        lines.append("the views were made with other layers: make and label them again with this recipe to calibrate verdicts")
        return recipe, lines
    recipe["verdict"], of_verdicts = calibrate_verdicts(labelled)
    return recipe, lines + of_verdicts


def calibrate_verdicts(labelled: Sequence[Labelled]) -> tuple[dict, list[str]]:
    """A recipe's `verdict` from views that carry features, and a report in lines. ValueError: too few labels."""
    verdict: dict = {}
    lines = []
    for name in ("early", "final"):
        fitted = fit_verdicts(labelled, early=name == "early")
        verdict[name] = list(fitted.coefficients)
        prompts = len({one.views.prompt for one in labelled})
        verdict["calibrated_on"] = f"{fitted.missing + fitted.there} subjects of {prompts} prompts, {fitted.missing} missing"
        lines.append(f"{name}: area under the ROC curve {fitted.area:.2f} ({verdict['calibrated_on']})")
        lines += [f"  said {said:.2f}, there {there:.2f} (n = {n})" for said, there, n in fitted.reliability]
    return verdict, lines


def read_labels(path: Path) -> list[Labelled]:
    """`[{"views": "a.safetensors", "missing": ["sphere"]}, ...]`, files beside `path`; subjects by the keys of their nouns.

    Raises:
        ValueError: it is no such list, or names a subject that the views' prompt has not; names the entry.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path} must be a list such as [{{"views": "a.safetensors", "missing": ["sphere"]}}]')
    labelled = []
    for number, entry in enumerate(entries, 1):
        where = f"entry {number} of {path.name}"
        if not isinstance(entry, dict) or not isinstance(entry.get("views"), str) or not isinstance(entry.get("missing"), list):
            raise ValueError(f"{where} needs 'views', a file, and 'missing', a list of nouns (empty when all are there)")
        views = load_views(path.parent / entry["views"])
        keys = [subject["key"] for subject in views.provenance.get("subjects", [])]
        for word in entry["missing"]:
            if word not in keys:
                raise ValueError(f"{where}: '{word}' is no subject of '{views.prompt}': its subjects are {', '.join(keys)}")
        labelled.append(Labelled(views, {key: key not in entry["missing"] for key in keys}))
    return labelled


@torch.no_grad()
def gate(
    model: MVDream, labelled: Sequence[Labelled], downscale: int, timesteps: Sequence[int] = TIMESTEPS
) -> dict[str, float]:
    """Of each cross-attention layer whose tokens are `downscale` times coarser than the latents, the area under the ROC curve
    with which a noun's highest attention, the mean over heads, views and `timesteps`, tells whether its subject is there.

    Raises:
        ValueError: no layer has this resolution; hardly anything is missing, or there.
    """
    names = list(cross_attention_layers(model.unet, downscale))
    highest, there = [], []
    for number, one in enumerate(labelled):
        views = one.views
        prompt = encode_prompt(model, views.prompt)
        focus = Focus.of_subjects(views.prompt).locate(views.prompt, prompt.words, prompt.end_token)
        known = [word for word in focus.words if word.key in one.there]
        if not known:
            continue
        clean = model.encode(views.images) if views.latents is None else views.latents.to(model.device, model.dtype)
        cameras = views.cameras.conditioning().to(model.device, model.dtype)
        found = torch.zeros(len(known), len(names))
        for timestep in timesteps:
            generator = torch.Generator().manual_seed(1000 * number + timestep)
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            alpha = float(model.scheduler.alphas_cumprod[timestep])
            noisy = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
            with _Layers(model.unet, downscale=downscale, num_tokens=prompt.end_token) as capture:
                predict_noise(model.unet, noisy, timestep, prompt.embeddings, cameras, len(views))
            for k, maps in enumerate(capture.kept):
                found[:, k] += torch.stack([maps[..., list(w.tokens)].sum(-1).amax(-1).mean() for w in known]).cpu()
        highest += found.tolist()
        there += [one.there[word.key] for word in known]
    _refuse_one_sided(there)
    scores = np.array(highest)
    areas: dict[str, list[float]] = {}
    for k, name in enumerate(names):
        areas.setdefault(layer_name(name), []).append(area_under_curve(scores[:, k], np.array(there)))
    return {name: float(np.mean(of_blocks)) for name, of_blocks in areas.items()}


class _Layers(AttentionCapture):
    """Keeps each layer's probabilities `[views, heads, pixels, tokens]` instead of their sum."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept: list[Tensor] = []

    def add(self, probabilities: Tensor) -> None:
        self.kept.append(probabilities)


def knowing_layers(areas: dict[int, dict[str, float]]) -> tuple[int, tuple[str, ...]] | None:
    """The size and the layers to be captured, from `gate`'s areas by downscale: the best one and those of its size that know
    nearly as much. None where no layer knows anything."""
    downscale, best = max(((size, max(of.values())) for size, of in areas.items()), key=lambda pair: pair[1])
    if best < KNOWS:
        return None
    return downscale, tuple(name for name, area in areas[downscale].items() if area >= max(best - NEAR_BEST, KNOWS))


@dataclass(frozen=True)
class Fitted:
    """A logistic regression on `FEATURES`.

    Attributes:
        coefficients: the constant first. area: under the ROC curve, each prompt judged by a fit to the other prompts.
        reliability: (mean probability, share that is there, how many) of fifths of the subjects, by such probabilities.
        missing, there: how many subjects.
    """

    coefficients: tuple[float, ...]
    area: float
    reliability: tuple[tuple[float, float, int], ...]
    missing: int
    there: int


def fit_verdicts(labelled: Sequence[Labelled], *, early: bool) -> Fitted:
    """Coefficients of a verdict from views that carry its features. ValueError: too few are missing, or there, to tell."""
    rows, there, prompts = [], [], []
    for one in labelled:
        for verdict in one.views.verdicts:
            features = verdict.early if early else verdict.features
            if verdict.key in one.there and len(features) == len(FEATURES):
                rows.append(features)
                there.append(one.there[verdict.key])
                prompts.append(one.views.prompt)
    _refuse_one_sided(there)
    x, y, groups = np.array(rows), np.array(there, dtype=float), np.array(prompts)
    held_out = np.zeros(len(y))
    for part in np.array_split(np.unique(groups), min(10, len(np.unique(groups)))):
        inside = np.isin(groups, part)
        if 0 < y[~inside].sum() < (~inside).sum():
            held_out[inside] = probabilities(x[inside], logistic(x[~inside], y[~inside]))
    return Fitted(
        tuple(float(round(c, 4)) for c in logistic(x, y)),
        area_under_curve(held_out, y > 0),
        reliability(held_out, y),
        int((1 - y).sum()),
        int(y.sum()),
    )


def _refuse_one_sided(there: Sequence[bool]) -> None:
    missing = len(there) - sum(there)
    if min(missing, sum(there)) < FEWEST:
        raise ValueError(
            f"of {len(there)} subjects {missing} are missing and {sum(there)} there: label views until there are at least "
            f"{FEWEST} of both (prompts with three subjects lack one more often)"
        )


def logistic(x: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k+1"]:
    """Coefficients, the constant first, of a ridge-penalised logistic regression; Newton's method."""
    centre, spread = x.mean(0), x.std(0) + 1e-9
    design = np.c_[np.ones(len(x)), (x - centre) / spread]
    penalty = np.diag([0.0, *[RIDGE] * x.shape[1]])
    w = np.zeros(design.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ w, -30, 30)))
        curvature = design.T * (p * (1 - p)) @ design + penalty + 1e-9 * np.eye(len(w))
        step = np.linalg.solve(curvature, design.T @ (y - p) - penalty @ w)
        w += np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-8:
            break
    slopes = w[1:] / spread
    return np.r_[w[0] - slopes @ centre, slopes]


def probabilities(x: Float[np.ndarray, "n k"], coefficients: Sequence[float]) -> Float[np.ndarray, " n"]:
    return 1 / (1 + np.exp(-np.clip(coefficients[0] + x @ np.asarray(coefficients[1:]), -30, 30)))


def reliability(probability: Float[np.ndarray, " n"], there: Float[np.ndarray, " n"]) -> tuple[tuple[float, float, int], ...]:
    """Fifths by probability: (mean probability, share that is there, how many)."""
    parts = np.array_split(np.argsort(probability, kind="stable"), 5)
    return tuple((float(probability[p].mean()), float(there[p].mean()), len(p)) for p in parts if len(p))


def area_under_curve(score: Float[np.ndarray, " n"], there: np.ndarray) -> float:
    """The chance that something there scores higher than something missing; 0.5 is none."""
    a, b = score[there], score[~there]
    return float((a[:, None] > b[None]).mean() + 0.5 * (a[:, None] == b[None]).mean())
