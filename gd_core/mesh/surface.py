"""From a density grid to a clean triangle surface: marching cubes, floaters, decimation, repair, normals.

Arrays are NumPy here: vertices `[N, 3]` in world units, faces `[F, 3]` int64, counter-clockwise seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import fast_simplification
import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from .density import LOG_LIMIT

Vertices = Float[np.ndarray, "N 3"]
Faces = Int[np.ndarray, "F 3"]
NewVertices = Float[np.ndarray, "M 3"]  # of another surface, such as one made from it
NewFaces = Int[np.ndarray, "G 3"]
REPAIR_ROUNDS = 8


@dataclass
class Defects:
    """What keeps a surface from being closed and two-manifold.

    Attributes:
        open_edges: edges with a face on one side only.
        crowded_edges: edges shared by more than two faces, or by two of opposite winding.
    """

    open_edges: int
    crowded_edges: int

    @property
    def watertight(self) -> bool:
        return self.open_edges == 0 and self.crowded_edges == 0

    def describe(self) -> list[str]:
        """One line for each kind of defect; empty for a closed surface."""
        lines = []
        if self.open_edges:
            lines.append(f"{self.open_edges} open edges: the surface has a hole")
        if self.crowded_edges:
            lines.append(f"{self.crowded_edges} non-manifold edges: more than two faces meet there")
        return lines


def solid_box(grid: Float[np.ndarray, "n n n"]) -> tuple[slice, slice, slice]:
    """Where in a padded grid all that is solid lies, with one empty layer around it: mostly a small part of a large grid."""
    solid = grid > 0
    reach = [np.flatnonzero(solid.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(along[0] - 1, along[-1] + 2) for along in reach)


def fill_cavities(grid: Float[np.ndarray, "n n n"]) -> int:
    """Make enclosed empty space solid, in place; returns how many cavities there were.

    Four outside views say nothing of a solid's inside, so a fitted field is often hollow. Nobody sees the inner surfaces,
    and they would take up faces and texture. The grid must be empty along its border.
    """
    grid = grid[solid_box(grid)]
    labels, count = ndimage.label(grid <= 0)  # empty space joins through faces only
    grid[(labels > 0) & (labels != labels[0, 0, 0])] = LOG_LIMIT
    return count - 1


def isosurface(grid: Float[np.ndarray, "n n n"], half: float) -> tuple[Vertices, Faces]:
    """The zero level of a padded grid (one empty layer around `[-half, half]^3`) by marching cubes (Lewiner et al. 2003)."""
    box = solid_box(grid)
    vertices, faces, _, _ = marching_cubes(grid[box], level=0.0, allow_degenerate=False)
    vertices = (vertices + [side.start - 1 for side in box]) * (2 * half / (grid.shape[0] - 3)) - half
    return vertices.astype(np.float32), faces[:, ::-1].astype(np.int64)


def piece_labels(vertices: Vertices, faces: Faces) -> Int[np.ndarray, " F"]:
    """The number of the connected piece that each face belongs to, counting from 0."""
    edges = np.concatenate((faces[:, :2], faces[:, 1:]))
    graph = coo_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2)
    labels = connected_components(graph, directed=False)[1][faces[:, 0]]
    return np.unique(labels, return_inverse=True)[1]


def piece_volumes(vertices: Vertices, faces: Faces, pieces: Int[np.ndarray, " F"]) -> Float[np.ndarray, " P"]:
    """Signed volume enclosed by each piece in cubic world units."""
    a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
    return np.bincount(pieces, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)


def drop_floaters(vertices: Vertices, faces: Faces, min_fraction: float) -> tuple[NewVertices, NewFaces, int]:
    """Remove the pieces with less than `min_fraction` of the largest piece's volume; returns how many went."""
    pieces = piece_labels(vertices, faces)
    volumes = piece_volumes(vertices, faces, pieces)
    keep = volumes >= min_fraction * volumes.max()
    return *compact(vertices, faces[keep[pieces]]), int((~keep).sum())


def compact(vertices: Vertices, faces: Faces) -> tuple[NewVertices, NewFaces]:
    """Drop the vertices that no face uses."""
    used, inverse = np.unique(faces, return_inverse=True)
    return vertices[used], inverse.reshape(-1, 3)


def decimate(vertices: Vertices, faces: Faces, target_faces: int) -> tuple[NewVertices, NewFaces]:
    """Quadric edge collapse (Garland and Heckbert 1997) down to about `target_faces`; smaller meshes stay as they are."""
    if len(faces) <= target_faces:
        return vertices, faces
    points, triangles = fast_simplification.simplify(
        vertices.astype(np.float64), faces.astype(np.int32), target_count=target_faces
    )
    points = np.clip(points, vertices.min(0), vertices.max(0))  # a nearly flat quadric may put its optimum far away
    return points.astype(np.float32), triangles.astype(np.int64)


def cluster(vertices: Vertices, faces: Faces, cells: int) -> tuple[NewVertices, NewFaces]:
    """A rough copy with one vertex for each of `cells` cells along the longest side (Rossignac and Borrel 1993).

    Where `decimate` needs faces that share their vertices, this holds for any triangles, also torn, open or doubled ones.

    Args:
        vertices: `[N, 3]` in any unit, at least one. faces: `[F, 3]`, their indices. cells: 1 or more.

    Returns:
        the means of the cells' vertices, and the faces whose corners lie in three cells, each once, facing as before.
    """
    low = vertices.min(0)
    cell = ((vertices - low) * ((cells - 1e-3) / max(float(np.ptp(vertices, axis=0).max()), 1e-12))).astype(np.int64)
    code = (cell[:, 0] * cells + cell[:, 1]) * cells + cell[:, 2]
    _, cluster_of, count = np.unique(code, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(cluster_of, vertices[:, axis]) for axis in range(3)], axis=1) / count[:, None]
    kept = cluster_of[faces]
    kept = kept[(kept[:, 0] != kept[:, 1]) & (kept[:, 1] != kept[:, 2]) & (kept[:, 2] != kept[:, 0])]
    first = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)[1]
    return means.astype(np.float32), kept[np.sort(first)]


def half_edges(faces: Faces) -> tuple[Int[np.ndarray, "E 2"], Int[np.ndarray, " E"]]:
    """Directed edges of all faces, `[3F, 2]`, and the face of each."""
    return np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])), np.tile(np.arange(len(faces)), 3)


def edge_state(faces: Faces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half-edges, and for each whether it is open (no face on the other side) and whether it is crowded."""
    edges, _ = half_edges(faces)
    size = int(faces.max()) + 1 if len(faces) else 1
    code, reverse = edges[:, 0] * size + edges[:, 1], edges[:, 1] * size + edges[:, 0]
    ordered = np.sort(code)

    def count(values: np.ndarray) -> np.ndarray:
        return np.searchsorted(ordered, values, "right") - np.searchsorted(ordered, values, "left")

    same, opposite = count(code), count(reverse)
    return edges, (same == 1) & (opposite == 0), (same > 1) | (opposite > 1)


def find_defects(faces: Faces) -> Defects:
    """Count what keeps the surface from being closed; faces must share vertices (before seams are cut)."""
    edges, is_open, is_crowded = edge_state(faces)
    crowded = np.unique(np.sort(edges[is_crowded], axis=1), axis=0)
    return Defects(int(is_open.sum()), len(crowded))


def boundary_loops(faces: Faces) -> list[list[int]]:
    """Vertex loops around the holes, in the direction that a face filling the hole must have."""
    edges, is_open, _ = edge_state(faces)
    following: dict[int, list[int]] = {}
    for start, end in edges[is_open][:, ::-1].tolist():
        following.setdefault(start, []).append(end)
    loops = []
    while following:
        path = [next(iter(following))]
        while path[-1] in following:
            ends = following[path[-1]]
            step = ends.pop()
            if not ends:
                del following[path[-1]]
            if step in path:  # a loop closes; a rest of the path before it waits for its own
                at = path.index(step)
                loops.append(path[at:])
                path = path[: at + 1]
            else:
                path.append(step)
    return [loop for loop in loops if len(loop) >= 3]


def fill_holes(vertices: Vertices, faces: Faces) -> tuple[NewVertices, NewFaces]:
    """Close each hole with one triangle or a fan around its middle."""
    points, triangles = [vertices], [faces]
    count = len(vertices)
    for loop in boundary_loops(faces):
        if len(loop) == 3:
            triangles.append(np.array([loop]))
            continue
        points.append(vertices[loop].mean(0, keepdims=True))
        triangles.append(np.stack((loop, np.roll(loop, -1), np.full(len(loop), count)), axis=1))
        count += 1
    return np.concatenate(points), np.concatenate(triangles).astype(np.int64)


def repair(vertices: Vertices, faces: Faces) -> tuple[NewVertices, NewFaces]:
    """Remove degenerate, double and non-manifold faces, then close the holes; a closed surface is returned as it is.

    Corners at one and the same place become one: decimation leaves such pairs, and every importer merges them.
    """
    places, merged = np.unique(vertices, axis=0, return_inverse=True)
    if len(places) < len(vertices):
        vertices, faces = places, merged.reshape(-1)[faces]
    for _ in range(REPAIR_ROUNDS):
        a, b, c = faces.T
        faces = faces[(a != b) & (b != c) & (c != a)]
        _, first, times = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
        faces = faces[np.sort(first[times == 1])]  # two faces on the same corners cancel, or hide one another
        if find_defects(faces).watertight:
            break
        _, _, is_crowded = edge_state(faces)
        crowded_faces = np.unique(half_edges(faces)[1][is_crowded])
        vertices, faces = fill_holes(vertices, np.delete(faces, crowded_faces, axis=0))
    return compact(vertices, faces)


def vertex_normals(vertices: Vertices, faces: Faces) -> Float[np.ndarray, "N 3"]:
    """Smooth unit normals, faces weighted by their angle at the vertex (Thürmer and Wüthrich 1998)."""
    corners = vertices[faces].astype(np.float64)
    face_normals = unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    total = np.zeros((len(vertices), 3))
    for corner in range(3):
        to_next = unit(corners[:, (corner + 1) % 3] - corners[:, corner])
        to_last = unit(corners[:, (corner + 2) % 3] - corners[:, corner])
        angle = np.arccos(np.clip(np.einsum("ij,ij->i", to_next, to_last), -1, 1))
        for axis in range(3):
            total[:, axis] += np.bincount(faces[:, corner], angle * face_normals[:, axis], len(vertices))
    total[np.linalg.norm(total, axis=1) < 1e-9] = (0.0, 0.0, 1.0)  # only folded, zero-area fans: any direction will do
    return unit(total).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length one; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-20)
