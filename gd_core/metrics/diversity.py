"""How different several seeds of one prompt are: in shape, and in looks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..mesh.compare import compare_points


def _at_least_two(count: int, what: str) -> None:
    if count < 2:
        raise ValueError(f"diversity compares the seeds of one prompt and got {count} {what}: run at least two seeds")


def chamfer_diversity(point_clouds: Sequence[Float[Tensor, "n 3"]]) -> float:
    """Mean Chamfer distance, world units, over all pairs of seeds; each cloud is points sampled evenly on an asset's surface.

    The distance of a pair is `ShapeScore.chamfer`: the mean of the two directed mean nearest-neighbour distances. Two samples
    of the same surface are not at 0 but at about half the sampling's own spacing, so use as many points for all.

    Raises:
        ValueError: for fewer than two clouds.
    """
    _at_least_two(len(point_clouds), "point cloud" if len(point_clouds) == 1 else "point clouds")
    distances = [compare_points(a, b).chamfer for a, b in combinations(point_clouds, 2)]
    return sum(distances) / len(distances)


def cosine_diversity(embeddings: Float[Tensor, "S D"]) -> float:
    """Mean cosine distance `1 - cos`, 0..2, over all pairs of S seeds' embeddings (the mean CLIP embedding of a seed's views).

    Raises:
        ValueError: for fewer than two seeds.
    """
    _at_least_two(len(embeddings), "embedding" if len(embeddings) == 1 else "embeddings")
    unit = F.normalize(embeddings.double(), dim=-1)
    similarity = unit @ unit.T
    upper = torch.triu_indices(len(unit), len(unit), offset=1)
    return float((1 - similarity[upper[0], upper[1]]).mean())


def image_diversity(images: Float[Tensor, "S V H W 3"]) -> float:
    """Mean root-mean-square difference, 0..1, over all pairs of S seeds' views (RGB 0..1): needs no model, and sees layout as
    much as looks.

    Raises:
        ValueError: for fewer than two seeds.
    """
    _at_least_two(len(images), "set of views" if len(images) == 1 else "sets of views")
    pairs = [(a - b).square().mean().sqrt() for a, b in combinations(images.double(), 2)]
    return float(torch.stack(pairs).mean())
