"""An evaluation of one asset as a plain dict of numbers: what the nodes show, and what the benchmark stores for each item."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..nerf.match import match_with_views
from ..views import ViewSet
from .clip import ClipEncoder, clip_score, minimum_object_clip
from .consistency import JANUS_PROBES, janus_fronts, opposite_view_offsets, silhouette_coherence, view_ssim

Judge = Callable[[Float[Tensor, "V H W 3"], str], dict[str, float | bool]]
"""RGB views in 0..1 and the prompt to named verdicts: a bool is counted as a rate, a number as a mean."""


@dataclass(frozen=True)
class Metric:
    """How a number is shown.

    Attributes:
        label, unit: for people. better: "higher", "lower" or "" where neither is.
        is_rate: yes/no for each item, so that a set of items gives a proportion.
        meaning: one sentence.
    """

    label: str
    unit: str = ""
    better: str = "higher"
    is_rate: bool = False
    meaning: str = ""


METRICS: dict[str, Metric] = {
    "silhouette_coherence": Metric("Silhouette coherence", meaning="share of the views' outlines that one shape explains"),
    "clip_score": Metric("CLIP score", meaning="100 x cosine of prompt and view, mean over views"),
    "minimum_object_clip": Metric("Minimum-object CLIP", meaning="CLIP score of each view's worst-served subject"),
    "clip_r_precision": Metric("CLIP R-Precision", meaning="share of views that find their own prompt first in the set"),
    "janus_suspected": Metric("Janus suspected", "", "lower", True, "CLIP sees fronts on more than one side (a proxy)"),
    "caption_alignment": Metric("T3-style alignment", "of 5", "higher", meaning="the judge's score of the captions, 1 to 5"),
    "t3bench_alignment": Metric("Alignment, protocol t3bench", "of 5", meaning="the judge's score of the merged caption"),
    "dreamfields_r_precision": Metric(
        "CLIP R-Precision, protocol dreamfields", is_rate=True, meaning="the one render finds its own prompt first"
    ),
    "attend_excite_full_prompt": Metric("Full-prompt CLIP, protocol attend-excite", meaning="cosine of picture and prompt"),
    "attend_excite_minimum_object": Metric(
        "Minimum-object CLIP, protocol attend-excite", meaning="cosine of picture and the lesser half of the prompt"
    ),
    "paper_r_precision": Metric("CLIP R-Precision, protocol paper", meaning="share of renders that find their prompt first"),
    "paper_alignment": Metric("Alignment, protocol paper", "of 5", meaning="the judge's score of the merged caption"),
    "psnr": Metric("PSNR to the views", "dB", "higher", meaning="the asset's renders against its reference views"),
    "ssim": Metric("SSIM to the views", meaning="the asset's renders against its reference views"),
    "mask_iou": Metric("Mask IoU", meaning="the asset's silhouettes against its reference views'"),
    "image_diversity": Metric("Image diversity", meaning="RMS difference between the seeds' views"),
    "embedding_diversity": Metric("Embedding diversity", meaning="cosine distance between the seeds' CLIP embeddings"),
    "chamfer_diversity": Metric("Chamfer diversity", "units", "higher", meaning="Chamfer distance between the seeds' surfaces"),
    "foreground": Metric("Foreground", "", "", meaning="share of the pixels that are not background"),
    "empty_views": Metric("Empty views", "views", "lower", meaning="views in which nothing is seen"),
    "mesh_faces": Metric("Faces", "", "", meaning="triangles of the mesh"),
    "mesh_watertight": Metric("Watertight", "", "higher", True, "the mesh is closed"),
    "seconds": Metric("Time", "s", "lower", meaning="wall-clock seconds an item"),
    "peak_memory_mb": Metric("Peak memory", "MB", "lower", meaning="resident memory of the process"),
    "peak_cuda_mb": Metric("Peak GPU memory", "MB", "lower", meaning="peak allocated on the GPU"),
}


def describe(name: str, values: list | None = None) -> Metric:
    """The `Metric` of a name; one that only a judge knows is shown under its own name, as a rate when its values are bools."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith("seconds_"):
        return Metric(f"Time of {name.removeprefix('seconds_')}", "s", "lower", meaning="wall-clock seconds of the stage")
    is_rate = bool(values) and all(isinstance(value, bool) for value in values)
    judged = name.startswith("judge_")
    label = name.removeprefix("judge_").replace("_", " ").capitalize()
    return Metric(label, "", "higher" if judged else "", is_rate, "the judge's verdict" if judged else "measured by the maker")


def is_alignment(name: str) -> bool:
    """Whether the metric says how much of the prompt is there: what a diversity is to be read beside."""
    return name.startswith("judge_") or name.endswith(("clip_score", "alignment", "r_precision", "minimum_object_clip"))


def report_order(name: str) -> tuple[int, int]:
    """Where a metric stands in a report: the judge's verdicts, then `METRICS` in their order, then what only a maker knows."""
    names = list(METRICS)
    if name.startswith("judge_"):
        return 0, 0
    return (1, names.index(name)) if name in names else (2, 0)


def evaluate_views(
    views: ViewSet,
    *,
    clip: ClipEncoder | None = None,
    subjects: Sequence[str] = (),
    judge: Judge | None = None,
) -> dict[str, float | bool]:
    """Numbers of one ViewSet; `METRICS` says what each is.

    Args:
        views: any number of views; those numbers that need two or more, or a prompt, are left out where they do not apply.
        clip: adds CLIP score and, from four views on, the Janus proxy.
        subjects: phrases that must each be seen; adds minimum-object CLIP.
        judge: adds its verdicts as `judge_<name>`.

    Raises:
        ValueError: a judge's verdict that is not a number.
    """
    masks = views.masks.detach().float().cpu()
    images = views.images.detach().float().cpu()
    foreground = (masks > 0.5).flatten(1).float().mean(1)
    numbers: dict[str, float | bool] = {
        "foreground": float(foreground.mean()),
        "empty_views": float((foreground == 0).sum()),
    }
    if len(views) > 1:
        numbers["silhouette_coherence"] = float(silhouette_coherence(masks, views.cameras.to("cpu")).mean())
    if clip is not None and views.prompt:
        numbers |= clip_numbers(clip, clip.embed_images(images), views.prompt, subjects)
    if judge is not None:
        numbers |= judged(judge, images, views.prompt)
    return numbers


def clip_numbers(
    clip: ClipEncoder, embedded: Float[Tensor, "V D"], prompt: str, subjects: Sequence[str] = ()
) -> dict[str, float | bool]:
    """CLIP score, minimum-object CLIP and the Janus proxy of one object's views, given their embeddings."""
    text = clip.embed_texts([prompt, *subjects, *(probe.format(prompt) for probe in JANUS_PROBES)])
    numbers: dict[str, float | bool] = {"clip_score": float(clip_score(embedded, text[:1].expand_as(embedded)).mean())}
    if subjects:
        numbers["minimum_object_clip"] = minimum_object_clip(embedded, text[1 : 1 + len(subjects)])[0]
    if len(embedded) >= 4:
        numbers["janus_suspected"] = janus_fronts(embedded @ text[1 + len(subjects) :].T) > 1
    return numbers


def judged(judge: Judge, images: Float[Tensor, "V H W 3"], prompt: str) -> dict[str, float | bool]:
    """The judge's verdicts as `judge_<name>`.

    Raises:
        ValueError: a verdict that is neither a finite number nor a bool.
    """
    verdicts = judge(images, prompt)
    for name, verdict in verdicts.items():
        if not isinstance(verdict, bool | int | float) or not math.isfinite(verdict):
            raise ValueError(f"the judge's verdict '{name}' is {verdict!r}: verdicts are numbers or yes/no")
    return {f"judge_{name}": verdict for name, verdict in verdicts.items()}


def evaluate_field(field, views: ViewSet) -> dict[str, float]:
    """How well a radiance field keeps its reference views: PSNR, SSIM and mask IoU, before the views' own background.

    Args:
        field: see `match_with_views`.
    """
    match = match_with_views(field, views)
    return {"psnr": match.psnr, "ssim": view_ssim(match.rendered, views.images), "mask_iou": match.mask_iou}


def compare(before: dict[str, float | bool], after: dict[str, float | bool]) -> list[tuple[str, float, float, float, str]]:
    """Rows `(label, before, after, after - before, verdict)` of what two evaluations share; verdict "better", "worse" or ""."""
    rows = []
    for name in (name for name in before if name in after):
        metric, change = describe(name), float(after[name]) - float(before[name])
        gain = {"higher": change, "lower": -change, "": 0.0}[metric.better]
        verdict = "better" if gain > 0 else "worse" if gain < 0 else ""
        rows.append((metric.label, float(before[name]), float(after[name]), change, verdict))
    return rows


def layout_offsets(views: ViewSet) -> list[list[float]] | None:
    """`opposite_view_offsets` as lists, or None for an odd number of views: stored for each item, correlated over a set."""
    return opposite_view_offsets(views.masks.detach().cpu()).tolist() if len(views) % 2 == 0 else None
