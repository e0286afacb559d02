"""How alike two shapes are: Chamfer distance and F-score (Knapitsch et al. 2017, "Tanks and Temples")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

Points = Float[np.ndarray, "N 3"] | Float[Tensor, "N 3"]
OtherPoints = Float[np.ndarray, "M 3"] | Float[Tensor, "M 3"]


class Surface(Protocol):
    """A `TriangleMesh`, a `trimesh.Trimesh`, or anything else with these two."""

    vertices: Float[Tensor, "N 3"] | Float[np.ndarray, "N 3"]
    faces: Int[Tensor, "F 3"] | Int[np.ndarray, "F 3"]


@dataclass
class ShapeScore:
    """Distances in world units, fractions in 0..1.

    Attributes:
        accuracy: mean distance from the shape to the nearest point of the reference.
        completeness: mean distance from the reference to the nearest point of the shape.
        chamfer: mean of the two.
        precision: fraction of the shape nearer than `distance` to the reference.
        recall: fraction of the reference nearer than `distance` to the shape.
        f_score: harmonic mean of the two.
        distance: the tolerance of precision and recall.
    """

    accuracy: float
    completeness: float
    chamfer: float
    precision: float
    recall: float
    f_score: float
    distance: float


def compare_points(shape: Points, reference: OtherPoints, distance: float = 0.05) -> ShapeScore:
    """Score one point cloud against another; see `ShapeScore`. Swapping them swaps accuracy and completeness."""
    shape, reference = as_points(shape), as_points(reference)
    if not distance > 0:
        raise ValueError(f"the F-score's distance must be positive, got {distance}")
    to_reference = cKDTree(reference).query(shape)[0]
    to_shape = cKDTree(shape).query(reference)[0]
    precision, recall = float((to_reference < distance).mean()), float((to_shape < distance).mean())
    accuracy, completeness = float(to_reference.mean()), float(to_shape.mean())
    return ShapeScore(
        accuracy=accuracy,
        completeness=completeness,
        chamfer=(accuracy + completeness) / 2,
        precision=precision,
        recall=recall,
        f_score=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        distance=distance,
    )


def compare_meshes(
    shape: Surface, reference: Surface, *, distance: float = 0.05, samples: int = 30_000, seed: int = 0
) -> ShapeScore:
    """Score one mesh's surface against another's, through `samples` points on each.

    Two samplings of one surface are not 0 apart but about half the mean spacing: `sqrt(area / samples) / 2`.
    """
    generator = torch.Generator().manual_seed(seed)
    return compare_points(
        sample_surface(shape, samples, generator), sample_surface(reference, samples, generator), distance
    )


def sample_surface(mesh: Surface, count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    """Points spread evenly over a mesh's area."""
    vertices = torch.as_tensor(np.asarray(mesh.vertices), dtype=torch.float64)
    a, b, c = vertices[torch.as_tensor(np.asarray(mesh.faces), dtype=torch.int64)].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    if not area.sum() > 0:
        raise ValueError("a mesh without area has no surface to compare")
    edges = torch.cumsum(area, 0)
    face = torch.searchsorted(edges, torch.rand(count, generator=generator, dtype=torch.float64) * edges[-1])
    face = face.clamp(max=len(area) - 1)
    u, v = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    return (a[face] + u * (b - a)[face] + v * (c - a)[face]).float()


def as_points(points: Points) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"a point cloud needs shape [N, 3] with at least one point, got {list(points.shape)}")
    if not np.isfinite(points).all():
        raise ValueError("a point cloud holds NaN or infinite values")
    return points
