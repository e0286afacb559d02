"""Numbers of a result: how well views and field do, several seeds together, and two results against each other."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ..gd_core import metrics
from ..gd_core.nerf import RadianceField
from ..gd_core.views import ViewSet
from .border import at_the_border, interruptible, tell
from .types import CATEGORY, GDField, GDScores, GDViews

NO_CLIP = "none"


def clip_choices() -> list[str]:
    """Folders of `models/clip` and `models/text_encoders` that hold a whole CLIP model in transformers' layout."""
    roots = [Path(root) for root in folder_paths.get_folder_paths("text_encoders")]
    return [NO_CLIP, *sorted({path.parent.name for root in roots for path in root.glob("*/config.json")})]


def clip_folder(name: str) -> Path:
    roots = [Path(root) for root in folder_paths.get_folder_paths("text_encoders")]
    return next(root / name for root in roots if (root / name / "config.json").is_file())


class Evaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerEvaluate",
            display_name="Evaluate",
            category=CATEGORY,
            description="Measures views, and a field against them. A list of views (a batch of seeds) is averaged, with "
            "its diversity.",
            search_aliases=["metrics", "clip score", "psnr", "benchmark", "quality"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                GDViews.Input("views", tooltip="From the 4-View Sampler or Views from Images; the field's reference views."),
                GDField.Input("field", optional=True, tooltip="Adds how well the field keeps the views."),
                io.Combo.Input(
                    "clip",
                    options=clip_choices(),
                    default=NO_CLIP,
                    tooltip="A CLIP model (a folder of models/clip with config.json and weights) adds CLIP scores. "
                    "Nothing is downloaded.",
                ),
                io.String.Input(
                    "subjects",
                    default="",
                    tooltip="What must be seen, separated by commas: 'a red cube, a blue sphere'. Adds the CLIP score of "
                    "the worst-served one.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The numbers as text, one a line."),
                GDScores.Output(display_name="scores", tooltip="The numbers, for Compare."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @at_the_border
    def execute(
        cls, views: list[ViewSet], clip: list[str], subjects: list[str], field: list[RadianceField] | None = None
    ) -> io.NodeOutput:
        if field is not None and len(field) != len(views):
            raise ValueError(
                f"{len(views)} sets of views came with {len(field)} fields: connect the field that was fitted to the views"
            )
        encoder = None
        if clip[0] != NO_CLIP:
            encoder = metrics.load_clip(clip_folder(clip[0]), comfy.model_management.text_encoder_device())
        phrases = [phrase.strip() for phrase in subjects[0].split(",") if phrase.strip()]
        if phrases and encoder is None:
            raise ValueError("'subjects' needs a CLIP model: choose one under 'clip', or leave 'subjects' empty")
        scores = [metrics.evaluate_views(one, clip=encoder, subjects=phrases) for one in views]
        for index, one in enumerate(field or []):
            comfy.model_management.throw_exception_if_processing_interrupted()
            with interruptible(one):
                scores[index] |= metrics.evaluate_field(one, views[index])
        summary = average(scores)
        if len(views) > 1:
            summary["image_diversity"] = metrics.image_diversity(torch.stack([one.images for one in views]))
        report = as_text(summary)
        tell(cls, report)
        return io.NodeOutput(report, summary, ui={"text": [report]})


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerCompare",
            display_name="Compare",
            category=CATEGORY,
            description="Two evaluations side by side: what a setting changed, and whether for the better.",
            search_aliases=["ab test", "difference", "before after"],
            is_output_node=True,
            inputs=[
                GDScores.Input("before", tooltip="Scores of one result, from Evaluate."),
                GDScores.Input("after", tooltip="Scores of the other."),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="One line a number: before, after, change.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @at_the_border
    def execute(cls, before: dict, after: dict) -> io.NodeOutput:
        lines = [
            f"{label}: {old:.4g} -> {new:.4g} ({change:+.4g}{', ' + verdict if verdict else ''})"
            for label, old, new, change, verdict in metrics.compare(before, after)
        ]
        report = "\n".join(lines) or "the two evaluations have no number in common"
        tell(cls, report)
        return io.NodeOutput(report, ui={"text": [report]})


def average(scores: list[dict]) -> dict[str, float]:
    """Means over several results of the numbers that all of them have; a yes or no counts as 1 or 0."""
    names = [name for name in scores[0] if all(name in one for one in scores)]
    return {name: sum(float(one[name]) for one in scores) / len(scores) for name in names}


def as_text(scores: dict[str, float]) -> str:
    lines = []
    for name, value in scores.items():
        metric = metrics.describe(name)
        lines.append(f"{metric.label}: {value:.4g}{' ' + metric.unit if metric.unit else ''}")
    return "\n".join(lines)
