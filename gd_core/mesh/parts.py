"""Cutting a closed surface into one closed part a label.

The cut runs where the shares of two labels are equal, through the triangles, so that the outside stays what it was. Each part
is then closed over the cut by the triangulation of least area (Barequet and Sharir 1995), the same from both sides: the parts
fill what the whole filled. Where three labels meet on the surface, each side's cut ends: the lids are drawn to straight lines
between such points, which all three share. Four labels around one point may leave a gap inside, the tetrahedron of those lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .surface import Faces, NewFaces, NewVertices, Vertices, boundary_loops, find_defects, piece_volumes, unit

SMALLEST_ISLAND = 0.02  # of a label's surface: a smaller island takes the label around it
SMALLEST_PART = 0.005  # of the whole surface, likewise
ISLAND_ROUNDS = 8
NEAREST_CUT = 0.02  # of an edge: no cut closer to a corner, so that no triangle is a needle
LONGEST_LOOP = 400  # edges; a longer one is closed by a fan, since the time grows with the cube


@dataclass
class Parts:
    """P closed parts in one list of vertices.

    Attributes:
        vertices, normals, faces: as of the whole; `[M, 3]`, `[M, 3]`, `[F, 3]`. Parts share no vertex.
        part: `[F]` the part of each face. caps: `[F]` whether the face closes a cut.
        labels: P labels, the parts' own. volumes: P, cubic world units. watertight: P.
    """

    vertices: Vertices
    normals: Vertices
    faces: Faces
    part: Int[np.ndarray, " F"]
    caps: Bool[np.ndarray, " F"]
    labels: list[int]
    volumes: list[float]
    watertight: list[bool]


def split_by_labels(vertices: Vertices, faces: Faces, normals: Vertices, shares: Float[np.ndarray, "N L"]) -> Parts:
    """Cut a surface by the label with the largest share at each vertex. Labels that own nothing give no part."""
    shares = without_islands(vertices, faces, shares)
    vertices, normals, faces, label = cut(vertices, normals, faces, shares)
    nothing = np.zeros((0, 3), np.float32)
    parts = Parts(nothing, nothing, nothing.astype(np.int64), np.zeros(0, int), np.zeros(0, bool), [], [], [])
    collected = []
    corners = np.unique(np.stack((faces.ravel(), np.repeat(label, 3)), axis=1), axis=0)[:, 0]
    fork = np.bincount(corners, minlength=len(vertices)) > 2
    for number, which in enumerate(np.unique(label)):
        used, own = np.unique(faces[label == which], return_inverse=True)
        own = own.reshape(-1, 3)
        points = vertices[used]
        lids = [close_between(points, np.array(loop), fork[used]) for loop in boundary_loops(own)]
        whole = np.concatenate([own, *lids])
        parts.labels.append(int(which))
        parts.watertight.append(find_defects(whole).watertight)
        parts.volumes.append(float(piece_volumes(points, whole, np.zeros(len(whole), int))[0]))
        # A lid has its own corners: it faces another way than the surface around it.
        corners, lid = np.unique(np.concatenate(lids), return_inverse=True) if lids else (np.zeros(0, int), np.zeros(0, int))
        lid = lid.reshape(-1, 3)
        collected.append((points, normals[used], own, points[corners], lid_normals(points[corners], lid), lid, number))
    start, pieces = 0, {name: [] for name in ("vertices", "normals", "faces", "part", "caps")}
    for points, directions, own, rim, outward, lid, number in collected:
        pieces["vertices"] += [points, rim]
        pieces["normals"] += [directions, outward]
        pieces["faces"] += [own + start, lid + start + len(points)]
        pieces["part"].append(np.full(len(own) + len(lid), number))
        pieces["caps"].append(np.arange(len(own) + len(lid)) >= len(own))
        start += len(points) + len(rim)
    for name, arrays in pieces.items():
        setattr(parts, name, np.concatenate(arrays))
    return parts


def without_islands(vertices: Vertices, faces: Faces, shares: Float[np.ndarray, "N L"]) -> Float[np.ndarray, "N L"]:
    """Give small islands of a label to the label that most of their border touches; whole pieces of the surface stay."""
    shares = shares.copy()
    a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
    area = np.zeros(len(vertices))
    np.add.at(area, faces.ravel(), np.repeat(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6, 3))
    edges = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2]))
    for _ in range(ISLAND_ROUNDS):
        label = shares.argmax(1)
        inner = edges[label[edges[:, 0]] == label[edges[:, 1]]]
        graph = coo_matrix((np.ones(len(inner), bool), (inner[:, 0], inner[:, 1])), shape=(len(vertices),) * 2)
        count, island = connected_components(graph, directed=False)
        size = np.bincount(island, area, count)
        of_label = np.bincount(label, area, shares.shape[1])
        owner = np.zeros(count, int)
        owner[island] = label
        border = edges[label[edges[:, 0]] != label[edges[:, 1]]]
        border = np.concatenate((border, border[:, ::-1]))
        touching = np.zeros((count, shares.shape[1]))
        np.add.at(touching, (island[border[:, 0]], label[border[:, 1]]), 1)
        tiny = np.maximum(SMALLEST_ISLAND * of_label[owner], SMALLEST_PART * area.sum())
        small = (size < tiny) & (touching.sum(1) > 0)
        if not small.any():
            break
        flipped = np.flatnonzero(small[island])
        shares[flipped, touching.argmax(1)[island[flipped]]] = shares[flipped].max(1) + 0.1
    return shares


def cut(
    vertices: Vertices, normals: Vertices, faces: Faces, shares: Float[np.ndarray, "N L"]
) -> tuple[NewVertices, NewVertices, NewFaces, Int[np.ndarray, " G"]]:
    """Split the triangles whose corners have different labels where the two shares are equal; returns each face's label too."""
    label = shares.argmax(1)
    of_corner = label[faces]
    mixed = (of_corner != of_corner[:, :1]).any(1)
    plain, split = faces[~mixed], faces[mixed]
    if not len(split):
        return vertices, normals, faces, of_corner[:, 0]
    kinds = np.array([len(set(row)) for row in label[split].tolist()])
    edges = np.sort(np.concatenate((split[:, [0, 1]], split[:, [1, 2]], split[:, [2, 0]])), axis=1)
    edges = np.unique(edges[label[edges[:, 0]] != label[edges[:, 1]]], axis=0)
    u, v = edges.T
    at_u = shares[u, label[u]] - shares[u, label[v]]
    at_v = shares[v, label[v]] - shares[v, label[u]]
    place = np.clip(at_u / np.maximum(at_u + at_v, 1e-12), NEAREST_CUT, 1 - NEAREST_CUT)[:, None].astype(np.float32)
    code = {(int(s), int(e)): len(vertices) + i for i, (s, e) in enumerate(edges)}
    points = [vertices, vertices[u] + place * (vertices[v] - vertices[u])]
    directions = [normals, normals[u] + place * (normals[v] - normals[u])]
    count = len(vertices) + len(edges)
    new_faces, new_labels = [], []

    def between(s: int, e: int) -> int:
        return code[min(s, e), max(s, e)]

    for (i, j, k), kind in zip(split.tolist(), kinds.tolist(), strict=True):
        if kind == 3:
            ij, jk, ki = between(i, j), between(j, k), between(k, i)
            points.append(vertices[[i, j, k]].mean(0, keepdims=True))
            directions.append(normals[[i, j, k]].mean(0, keepdims=True))
            for corner, after, before in ((i, ij, ki), (j, jk, ij), (k, ki, jk)):
                new_faces += [(corner, after, count), (corner, count, before)]
                new_labels += [label[corner]] * 2
            count += 1
            continue
        while label[j] != label[k]:  # turn the triangle until its first corner is the one that stands alone
            i, j, k = j, k, i
        ij, ki = between(i, j), between(k, i)
        new_faces += [(i, ij, ki), (ij, j, k), (ij, k, ki)]
        new_labels += [label[i], label[j], label[j]]
    return (
        np.concatenate(points),
        unit(np.concatenate(directions)).astype(np.float32),
        np.concatenate((plain, np.array(new_faces, np.int64))),
        np.concatenate((label[plain[:, 0]], np.array(new_labels))),
    )


def close_between(points: Vertices, loop: Int[np.ndarray, " n"], fork: Bool[np.ndarray, " N"]) -> Faces:
    """Close each stretch of a loop between two points where three parts meet by a lid of its own: two parts share it."""
    ends = np.flatnonzero(fork[loop])
    if len(ends) < 2:
        return close(points, loop)
    around = np.roll(loop, -ends[0])
    stops = [*(ends - ends[0]), len(loop)]
    stretches = [np.append(around, around[0])[start : stop + 1] for start, stop in pairwise(stops)]
    return np.concatenate([close(points, outline) for outline in (*stretches, loop[ends]) if len(outline) > 2])


def close(points: Vertices, loop: Int[np.ndarray, " n"]) -> Faces:
    """Triangles over the corners of a loop, wound along it, of least total area; long loops get a fan from one corner.

    A loop and its reverse, as the two sides of a cut have it, get the same triangles, wound the other way.
    """
    first = np.lexsort(points[loop].T)[0]
    loop = np.roll(loop, -first)
    turned = bool(np.lexsort(points[loop[[1, -1]]].T)[0])
    loop = np.roll(loop[::-1], 1) if turned else loop
    triangles = least_area(points[loop].astype(np.float64))
    return loop[triangles[:, ::-1] if turned else triangles]


def least_area(p: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n-2 3"]:
    """Triangles over a polygon in space, as indices of its corners."""
    n = len(p)
    if n > LONGEST_LOOP:
        return np.stack((np.zeros(n - 2, np.int64), np.arange(1, n - 1), np.arange(2, n)), axis=1)
    cost, middle = np.zeros((n, n)), np.zeros((n, n), int)
    for gap in range(2, n):
        first = np.arange(n - gap)
        last = first + gap
        between = first[:, None] + np.arange(1, gap)
        area = np.linalg.norm(np.cross(p[between] - p[first][:, None], p[last][:, None] - p[first][:, None]), axis=2) / 2
        total = cost[first[:, None], between] + cost[between, last[:, None]] + area
        best = total.argmin(1)
        cost[first, last] = total[np.arange(len(first)), best]
        middle[first, last] = between[np.arange(len(first)), best]
    triangles, stack = [], [(0, n - 1)]
    while stack:
        first, last = stack.pop()
        if last - first >= 2:
            between = middle[first, last]
            triangles.append((first, between, last))
            stack += [(first, between), (between, last)]
    return np.array(triangles, np.int64)


def lid_normals(points: Vertices, faces: Faces) -> Vertices:
    """One direction for all of a lid: it is nearly flat, and nobody lights it by its wrinkles."""
    if not len(faces):
        return np.zeros((len(points), 3), np.float32)
    a, b, c = np.moveaxis(points[faces].astype(np.float64), 1, 0)
    total = np.zeros((len(points), 3))
    np.add.at(total, faces.ravel(), np.repeat(np.cross(b - a, c - a), 3, axis=0))
    return unit(total).astype(np.float32)
