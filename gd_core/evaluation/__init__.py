"""The paper's metrics, diversity, and a benchmark with a report.

FID and KID are in `gd_core.evaluation.distribution`, which needs torchmetrics.
"""

from .alignment import Alignment, caption_alignment
from .clip import ClipEncoder, clip_r_precision, clip_score, load_clip, minimum_object_clip
from .consistency import (
    janus_fronts,
    opposite_view_correlation,
    opposite_view_offsets,
    silhouette_coherence,
    view_fidelity,
)
from .diversity import chamfer_diversity, cosine_diversity, image_diversity
from .prompt_sets import Prompt, PromptSet, bundled_sets, load_prompts
from .resources import Resources
from .scorecard import METRICS, Metric, compare, describe, evaluate_field, evaluate_views
from .statistics import Estimate, bootstrap_mean, paired_difference, wilson_interval

__all__ = [
    "METRICS",
    "Alignment",
    "ClipEncoder",
    "Estimate",
    "Metric",
    "Prompt",
    "PromptSet",
    "Resources",
    "bootstrap_mean",
    "bundled_sets",
    "caption_alignment",
    "chamfer_diversity",
    "clip_r_precision",
    "clip_score",
    "compare",
    "cosine_diversity",
    "describe",
    "evaluate_field",
    "evaluate_views",
    "image_diversity",
    "janus_fronts",
    "load_clip",
    "load_prompts",
    "minimum_object_clip",
    "opposite_view_correlation",
    "opposite_view_offsets",
    "paired_difference",
    "silhouette_coherence",
    "view_fidelity",
    "wilson_interval",
]
