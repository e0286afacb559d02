"""An analytic ray tracer for coloured solids: exact hits, Lambert shading fixed in the world, plain backgrounds.

Shading does not depend on the view, so four views of a scene are exactly consistent and a NeRF without view dependence can
match them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gd_core.cameras import Cameras

from .scenes import COLORS, Solid

LIGHT = torch.nn.functional.normalize(torch.tensor([0.45, -0.35, 0.82]), dim=0)
AMBIENT, DIFFUSE = 0.58, 0.46
MISS = 1e9
BOUND = 1.35  # every solid of radius 1 lies within it


def render(
    solids: Sequence[Solid],
    cameras: Cameras,
    size: int = 64,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> tuple[Tensor, Tensor]:
    """Images `[V, size, size, 3]` in 0..1 and each solid's visible coverage `[V, n, size, size]` in 0..1."""
    fine = size * supersample
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays(fine, fine))
    nearest = torch.full((len(origins),), MISS)
    image = torch.tensor(background, dtype=torch.float32).repeat(len(origins), 1)
    owner = torch.full((len(origins),), -1, dtype=torch.int8)
    for index, solid in enumerate(solids):
        local_origin = origins - torch.tensor(solid.center)
        along = (local_origin * directions).sum(1)
        closest = (local_origin * local_origin).sum(1) - along**2
        near = (closest < (BOUND * solid.radius) ** 2).nonzero()[:, 0]
        cosine, sine = math.cos(solid.yaw), math.sin(solid.yaw)
        to_local = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        o, d = local_origin[near] @ to_local / solid.radius, directions[near] @ to_local
        t, normal = _INTERSECT[solid.shape](o, d)
        hit = (t < MISS / 2) & (t * solid.radius < nearest[near])
        where = near[hit]
        nearest[where] = t[hit] * solid.radius
        owner[where] = index
        lambert = (normal[hit] @ to_local.T @ LIGHT).clamp(min=0)
        image[where] = torch.tensor(COLORS[solid.color]) * (AMBIENT + DIFFUSE * lambert)[:, None]
    views = len(cameras)
    image = image.clamp(0, 1).reshape(views, size, supersample, size, supersample, 3).mean((2, 4))
    owner = owner.reshape(views, size, supersample, size, supersample)
    coverage = torch.stack([(owner == i).float().mean((2, 4)) for i in range(len(solids))], dim=1)
    return image, coverage


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots of a t^2 + 2 b t + c, MISS where there is none."""
    disc = b * b - a * c
    root = disc.clamp(min=0).sqrt()
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    miss = disc < 0
    t0, t1 = (-b - root) / a, (-b + root) / a
    return torch.where(miss, MISS, torch.minimum(t0, t1)), torch.where(miss, MISS, torch.maximum(t0, t1))


def _first(candidates: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Nearest of (t, valid, normal) candidates."""
    times = torch.stack([torch.where(valid & (t > 0), t, MISS) for t, valid, _ in candidates])
    best, which = times.min(0)
    normals = torch.stack([n for *_, n in candidates])
    return best, normals[which, torch.arange(len(which))]


def _sphere(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    t, _ = _roots(torch.ones(len(o)), (o * d).sum(1), (o * o).sum(1) - 0.9**2)
    return t, (o + t[:, None] * d) / 0.9


def _cube(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    near, far = (-0.76 * inverse.sign() - o) * inverse, (0.76 * inverse.sign() - o) * inverse
    t, axis = near.max(1)
    normal = -torch.nn.functional.one_hot(axis, 3) * d.sign()
    return torch.where((t < far.min(1).values) & (t > 0), t, MISS), normal


def _cap(o: Tensor, d: Tensor, z: float, radius: float, up: float) -> tuple[Tensor, Tensor, Tensor]:
    t = (z - o[:, 2]) / torch.where(d[:, 2].abs() < 1e-9, torch.full_like(d[:, 2], 1e-9), d[:, 2])
    p = o + t[:, None] * d
    return t, p[:, :2].norm(dim=1) <= radius, torch.tensor([0.0, 0.0, up]).expand_as(p)


def _cylinder(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    radius, half = 0.62, 0.95
    t, _ = _roots((d[:, :2] ** 2).sum(1), (o[:, :2] * d[:, :2]).sum(1), (o[:, :2] ** 2).sum(1) - radius**2)
    p = o + t.clamp(max=1e4)[:, None] * d
    side = (t, p[:, 2].abs() <= half, torch.cat((p[:, :2] / radius, torch.zeros(len(p), 1)), 1))
    return _first([side, _cap(o, d, half, radius, 1.0), _cap(o, d, -half, radius, -1.0)])


def _cone(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    radius, top, bottom = 0.86, 0.92, -0.92
    slope = radius / (top - bottom)
    height = top - o[:, 2]
    a = (d[:, :2] ** 2).sum(1) - (slope * d[:, 2]) ** 2
    b = (o[:, :2] * d[:, :2]).sum(1) + slope**2 * height * d[:, 2]
    c = (o[:, :2] ** 2).sum(1) - (slope * height) ** 2
    sides = []
    for t in _roots(a, b, c):
        p = o + t.clamp(-1e4, 1e4)[:, None] * d
        out = torch.nn.functional.normalize(p[:, :2], dim=1)
        normal = torch.nn.functional.normalize(torch.cat((out, torch.full((len(p), 1), slope)), 1), dim=1)
        sides.append((t, (p[:, 2] <= top) & (p[:, 2] >= bottom), normal))
    return _first([*sides, _cap(o, d, bottom, radius, -1.0)])


def _torus(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    major, minor = 0.7, 0.3
    t = (-(o * d).sum(1) - BOUND).clamp(min=0)
    distance = torch.full_like(t, 1.0)
    for _ in range(40):
        p = o + t[:, None] * d
        distance = torch.hypot(p[:, :2].norm(dim=1) - major, p[:, 2]) - minor
        t = t + distance
    p = o + t[:, None] * d
    ring = torch.nn.functional.normalize(p[:, :2], dim=1) * major
    normal = torch.nn.functional.normalize(p - torch.cat((ring, torch.zeros(len(p), 1)), 1), dim=1)
    return torch.where(distance.abs() < 5e-3, t, MISS), normal


_INTERSECT = {"sphere": _sphere, "cube": _cube, "cylinder": _cylinder, "cone": _cone, "torus": _torus}
