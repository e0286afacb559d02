"""A mesh brought into the frame of views by its silhouettes: turns by 90 degrees, then scale and shift."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import least_squares, minimize
from scipy.spatial import ConvexHull, QhullError

from ..cameras import Cameras
from ..nerf.hull import project
from ..views import Progress, ViewSet
from .surface import Faces, Vertices, cluster
from .texture import rasterize_uvs

SIZE = 64  # pixels a side of the silhouettes that are compared
CELLS = 48  # along the longest side of the rough mesh whose silhouettes they are
REFINED = 3  # of the turns are fitted to the last
GAIN = 0.01  # by how much more must a turn agree to be taken before an easier one


@dataclass(frozen=True)
class Placement:
    """`scale * vertices @ turn.T + shift` lies in the views' frame; `agreement` is the mean IoU of the silhouettes there."""

    turn: Float[np.ndarray, "3 3"]
    scale: float
    shift: Float[np.ndarray, 3]
    agreement: float

    def apply(self, points: Vertices) -> Vertices:
        return (self.scale * points @ self.turn.T + self.shift).astype(np.float32)


def quarter_turns() -> list[Float[np.ndarray, "3 3"]]:
    """The 24 turns that map axes to axes: none first, then about the vertical, then the others."""
    turns = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), axes] = signs
            if np.linalg.det(turn) > 0:
                turns.append(turn)
    return sorted(turns, key=lambda turn: (-turn[2, 2], -np.trace(turn)))


def place(vertices: Vertices, faces: Faces, views: ViewSet, progress: Progress | None = None) -> Placement:
    """The turn, scale and shift under which the mesh's silhouettes agree best with the views' masks.

    Raises:
        ValueError: a view's mask is empty.
    """
    seen = small_masks(views)
    if not seen.any((1, 2)).all():
        raise ValueError(f"view {int(np.argmin(seen.any((1, 2)))) + 1} shows no object: its mask is empty")
    rough = cluster(vertices, faces, CELLS)
    vertices, faces = rough if len(rough[1]) < len(faces) else (vertices, faces)
    middle = (vertices.max(0) + vertices.min(0)) / 2
    unit = 1 / max(float((vertices.max(0) - vertices.min(0)).max()), 1e-12)
    vertices = (vertices - middle) * unit  # so that every start is alike
    corners = vertices[_hull(vertices)]
    boxes = np.stack([_box(mask) for mask in seen])
    turns = quarter_turns()
    steps = len(turns) + REFINED
    found = []
    for index, turn in enumerate(turns):
        guess = _fit_boxes(corners @ turn.T, boxes, views.cameras, *seen.shape[1:])
        found.append((turn, guess, _agreement(vertices @ turn.T, faces, guess, views.cameras, seen)))
        if progress is not None:
            progress(index + 1, steps, None)
    best: tuple | None = None
    for index, (turn, guess, _) in enumerate(sorted(found, key=lambda entry: -entry[2])[:REFINED]):
        turned = vertices @ turn.T

        def loss(values: np.ndarray, turned=turned) -> float:
            return -_agreement(turned, faces, values, views.cameras, seen)

        simplex = guess + np.concatenate((np.zeros((1, 4)), np.diag([0.04, 0.03, 0.03, 0.03])))
        refined = minimize(loss, guess, method="Nelder-Mead", options={"maxfev": 60, "initial_simplex": simplex})
        easier = next(i for i, one in enumerate(turns) if one is turn)
        if best is None or -refined.fun > best[0] + (GAIN if easier > best[3] else -GAIN):
            best = -refined.fun, turn, refined.x, easier
        if progress is not None:
            progress(len(turns) + index + 1, steps, None)
    agreement, turn, values, _ = best
    scale = float(np.exp(values[0])) * unit
    return Placement(turn, scale, values[1:] - scale * (turn @ middle), float(agreement))


def small_masks(views: ViewSet) -> Bool[np.ndarray, "V h w"]:
    """The masks at `SIZE` pixels of their longer side."""
    longer = max(views.height, views.width)
    size = tuple(max(1, round(SIZE * side / longer)) for side in (views.height, views.width))
    masks = torch.nn.functional.interpolate(views.masks[:, None].float().cpu(), size, mode="area")[:, 0]
    return (masks > 0.5).numpy()


def silhouettes(vertices: Vertices, faces: Faces, cameras: Cameras, height: int, width: int) -> Bool[np.ndarray, "V h w"]:
    """Where each camera sees the mesh."""
    column, row, depth = (value.numpy() for value in project(cameras, torch.from_numpy(np.float32(vertices)), height, width))
    behind = (depth < 1e-3).any(1)
    size = max(height, width)
    drawn = [
        np.zeros((size, size), bool) if hidden else rasterize_uvs(np.stack((x, y), 1) / size, faces, size)[0] >= 0
        for x, y, hidden in zip(column, row, behind, strict=True)
    ]
    return np.stack(drawn)[:, :height, :width]


def _agreement(turned: Vertices, faces: Faces, values: np.ndarray, cameras: Cameras, seen: np.ndarray) -> float:
    """Mean IoU of the silhouettes; what a camera cannot see whole counts as no agreement."""
    if abs(values[0]) > 5:
        return 0.0
    drawn = silhouettes(np.exp(values[0]) * turned + values[1:], faces, cameras, *seen.shape[1:])
    return float(((drawn & seen).sum((1, 2)) / np.maximum((drawn | seen).sum((1, 2)), 1)).mean())


def _fit_boxes(
    corners: Vertices, boxes: Float[np.ndarray, "V 4"], cameras: Cameras, height: int, width: int
) -> np.ndarray:
    """Log scale and shift that make the boxes around the silhouettes those of the masks, as far as they can."""

    def residual(raised: np.ndarray) -> np.ndarray:
        values = raised - 1
        points = torch.from_numpy(np.float32(np.exp(values[0]) * corners + values[1:]))
        column, row, _ = (value.numpy() for value in project(cameras, points, height, width))
        around = np.stack((column.min(1), column.max(1), row.min(1), row.max(1)), 1)
        return np.clip((around - boxes) / SIZE, -10, 10).ravel()

    # Raised by one, since the difference quotient's step is a share of the value, and 1e-3 is what single precision bears.
    return least_squares(residual, np.ones(4), diff_step=1e-3, max_nfev=15).x - 1


def _box(mask: Bool[np.ndarray, "h w"]) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], columns[-1] + 1, rows[0], rows[-1] + 1], np.float64)


def _hull(vertices: Vertices) -> np.ndarray:
    try:
        return ConvexHull(vertices).vertices
    except QhullError:  # flat
        return np.arange(len(vertices))
