"""What a set of views or a field is worth: the paper's metrics, consistency and diversity.

FID and KID are in `gd_core.metrics.distribution`, which needs torchmetrics.
"""

from .alignment import Alignment, caption_alignment
from .clip import ClipEncoder, clip_r_precision, clip_score, load_clip, minimum_object_clip
from .consistency import (
    janus_fronts,
    opposite_view_correlation,
    opposite_view_offsets,
    silhouette_coherence,
    view_ssim,
)
from .diversity import chamfer_diversity, cosine_diversity, image_diversity
from .scorecard import METRICS, Metric, compare, describe, evaluate_field, evaluate_views

__all__ = [
    "METRICS",
    "Alignment",
    "ClipEncoder",
    "Metric",
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
    "minimum_object_clip",
    "opposite_view_correlation",
    "opposite_view_offsets",
    "silhouette_coherence",
    "view_ssim",
]
