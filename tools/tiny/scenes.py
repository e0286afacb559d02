"""Scenes of coloured solids and the prompts that name them: the tiny model's whole world.

A scene is one to three solids around the origin. Training never sees the colour-shape pairs in `HELD_OUT_PAIRS` nor any scene
of three; both are what a compositional model has to earn.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

COLORS = {  # hue in degrees; saturation and value stay high so that colour alone tells solids apart
    "red": (0.86, 0.10, 0.12),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.94, 0.88, 0.12),
    "green": (0.15, 0.66, 0.20),
    "cyan": (0.15, 0.80, 0.84),
    "blue": (0.13, 0.26, 0.88),
    "purple": (0.52, 0.16, 0.80),
    "pink": (0.95, 0.42, 0.72),
}
SHAPES = ("cube", "sphere", "cylinder", "cone", "torus")
SYNONYMS = {"cube": ("cube", "cube", "box"), "sphere": ("sphere", "sphere", "ball"), "torus": ("torus", "torus", "ring")}
SIZES = {"small": (0.74, 0.82), "big": (1.12, 1.22), "": (0.9, 1.08)}
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
RELATIONS = {"beside": ("next to", "beside", "near", "and", "with"), "on top of": ("on top of", "on")}
HELD_OUT_PAIRS = frozenset(
    {("red", "torus"), ("orange", "cone"), ("yellow", "cylinder"), ("green", "sphere"),
     ("cyan", "cube"), ("blue", "cone"), ("purple", "cube"), ("pink", "sphere")}
)  # fmt: skip
NOUN_TO_SHAPE = {word: shape for shape in SHAPES for word in (*SYNONYMS.get(shape, (shape,)), shape)}
VOCABULARY = sorted(
    {*COLORS, *NOUN_TO_SHAPE, *(w for words in SIZE_WORDS.values() for w in words)}
    | {w for phrases in RELATIONS.values() for phrase in phrases for w in phrase.split()}
    | {"a", "an", "the", "one", "toy", "plastic", "photo", "render", "of", "3d", "asset", ",", "."}
)


@dataclass(frozen=True)
class Solid:
    """One solid, standing upright.

    Attributes:
        shape: one of `SHAPES`; color: a key of `COLORS`; size: "small", "big" or "" (unsaid).
        radius: half its extent, world units; center: world units; yaw: radians about z.
    """

    shape: str
    color: str
    size: str
    radius: float
    center: tuple[float, float, float]
    yaw: float

    @property
    def half_height(self) -> float:
        return self.radius * {"cube": 0.76, "sphere": 0.9, "cylinder": 0.95, "cone": 0.92, "torus": 0.3}[self.shape]

    @property
    def footprint(self) -> float:
        """Radius of the upright cylinder that holds it."""
        share = {"cube": 0.76 * math.sqrt(2), "sphere": 0.9, "cylinder": 0.62, "cone": 0.86, "torus": 1.0}
        return self.radius * share[self.shape]


@dataclass(frozen=True)
class Scene:
    """Solids in the order in which the prompt names them, and the prompt (without any suffix)."""

    solids: tuple[Solid, ...]
    prompt: str
    relation: str = ""


def seen_pairs() -> list[tuple[str, str]]:
    return [(c, s) for c in COLORS for s in SHAPES if (c, s) not in HELD_OUT_PAIRS]


def random_scene(rng: random.Random, count: int, held_out: bool = False, relation: str | None = None) -> Scene:
    """A scene of `count` solids (1 to 3) of different colours; with `held_out` every colour-shape pair is a held-out one."""
    pairs = sorted(HELD_OUT_PAIRS) if held_out else seen_pairs()
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        pair = rng.choice(pairs)
        if all(pair[0] != c for c, _ in chosen):
            chosen.append(pair)
    if relation is None:
        relation = "" if count == 1 else ("on top of" if count == 2 and rng.random() < 0.2 else "beside")
    sizes = [rng.choice(("small", "big")) if rng.random() < 0.25 else "" for _ in chosen]
    base = {1: 0.62, 2: 0.42, 3: 0.34}[count]
    solids = []
    for (color, shape), size in zip(chosen, sizes, strict=True):
        radius = base * rng.uniform(*SIZES[size])
        yaw = rng.uniform(0, 2 * math.pi)
        solids.append(Solid(shape, color, size, radius, (0.0, 0.0, 0.0), yaw))
    solids = _arrange(rng, solids, relation)
    return Scene(tuple(solids), _prompt(rng, solids, relation), relation)


def _arrange(rng: random.Random, solids: list[Solid], relation: str) -> list[Solid]:
    if len(solids) == 1:
        centers = [(0.0, 0.0, 0.0)]
    elif relation == "on top of":
        top, bottom = solids
        middle = bottom.half_height - top.half_height  # puts the stack's centre at z = 0
        centers = [(0.0, 0.0, middle + top.half_height), (0.0, 0.0, middle - bottom.half_height)]
    else:
        angle, gap = rng.uniform(0, 2 * math.pi), rng.uniform(0.04, 0.16)
        if len(solids) == 2:
            distance = solids[0].footprint + solids[1].footprint + gap
            radii = [distance / 2] * 2
        else:
            widest = max(a.footprint + b.footprint for a in solids for b in solids if a is not b)
            radii = [(widest + gap) / math.sqrt(3)] * 3
        floor = -max(s.half_height for s in solids)
        angles = [angle + 2 * math.pi * i / len(solids) for i in range(len(solids))]
        centers = [
            (r * math.cos(a), r * math.sin(a), floor + s.half_height) for s, r, a in zip(solids, radii, angles, strict=True)
        ]
    return [Solid(s.shape, s.color, s.size, s.radius, c, s.yaw) for s, c in zip(solids, centers, strict=True)]


def _prompt(rng: random.Random, solids: list[Solid], relation: str) -> str:
    phrases = [_noun_phrase(rng, s) for s in solids]
    if len(phrases) == 1:
        text = phrases[0]
    elif relation == "on top of":
        text = f"{phrases[0]} {rng.choice(RELATIONS[relation])} {phrases[1]}"
    elif len(phrases) == 2:
        text = f"{phrases[0]} {rng.choice(RELATIONS['beside'])} {phrases[1]}"
    else:
        text = f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    return rng.choice(("{}", "{}", "{}", "a photo of {}", "a render of {}", "{} .")).format(text)


def _noun_phrase(rng: random.Random, solid: Solid) -> str:
    words = [rng.choice(("a", "a", "a", "one", "the"))]
    if solid.size:
        words.append(rng.choice(SIZE_WORDS[solid.size]))
    words.append(solid.color)
    if rng.random() < 0.1:
        words.append(rng.choice(("toy", "plastic")))
    words.append(rng.choice(SYNONYMS.get(solid.shape, (solid.shape,))))
    if words[0] == "a" and words[1][0] in "aeiou":
        words[0] = "an"
    return " ".join(words)
