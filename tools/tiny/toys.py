"""What every shape of the tiny world is made of: coloured parts in a unit frame, +x its front, +z up.

A shape fits into a sphere of radius 1 about the origin, less or more (`renderer.BOUND`). A part is a simple body: scaled by
`size`, tilted, then moved to `center`. The tone "body" takes the colour that the prompt names; eyes, wheels and doors have
tones of their own, which are nearly grey, so that hue alone still tells things apart. The one exception is the duck's beak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

TONES = {
    "black": (0.10, 0.10, 0.12),
    "dark": (0.30, 0.28, 0.29),
    "grey": (0.58, 0.59, 0.61),
    "white": (0.95, 0.95, 0.94),
    "cream": (0.92, 0.88, 0.81),
    "wood": (0.46, 0.375, 0.32),
    "glass": (0.76, 0.84, 0.89),
    "beak": (0.96, 0.60, 0.12),
}


@dataclass(frozen=True)
class Part:
    """One body of a shape.

    Attributes:
        kind: "sphere", "box", "cylinder", "cone", "dome", "cup", "wedge" or "torus", of half extent 1 in its own frame.
        center: where it stands in the shape's frame; size: its half extents along its own axes.
        tone: "body" or a key of `TONES`; tilt: degrees about x, then y, then z.
    """

    kind: str
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    tone: str = "body"
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def rotation(self) -> Tensor:
        """`[3, 3]`, from the part's axes to the shape's."""
        return _rotation(self.tilt)

    def reach(self) -> Tensor:
        """Half extents `[3]` along the shape's axes (for a cone, dome or wedge those of the cylinder or box around it)."""
        axes = self.rotation * torch.tensor(self.size)
        if self.kind in ("box", "wedge"):
            return axes.abs().sum(1)
        if self.kind == "sphere":
            return axes.norm(dim=1)
        return axes[:, :2].norm(dim=1) + axes[:, 2].abs()


@cache
def _rotation(tilt: tuple[float, float, float]) -> Tensor:
    rotation = torch.eye(3)
    for axis, degrees in enumerate(tilt):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        rotation = turn @ rotation
    return rotation


def _both(kind, center, size, tone="body", tilt=(0.0, 0.0, 0.0)) -> tuple[Part, Part]:
    """A part and its mirror image across y = 0."""
    (x, y, z), (a, b, c) = center, tilt
    return Part(kind, (x, y, z), size, tone, tilt), Part(kind, (x, -y, z), size, tone, (-a, b, -c))


def _legs(x_front: float, x_back: float, y: float, z: float, size, tone="body", kind="cylinder") -> tuple[Part, ...]:
    return (*_both(kind, (x_front, y, z), size, tone), *_both(kind, (x_back, y, z), size, tone))


def _face(x: float, y: float, z: float) -> tuple[Part, ...]:
    return _both("sphere", (x, y, z), (0.07, 0.095, 0.115), "black")


def _spots(places: tuple[tuple[float, float, float], ...]) -> tuple[Part, ...]:
    """Spots on the mushroom's cap: azimuth in radians, how far out (0..1), radius."""
    return tuple(
        Part("sphere", (0.66 * s * math.cos(a), 0.66 * s * math.sin(a), 0.57 * math.sqrt(1 - s * s) - 0.1), (r, r, r), "white")
        for a, s, r in places
    )


_DRAWN: dict[str, tuple[Part, ...]] = {
    "cat": (
        Part("sphere", (-0.15, 0.0, -0.12), (0.50, 0.29, 0.29)),
        *_legs(0.18, -0.42, 0.16, -0.42, (0.11, 0.11, 0.22)),
        Part("sphere", (0.40, 0.0, 0.27), (0.35, 0.39, 0.33)),
        *_both("cone", (0.38, 0.24, 0.62), (0.14, 0.15, 0.19), tilt=(-14.0, 0.0, 0.0)),
        *_face(0.69, 0.17, 0.33),
        Part("sphere", (0.68, 0.0, 0.15), (0.12, 0.17, 0.11), "white"),
        Part("sphere", (0.79, 0.0, 0.20), (0.04, 0.06, 0.04), "black"),
        Part("sphere", (-0.68, 0.0, 0.16), (0.08, 0.08, 0.40), tilt=(0.0, -22.0, 0.0)),
    ),
    "dog": (
        Part("sphere", (-0.12, 0.0, -0.10), (0.52, 0.28, 0.27)),
        *_legs(0.20, -0.42, 0.16, -0.42, (0.12, 0.12, 0.22)),
        Part("sphere", (0.38, 0.0, 0.28), (0.33, 0.33, 0.31)),
        Part("sphere", (0.68, 0.0, 0.17), (0.25, 0.17, 0.14), "cream"),
        Part("sphere", (0.90, 0.0, 0.24), (0.07, 0.09, 0.07), "black"),
        *_both("sphere", (0.30, 0.33, 0.20), (0.15, 0.07, 0.29), "dark", (14.0, 0.0, 0.0)),
        *_face(0.63, 0.14, 0.39),
        Part("sphere", (-0.66, 0.0, 0.12), (0.07, 0.07, 0.24), tilt=(0.0, -40.0, 0.0)),
    ),
    "rabbit": (
        Part("sphere", (-0.04, 0.0, -0.32), (0.35, 0.34, 0.37)),
        Part("sphere", (0.10, 0.0, 0.20), (0.33, 0.33, 0.29)),
        *_both("sphere", (0.02, 0.15, 0.69), (0.10, 0.12, 0.36), tilt=(-9.0, 0.0, 0.0)),
        *_both("sphere", (0.08, 0.15, 0.68), (0.07, 0.07, 0.27), "white", (-9.0, 0.0, 0.0)),
        *_face(0.37, 0.16, 0.26),
        Part("sphere", (0.38, 0.0, 0.11), (0.10, 0.14, 0.09), "white"),
        *_both("sphere", (0.24, 0.20, -0.62), (0.24, 0.13, 0.10)),
        Part("sphere", (-0.38, 0.0, -0.46), (0.15, 0.15, 0.15), "white"),
    ),
    "bear": (
        Part("sphere", (0.0, 0.0, -0.30), (0.38, 0.42, 0.42)),
        Part("sphere", (0.17, 0.0, -0.30), (0.27, 0.29, 0.30), "cream"),
        Part("sphere", (0.06, 0.0, 0.32), (0.37, 0.41, 0.35)),
        *_both("sphere", (0.0, 0.33, 0.62), (0.10, 0.16, 0.16)),
        Part("sphere", (0.38, 0.0, 0.23), (0.15, 0.19, 0.14), "cream"),
        Part("sphere", (0.51, 0.0, 0.30), (0.05, 0.08, 0.055), "black"),
        *_face(0.36, 0.17, 0.43),
        *_both("sphere", (0.16, 0.42, -0.16), (0.14, 0.14, 0.27), tilt=(24.0, -20.0, 0.0)),
        *_both("sphere", (0.34, 0.26, -0.60), (0.28, 0.16, 0.16)),
    ),
    "duck": (
        Part("sphere", (-0.06, 0.0, -0.25), (0.56, 0.41, 0.34)),
        Part("cone", (-0.56, 0.0, -0.02), (0.20, 0.24, 0.24), tilt=(0.0, -52.0, 0.0)),
        Part("sphere", (0.28, 0.0, 0.29), (0.33, 0.33, 0.31)),
        Part("sphere", (0.64, 0.0, 0.20), (0.22, 0.20, 0.075), "beak"),
        *_face(0.53, 0.17, 0.37),
        *_both("sphere", (-0.14, 0.38, -0.18), (0.32, 0.09, 0.19), tilt=(0.0, 14.0, 0.0)),
    ),
    "car": (
        Part("box", (0.0, 0.0, -0.12), (0.82, 0.40, 0.20)),
        Part("box", (-0.14, 0.0, 0.20), (0.42, 0.35, 0.16), "glass"),
        Part("box", (-0.14, 0.0, 0.38), (0.44, 0.37, 0.045)),
        *_legs(0.48, -0.50, 0.38, -0.32, (0.23, 0.23, 0.09), "dark", "wheel"),
        *_legs(0.48, -0.50, 0.46, -0.32, (0.10, 0.10, 0.03), "grey", "wheel"),
        *_both("sphere", (0.81, 0.25, -0.07), (0.05, 0.11, 0.10), "white"),
        Part("box", (0.81, 0.0, -0.26), (0.05, 0.36, 0.06), "grey"),
    ),
    "house": (
        Part("box", (0.0, 0.0, -0.25), (0.50, 0.52, 0.42)),
        Part("wedge", (0.0, 0.0, 0.45), (0.58, 0.64, 0.28), "dark"),
        Part("box", (0.50, 0.0, -0.40), (0.03, 0.14, 0.27), "wood"),
        *_both("box", (0.50, 0.34, -0.16), (0.02, 0.11, 0.13), "glass"),
        *_both("box", (0.0, 0.52, -0.18), (0.14, 0.02, 0.14), "glass"),
        Part("box", (-0.26, 0.26, 0.56), (0.09, 0.09, 0.22), "grey"),
    ),
    "robot": (
        Part("box", (0.0, 0.0, -0.20), (0.26, 0.34, 0.32)),
        Part("cylinder", (0.0, 0.0, 0.15), (0.10, 0.10, 0.06), "grey"),
        Part("box", (0.0, 0.0, 0.42), (0.26, 0.32, 0.24)),
        *_both("cylinder", (0.26, 0.14, 0.48), (0.11, 0.11, 0.03), "white", (0.0, 90.0, 0.0)),
        *_both("cylinder", (0.28, 0.14, 0.48), (0.06, 0.06, 0.03), "black", (0.0, 90.0, 0.0)),
        Part("box", (0.26, 0.0, 0.28), (0.02, 0.16, 0.03), "black"),
        Part("cylinder", (0.0, 0.0, 0.73), (0.03, 0.03, 0.09), "grey"),
        Part("sphere", (0.0, 0.0, 0.84), (0.08, 0.08, 0.08), "grey"),
        *_both("box", (0.0, 0.45, -0.18), (0.10, 0.08, 0.27), "grey"),
        *_both("box", (0.02, 0.17, -0.64), (0.16, 0.12, 0.13), "dark"),
        Part("box", (0.26, 0.0, -0.14), (0.02, 0.18, 0.12), "glass"),
    ),
    "mug": (
        Part("cup", (-0.12, 0.0, 0.0), (0.54, 0.54, 0.58)),
        Part("cylinder", (-0.12, 0.0, 0.34), (0.455, 0.455, 0.04), "wood"),
        Part("torus", (0.52, 0.0, 0.0), (0.38, 0.38, 0.38), tilt=(90.0, 0.0, 0.0)),
    ),
    "chair": (
        Part("box", (0.0, 0.0, -0.10), (0.40, 0.40, 0.07)),
        Part("box", (-0.34, 0.0, 0.42), (0.06, 0.40, 0.46)),
        *_legs(0.32, -0.32, 0.32, -0.50, (0.065, 0.065, 0.34), "wood"),
    ),
    "table": (
        Part("box", (0.0, 0.0, 0.38), (0.78, 0.55, 0.085)),
        *_legs(0.64, -0.64, 0.42, -0.10, (0.08, 0.08, 0.40), "wood", "box"),
    ),
    "tree": (
        Part("cylinder", (0.0, 0.0, -0.68), (0.15, 0.15, 0.24), "wood"),
        Part("cone", (0.0, 0.0, -0.20), (0.60, 0.60, 0.32)),
        Part("cone", (0.0, 0.0, 0.18), (0.48, 0.48, 0.30)),
        Part("cone", (0.0, 0.0, 0.54), (0.35, 0.35, 0.28)),
    ),
    "mushroom": (
        Part("cylinder", (0.0, 0.0, -0.42), (0.23, 0.23, 0.38), "cream"),
        Part("dome", (0.0, 0.0, -0.10), (0.72, 0.72, 0.62)),
        Part("sphere", (0.0, 0.0, 0.47), (0.17, 0.17, 0.17), "white"),
        *_spots(((0.2, 0.8, 0.15), (1.5, 0.72, 0.13), (2.7, 0.82, 0.15), (3.9, 0.70, 0.13), (5.1, 0.80, 0.15))),
    ),
    "rocket": (
        Part("cylinder", (0.0, 0.0, -0.08), (0.28, 0.28, 0.48)),
        Part("cone", (0.0, 0.0, 0.66), (0.28, 0.28, 0.26), "grey"),
        *(Part("box", (0.34 * math.cos(a), 0.34 * math.sin(a), -0.46), (0.17, 0.045, 0.20), "dark", (0.0, 0.0, math.degrees(a)))
          for a in (math.pi / 3, math.pi, 5 * math.pi / 3)),
        Part("cylinder", (0.0, 0.0, -0.62), (0.16, 0.16, 0.08), "dark"),
        Part("sphere", (0.25, 0.0, 0.16), (0.06, 0.15, 0.15), "glass"),
    ),
}  # fmt: skip


def _normalised(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Moved and scaled so that the box around it is centred on the origin and its longest half diagonal in any plane is 1."""
    parts = tuple(Part("cylinder", p.center, p.size, p.tone, (90.0, 0.0, 0.0)) if p.kind == "wheel" else p for p in parts)
    low = torch.stack([torch.tensor(p.center) - p.reach() for p in parts]).amin(0)
    high = torch.stack([torch.tensor(p.center) + p.reach() for p in parts]).amax(0)
    middle, half = (low + high) / 2, (high - low) / 2
    scale = float(1 / torch.hypot(half[:2].amax(), half[2]))
    return tuple(
        Part(
            p.kind,
            tuple(scale * (c - m) for c, m in zip(p.center, middle.tolist(), strict=True)),
            tuple(scale * s for s in p.size),
            p.tone,
            p.tilt,
        )
        for p in parts
    )


TOYS = tuple(_DRAWN)
ANIMALS = ("cat", "dog", "rabbit", "bear", "duck")
FRONTED = (*ANIMALS, "car", "house", "robot")  # whose front is unlike its back from any height
SOLIDS = ("cube", "sphere", "cylinder", "cone", "torus")
PARTS: dict[str, tuple[Part, ...]] = {
    "cube": (Part("box", (0.0, 0.0, 0.0), (0.76, 0.76, 0.76)),),
    "sphere": (Part("sphere", (0.0, 0.0, 0.0), (0.9, 0.9, 0.9)),),
    "cylinder": (Part("cylinder", (0.0, 0.0, 0.0), (0.62, 0.62, 0.95)),),
    "cone": (Part("cone", (0.0, 0.0, 0.0), (0.86, 0.86, 0.92)),),
    "torus": (Part("torus", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),),
    **{name: _normalised(parts) for name, parts in _DRAWN.items()},
}


@cache
def extent(shape: str) -> tuple[float, float]:
    """Half height and radius about the vertical axis, at radius 1."""
    if shape == "torus":
        return 0.3, 1.0
    parts = PARTS[shape]
    height = max(abs(p.center[2]) + float(p.reach()[2]) for p in parts)
    radius = 0.0
    for part in parts:
        (x, y, _), (rx, ry, _) = part.center, part.reach().tolist()
        corner = math.hypot(abs(x) + rx, abs(y) + ry) if part.kind in ("box", "wedge") else math.hypot(x, y) + max(rx, ry)
        radius = max(radius, corner)
    return height, radius
