"""How well a field shows its views: one measure for the refinement's guard, `run.json`, Evaluate and the benchmark."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..views import ViewSet
from .evidence import view_backgrounds
from .field import RadianceField

HIGHEST_PSNR = 100.0  # decibels, where float32 pictures are equal


@dataclass(frozen=True)
class Match:
    """A field beside its views.

    Attributes:
        psnr: decibels over all pixels of all views, each view before its own background; 100 at most.
        mask_iou: of where the field and the masks are more than half opaque; 1 where both show nothing.
        rendered: `[V, H, W, 3]` what was compared, RGB 0..1, on the CPU.
    """

    psnr: float
    mask_iou: float
    rendered: Float[Tensor, "V H W 3"]


@torch.no_grad()
def match_with_views(field: RadianceField, views: ViewSet, **options) -> Match:
    """Render `field` as the views show it, at their cameras, size and backgrounds, and compare.

    Args:
        field: anything that renders as `RadianceField.render(cameras, height, width)` does, before white.
        options: `rays_per_chunk` and `check` of `RadianceField.render`.
    """
    shown = field.render(views.cameras, views.height, views.width, **options)
    alpha, images, masks = shown.alpha.cpu(), views.images.cpu(), views.masks.cpu()
    background = view_backgrounds(views).cpu()[:, None, None]
    rendered = (shown.rgb.cpu() - (1 - alpha[..., None]) * (1 - background)).clamp(0, 1)
    error = float((rendered - images).double().square().mean())
    ours, theirs = alpha > 0.5, masks > 0.5
    either = float((ours | theirs).sum())
    iou = float((ours & theirs).sum()) / either if either else 1.0
    return Match(min(-10 * math.log10(max(error, 1e-30)), HIGHEST_PSNR), iou, rendered)
