"""An analytic ray tracer for the tiny world's things: exact hits, Lambert shading fixed in the world, plain backgrounds.

Shading does not depend on the view, so four views of a scene are exactly consistent and a NeRF without view dependence can
match them. Rays are kept as three planes of numbers a view, and each part is met only by the rays of the square around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gd_core.cameras import Cameras

from .scenes import COLORS, Solid
from .toys import PARTS, TONES, Part

LIGHT = torch.nn.functional.normalize(torch.tensor([0.45, -0.35, 0.82]), dim=0)
AMBIENT, DIFFUSE = 0.58, 0.46
MISS = 1e9
BOUND = 1.35  # every shape of radius 1 lies within it
Plane = np.ndarray  # [rows, columns] float32, one number a ray
Vector = tuple[Plane, Plane, Plane]  # where all rays share a number it may be a float


def render(
    solids: Sequence[Solid],
    cameras: Cameras,
    size: int = 64,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> tuple[Tensor, Tensor]:
    """Images `[V, size, size, 3]` in 0..1 and each thing's visible coverage `[V, n, size, size]` in 0..1."""
    fine, views = size * supersample, len(cameras)
    palette, whose, bodies = [np.array(background, np.float32)], [-1], []
    for index, solid in enumerate(solids):
        for part in PARTS[solid.shape]:
            bodies.append((part, *placed(part, solid)))
            palette.append(np.array(COLORS[solid.color] if part.tone == "body" else TONES[part.tone], np.float32))
            whose.append(index)
    shade = np.ones((views, fine, fine), np.float32)
    which = np.zeros((views, fine, fine), np.uint8)
    for view in range(views):
        _trace(bodies, cameras.c2w[view].double().numpy(), float(cameras.fov_y_deg[view]), shade[view], which[view])
    pixels = np.minimum(np.stack(palette)[which] * shade[..., None], 1)
    owner = np.array(whose, np.int8)[which]
    coverage = [_pool((owner == i).astype(np.float32), supersample) for i in range(len(solids))]
    return torch.from_numpy(_pool(pixels, supersample)), torch.from_numpy(np.stack(coverage, 1))


def _pool(fine: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of `factor` x `factor` in axes 1 and 2."""
    return sum(fine[:, i::factor, j::factor] for i in range(factor) for j in range(factor)) / factor**2


def placed(part: Part, solid: Solid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A part's centre `[3]`, rotation `[3, 3]` (its axes to the world's) and half extents `[3]`, in world units."""
    cosine, sine = math.cos(solid.yaw), math.sin(solid.yaw)
    upright = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    center = np.array(solid.center) + solid.radius * upright @ np.array(part.center)
    return center, upright @ part.rotation.double().numpy(), solid.radius * np.array(part.size)


def _trace(bodies: Sequence[tuple], c2w: np.ndarray, fov_y_deg: float, shade: Plane, which: np.ndarray) -> None:
    """Fill one view: `shade` with each ray's brightness, `which` with 1 + the index of the part it meets (0: none).

    A ray is parametrised by its depth along the camera's axis, so depths of different parts compare.
    """
    size = len(shade)
    tangent = math.tan(math.radians(fov_y_deg) / 2)
    steps = (((np.arange(size) + 0.5) / size * 2 - 1) * tangent).astype(np.float32)
    light = LIGHT.double().numpy()
    nearest = np.full_like(shade, MISS)
    for index, (part, center, rotation, scale) in enumerate(bodies):
        in_camera = c2w[:3, :3].T @ (center - c2w[:3, 3])
        square = _square(in_camera * (1, -1, -1), _ball(part.kind, scale), tangent, size)
        if square is None:
            continue
        rows, columns = square
        to_part = (rotation / scale).T
        across, up, back = (to_part @ c2w[:3, :3]).T.astype(np.float32)
        o = tuple(float(v) for v in to_part @ (c2w[:3, 3] - center))
        d = tuple(steps[columns][None] * across[i] - steps[rows][:, None] * up[i] - back[i] for i in range(3))
        t, normal = _INTERSECT[part.kind](o, d)
        hit = t < nearest[rows, columns]
        lit = to_part @ light
        length = np.sqrt(sum((n / float(s)) ** 2 for n, s in zip(normal, scale, strict=True)))
        lambert = sum(n * float(w) for n, w in zip(normal, lit, strict=True)) / np.maximum(length, 1e-9)
        np.copyto(nearest[rows, columns], t, where=hit)
        np.copyto(shade[rows, columns], AMBIENT + DIFFUSE * np.maximum(lambert, 0), where=hit, casting="same_kind")
        which[rows, columns][hit] = index + 1


def _ball(kind: str, scale: np.ndarray) -> float:
    """Radius of the sphere about a part's centre that holds it."""
    x, y, z = scale
    if kind == "sphere":
        return max(scale)
    return math.hypot(x, y, z) if kind in ("box", "wedge") else math.hypot(max(x, y), z)


def _square(middle: np.ndarray, radius: float, tangent: float, size: int) -> tuple[slice, slice] | None:
    """Rows and columns of the rays that may meet a sphere; `middle` is right, down and forward of the camera."""
    x, y, depth = middle
    if depth <= 1.5 * radius:
        return slice(0, size), slice(0, size)
    bounds = []
    for offset in (y, x):
        # Seen from the camera the sphere spans the angles theta +- alpha in the plane of this axis.
        theta, alpha = math.atan2(offset, depth), math.asin(min(1.0, radius / math.hypot(offset, depth)))
        low, high = (math.tan(theta - alpha) / tangent + 1) * size / 2, (math.tan(theta + alpha) / tangent + 1) * size / 2
        bounds.append((max(0, math.floor(low)), min(size, math.ceil(high))))
    (top, bottom), (left, right) = bounds
    return (slice(top, bottom), slice(left, right)) if bottom > top and right > left else None


def _safe(x: Plane) -> Plane:
    return np.where(np.abs(x) < 1e-9, np.float32(1e-9), x)


def _along(o: Vector, d: Vector, t: Plane) -> Vector:
    t = t.clip(-1e4, 1e4)
    return tuple(a + t * b for a, b in zip(o, d, strict=True))


def _roots(a: Plane, b: Plane, c: float | Plane) -> tuple[Plane, Plane]:
    """Both roots of a t^2 + 2 b t + c, MISS where there is none."""
    disc = b * b - a * c
    root, a = np.sqrt(np.maximum(disc, 0)), _safe(a)
    t0, t1 = (-b - root) / a, (-b + root) / a
    return np.where(disc < 0, MISS, np.minimum(t0, t1)), np.where(disc < 0, MISS, np.maximum(t0, t1))


def _first(candidates: list[tuple[Plane, Plane, Vector]]) -> tuple[Plane, Vector]:
    """Nearest of (t, valid, normal) candidates."""
    (best, valid, normal), *others = candidates
    best = np.where(valid & (best > 0), best, MISS)
    for t, valid, other in others:
        t = np.where(valid & (t > 0), t, MISS)
        nearer = t < best
        best = np.minimum(t, best)
        normal = tuple(np.where(nearer, n, m) for n, m in zip(other, normal, strict=True))
    return best, normal


def _sphere(o: Vector, d: Vector) -> tuple[Plane, Vector]:
    a, b = sum(x * x for x in d), sum(x * y for x, y in zip(o, d, strict=True))
    t, _ = _roots(a, b, sum(x * x for x in o) - 1)
    return np.where(t > 0, t, MISS), _along(o, d, t)


def _planes(planes: Sequence[tuple[float, float, float, float]]) -> Callable:
    """The intersector of the convex body of all points p with n . p <= limit for every (*n, limit)."""

    def intersect(o: Vector, d: Vector) -> tuple[Plane, Vector]:
        near, far = np.full(np.shape(d[0]), -MISS, np.float32), np.full(np.shape(d[0]), MISS, np.float32)
        normal = tuple(np.zeros_like(near) for _ in range(3))
        for *n, limit in planes:
            along = _safe(sum(x * w for x, w in zip(d, n, strict=True) if w))
            t = (limit - sum(x * w for x, w in zip(o, n, strict=True))) / along
            enters = (along < 0) & (t > near)
            near = np.where(enters, t, near)
            for plane, value in zip(normal, n, strict=True):
                plane[enters] = value
            far = np.where(along > 0, np.minimum(t, far), far)
        return np.where((near < far) & (near > 0), near, MISS), normal

    return intersect


def _cap(o: Vector, d: Vector, z: float, up: float, radius: float = 1.0, hole: float = 0.0) -> tuple[Plane, Plane, Vector]:
    t = ((z - o[2]) / _safe(d[2])).clip(-1e4, 1e4)
    r2 = (o[0] + t * d[0]) ** 2 + (o[1] + t * d[1]) ** 2
    return t, (r2 <= radius**2) & (r2 >= hole**2), (0.0, 0.0, up)


def _side(o: Vector, d: Vector, radius: float, bottom: float, far: bool = False) -> tuple[Plane, Plane, Vector]:
    """A cylinder's wall between `bottom` and 1, seen from outside, or with `far` from inside."""
    a, b, c = d[0] ** 2 + d[1] ** 2, o[0] * d[0] + o[1] * d[1], o[0] ** 2 + o[1] ** 2 - radius**2
    t = _roots(a, b, c)[int(far)]
    x, y, z = _along(o, d, t)
    sign = -1 if far else 1
    return t, (z >= bottom) & (z <= 1), (sign * x, sign * y, 0.0)


def _cylinder(o: Vector, d: Vector) -> tuple[Plane, Vector]:
    return _first([_side(o, d, 1.0, -1.0), _cap(o, d, 1.0, 1.0), _cap(o, d, -1.0, -1.0)])


def _cup(o: Vector, d: Vector) -> tuple[Plane, Vector]:
    """A cylinder that is open above, with a wall of 0.16 and a floor of 0.25."""
    inner, floor = 0.84, -0.75
    walls = [_side(o, d, 1.0, -1.0), _side(o, d, inner, floor, far=True)]
    caps = [_cap(o, d, 1.0, 1.0, hole=inner), _cap(o, d, floor, 1.0, radius=inner), _cap(o, d, -1.0, -1.0)]
    return _first(walls + caps)


def _dome(o: Vector, d: Vector) -> tuple[Plane, Vector]:
    """The upper half of a sphere, closed below."""
    t, normal = _sphere(o, d)
    return _first([(t, normal[2] >= 0, normal), _cap(o, d, 0.0, -1.0)])


def _cone(o: Vector, d: Vector) -> tuple[Plane, Vector]:
    slope = 0.5  # radius 1 over a height of 2
    height = 1 - o[2]
    a = d[0] ** 2 + d[1] ** 2 - (slope * d[2]) ** 2
    b = o[0] * d[0] + o[1] * d[1] + slope**2 * height * d[2]
    c = o[0] ** 2 + o[1] ** 2 - (slope * height) ** 2
    sides = []
    for t in _roots(a, b, c):
        x, y, z = _along(o, d, t)
        sides.append((t, (z <= 1) & (z >= -1), (x, y, slope * np.hypot(x, y))))
    return _first([*sides, _cap(o, d, -1.0, -1.0)])


def _torus(o: Vector, d: Vector) -> tuple[Plane, Vector]:
    """A ring of major radius 0.7 and minor radius 0.3, by sphere tracing (its size must be the same along all axes)."""
    major, minor = 0.7, 0.3
    length = np.sqrt(sum(x * x for x in d))
    d = tuple(x / length for x in d)
    t = np.maximum(-sum(x * y for x, y in zip(o, d, strict=True)) - BOUND, 0)
    for _ in range(40):
        x, y, z = _along(o, d, t)
        distance = np.sqrt((np.sqrt(x * x + y * y) - major) ** 2 + z * z) - minor
        t = t + distance
    x, y, z = _along(o, d, t)
    flat = major / np.maximum(np.hypot(x, y), 1e-9)
    return np.where(np.abs(distance) < 5e-3, t / length, MISS), (x - x * flat, y - y * flat, z)


_INTERSECT = {
    "sphere": _sphere,
    "box": _planes([(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, 0, 1), (0, -1, 0, 1), (0, 0, 1, 1), (0, 0, -1, 1)]),
    "wedge": _planes([(1, 0, 0, 1), (-1, 0, 0, 1), (0, 0, -1, 1), (0, 2, 1, 1), (0, -2, 1, 1)]),
    "cylinder": _cylinder,
    "cup": _cup,
    "dome": _dome,
    "cone": _cone,
    "torus": _torus,
}
