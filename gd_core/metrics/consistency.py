"""Do the views show one object? Silhouette coherence, layout of opposite views, and an automatic proxy for Janus faces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..cameras import Cameras

MASK_SIZE = 64  # silhouettes are compared at this size at most: coherence is about layout, and its cost grows with pixels
FOREGROUND = 0.5


def silhouette_coherence(
    masks: Float[Tensor, "V H W"], cameras: Cameras, *, radius: float = 1.2, samples: int = 96
) -> Float[Tensor, " V"]:
    """How much of each view's silhouette the other views agree to, 0..1 (after Hernandez et al. 2007, "Silhouette coherence").

    A foreground pixel is explained when some point of its ray, inside the sphere of `radius` (world units) round the origin,
    falls on foreground in every other view that sees it. Silhouettes of one real object give 1; an object that one view has
    and another lacks, or that sits elsewhere, gives less. A view without foreground gives 0.
    Limits: it sees outlines only, so a wrong colour or a face on both sides costs nothing, and a view in which everything is
    foreground agrees to anything.

    Args:
        masks: `[V, H, W]` foreground 0..1, at least two views.
        samples: points a ray.
    """
    if len(masks) < 2 or len(masks) != len(cameras):
        raise ValueError(f"coherence needs two views or more, a camera each: got {len(masks)} and {len(cameras)} cameras")
    height, width = masks.shape[1:]
    scale = min(1.0, MASK_SIZE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    soft = F.interpolate(masks[:, None].float(), size, mode="area")[:, 0]
    origins, directions = cameras.rays(*size)
    coherence = []
    for view in range(len(masks)):
        pixels = soft[view] > FOREGROUND
        if not pixels.any():
            coherence.append(torch.zeros(()))
            continue
        points = _points_in_sphere(origins[view][pixels], directions[view][pixels], radius, samples)
        agreed = torch.ones(points.shape[:2], dtype=torch.bool)
        for other in range(len(masks)):
            if other != view:
                agreed &= _on_foreground(points, soft[other], cameras[other])
        coherence.append(agreed.any(1).float().mean())
    return torch.stack(coherence)


def _points_in_sphere(
    origins: Float[Tensor, "p 3"], directions: Float[Tensor, "p 3"], radius: float, samples: int
) -> Float[Tensor, "p samples 3"]:
    nearest = -(origins * directions).sum(-1, keepdim=True)
    along = nearest + torch.linspace(-radius, radius, samples)
    return origins[:, None] + along[..., None] * directions[:, None]


def _on_foreground(
    points: Float[Tensor, "p s 3"], mask: Float[Tensor, "h w"], camera: Cameras
) -> Tensor:
    """`[p, s]` bool: the point is on the view's foreground, which goes on past the picture's edge where it reaches it."""
    height, width = mask.shape
    projected = camera.project(points.flatten(0, 1), height, width)
    column, row, depth = (part[0].unflatten(0, points.shape[:2]) for part in projected)
    grid = torch.stack((2 * column / width - 1, 2 * row / height - 1), dim=-1)[None]
    value = F.grid_sample(mask[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
    behind = depth <= 0  # of which the view says nothing
    return (value > FOREGROUND / 2) | behind  # half a pixel of slack, for silhouettes are sampled


def opposite_view_offsets(masks: Float[Tensor, "V H W"]) -> Float[Tensor, "half 2"]:
    """Horizontal centroids, -1..1 from left to right, of each pair of opposite views of an even, full orbit: `[V/2, 2]`.

    What is left of the middle in one view is right of it in the opposite one, so over many assets the two columns correlate at
    almost -1 when the views agree and at 0 when each view was drawn for itself. Views without foreground give NaN.
    """
    if len(masks) % 2:
        raise ValueError(f"opposite views come in pairs: give an even number over a full orbit, got {len(masks)}")
    x = torch.linspace(-1, 1, masks.shape[2])
    weight = masks.float().sum(1)
    centroids = (weight * x).sum(1) / weight.sum(1)
    half = len(masks) // 2
    return torch.stack((centroids[:half], centroids[half:]), dim=1)


def opposite_view_correlation(offsets: Float[Tensor, "n 2"]) -> float:
    """Pearson correlation, -1..1, of `opposite_view_offsets` gathered over many assets; NaN with fewer than 3 whole pairs."""
    whole = offsets[torch.isfinite(offsets).all(1)]
    if len(whole) < 3:
        return float("nan")
    return float(torch.corrcoef(whole.T)[0, 1])


JANUS_PROBES = ("the front view of {}", "the side view of {}", "the back view of {}")


def janus_fronts(similarity: Float[Tensor, "V 3"]) -> int:
    """How many separate fronts an orbit shows: runs of neighbouring views that look most like a front. Two: Janus suspected.

    An automatic proxy; Fei et al. 2024, "A Quantitative Evaluation of SDS Based Text-to-3D", count by eye. Each view is put
    with the nearest of CLIP's "front / side / back view of ..." probes (`JANUS_PROBES`).
    Limits: CLIP tells front from back well for animals and people and hardly for most objects; what has no front (a ball, a
    vase, a tree) is counted at random; with four views, fronts 90 degrees apart are one run. So give it eight views or more
    of animals, and read its rate as a comparison of two settings on the same prompts, never as the paper's 17.15 %.

    Args:
        similarity: `[V, 3]` of the views, in order round a full orbit, with the front, side and back probes.
    """
    front = similarity.argmax(1) == 0
    if front.all():
        return 2 if len(front) >= 4 else 1  # a front on every side: opposite views are two
    return int((front & ~front.roll(1)).sum())


def view_ssim(rendered: Float[Tensor, "V H W 3"], reference: Float[Tensor, "V H W 3"]) -> float:
    """SSIM (Wang et al. 2004, by scikit-image) of renders against their reference views, RGB 0..1; mean of the views."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415  (scikit-image takes a second to import)

    if rendered.shape != reference.shape:
        raise ValueError(f"renders {list(rendered.shape)} and views {list(reference.shape)} must have the same shape")
    pairs = zip(rendered.float().cpu().numpy(), reference.float().cpu().numpy(), strict=True)
    ssim = [structural_similarity(a, b, channel_axis=-1, data_range=1.0) for a, b in pairs]
    return float(sum(ssim) / len(ssim))
