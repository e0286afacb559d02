"""Scenes of coloured solids and toys and the prompts that name them: the tiny model's whole world.

A scene is one to three things around the origin: solids, toys or both. Training never sees the colour-shape pairs in
`HELD_OUT_PAIRS` nor any scene of three; both are what a compositional model has to earn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .toys import SOLIDS, TOYS, extent

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
SHAPES = (*SOLIDS, *TOYS)
SYNONYMS = {
    "cube": ("cube", "cube", "box"),
    "sphere": ("sphere", "sphere", "ball"),
    "torus": ("torus", "torus", "ring"),
    "rabbit": ("rabbit", "rabbit", "bunny"),
    "mug": ("mug", "mug", "cup"),
}
WORLDS = ("solids", "toys", "mixed")  # "mixed": solids and toys in one scene
STANDS = ("cube", "cylinder", "table")  # what toys and solids may be put on when there are toys
PUT_ON = ("sphere", "cube", "cone", "cat", "dog", "rabbit", "bear", "duck", "robot", "mug", "mushroom")
SIZES = {"small": (0.74, 0.82), "big": (1.12, 1.22), "": (0.9, 1.08)}
BASE_RADIUS = {1: 0.62, 2: 0.42, 3: 0.34}  # by the number of things, world units
TOY_RADIUS = {1: 0.88, 2: 0.56, 3: 0.44}
FRAME = 0.97  # half of what the default cameras see at the origin, less some
FACING_SHARE = 0.5  # of the toys face the default orbit's first camera, less or more
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
RELATIONS = {"beside": ("next to", "beside", "near", "and", "with"), "on top of": ("on top of", "on")}
HELD_OUT_PAIRS = frozenset(
    {("red", "torus"), ("orange", "cone"), ("yellow", "cylinder"), ("green", "sphere"),
     ("cyan", "cube"), ("blue", "cone"), ("purple", "cube"), ("pink", "sphere"),
     ("red", "cat"), ("green", "dog"), ("orange", "rabbit"), ("cyan", "bear"), ("blue", "duck"),
     ("purple", "car"), ("pink", "house"), ("yellow", "robot"), ("red", "mug"), ("green", "chair"),
     ("orange", "table"), ("cyan", "tree"), ("blue", "mushroom"), ("purple", "rocket")}
)  # fmt: skip
NOUN_TO_SHAPE = {word: shape for shape in SHAPES for word in (*SYNONYMS.get(shape, (shape,)), shape)}
VOCABULARY = sorted(
    {*COLORS, *NOUN_TO_SHAPE, *(w for words in SIZE_WORDS.values() for w in words)}
    | {w for phrases in RELATIONS.values() for phrase in phrases for w in phrase.split()}
    | {"a", "an", "the", "one", "toy", "plastic", "photo", "render", "of", "3d", "asset", ",", "."}
)


@dataclass(frozen=True)
class Solid:
    """One solid or toy, standing upright.

    Attributes:
        shape: one of `SHAPES`; color: a key of `COLORS`; size: "small", "big" or "" (unsaid).
        radius: half its extent, world units; center: world units.
        yaw: radians about z; at 0 its front faces azimuth 90, the default orbit's first camera.
    """

    shape: str
    color: str
    size: str
    radius: float
    center: tuple[float, float, float]
    yaw: float

    @property
    def half_height(self) -> float:
        return self.radius * extent(self.shape)[0]

    @property
    def footprint(self) -> float:
        """Radius of the upright cylinder that holds it."""
        return self.radius * extent(self.shape)[1]


@dataclass(frozen=True)
class Scene:
    """Solids in the order in which the prompt names them, and the prompt (without any suffix)."""

    solids: tuple[Solid, ...]
    prompt: str
    relation: str = ""


def seen_pairs(shapes: tuple[str, ...] = SOLIDS) -> list[tuple[str, str]]:
    return [(c, s) for c in COLORS for s in shapes if (c, s) not in HELD_OUT_PAIRS]


def random_scene(
    rng: random.Random,
    count: int,
    held_out: bool = False,
    relation: str | None = None,
    world: str = "solids",
    pairs: Sequence[tuple[str, str]] = (),
) -> Scene:
    """A scene of `count` things (1 to 3) of different colours; with `held_out` every colour-shape pair is a held-out one.

    `pairs` says which things there are, in order, in place of chance.
    """
    shapes = {"solids": SOLIDS, "toys": TOYS, "mixed": SHAPES}[world]
    choices = [(c, s) for c, s in sorted(HELD_OUT_PAIRS) if s in shapes] if held_out else seen_pairs(shapes)
    chosen = list(pairs)
    while len(chosen) < count:
        pair = rng.choice(choices)
        if world == "mixed" and chosen and (chosen[0][1] in SOLIDS) == (pair[1] in SOLIDS) and len(chosen) == 1:
            continue  # of each kind one
        if all(pair[0] != c for c, _ in chosen):
            chosen.append(pair)
    if relation is None:
        relation = "" if count == 1 else ("on top of" if count == 2 and rng.random() < 0.2 else "beside")
    if relation == "on top of" and world != "solids" and (chosen[0][1] not in PUT_ON or chosen[1][1] not in STANDS):
        relation = "beside"
    sizes = [rng.choice(("small", "big")) if rng.random() < 0.25 else "" for _ in chosen]
    solids = []
    for (color, shape), size in zip(chosen, sizes, strict=True):
        base = (BASE_RADIUS if shape in SOLIDS else TOY_RADIUS)[count]
        radius = base * rng.uniform(*SIZES[size])
        yaw = rng.uniform(0, 2 * math.pi)
        if shape in TOYS and rng.random() < FACING_SHARE:
            yaw = rng.uniform(-0.45, 0.45)
        solids.append(Solid(shape, color, size, radius, (0.0, 0.0, 0.0), yaw))
    if world != "solids":
        solids = _fit_in_frame(solids, relation)
    solids = _arrange(rng, solids, relation)
    return Scene(tuple(solids), _prompt(rng, solids, relation), relation)


def _fit_in_frame(solids: list[Solid], relation: str) -> list[Solid]:
    """All made smaller alike where the scene would reach out of the pictures."""
    if relation == "beside":
        reach = sum(s.footprint for s in solids) * (0.5 if len(solids) == 2 else 0.4) + max(s.footprint for s in solids)
    elif relation == "on top of":
        reach = sum(s.half_height for s in solids)
    else:
        reach = 0.0
    share = min(1.0, FRAME / reach) if reach else 1.0
    return [replace(s, radius=s.radius * share) for s in solids]


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


def with_partner(rng: random.Random, prompt: str) -> str:
    """The prompt of one thing, made to name a second of another colour, before or after it."""
    color = next(word for word in prompt.split() if word in COLORS)
    partner = color, ""
    while partner[0] == color:
        partner = rng.choice(seen_pairs(SHAPES))
    phrase = _noun_phrase(rng, Solid(partner[1], partner[0], "", 1.0, (0.0, 0.0, 0.0), 0.0))
    words = rng.choice(RELATIONS["beside"])
    prompt = prompt.removesuffix(" .")
    if " of " in prompt or rng.random() < 0.5:
        return f"{prompt} {words} {phrase}"
    return f"{phrase} {words} {prompt}"


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
