"""`Recipe`: the settings of every stage that belong to a model.

A bundle's `mvdream.json` holds its model's recipe. The one built in is MVDream's: its authors' code and yaml first, the papers
second, what we measured third; `docs/recipes.md` has a source for each value. Whoever asks for no setting gets the recipe's,
and views and fields carry it on, so that no later stage needs the model to know how it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TypeVar

from .settings.candidates import CandidateConfig
from .settings.fit import FitConfig
from .settings.mesh import MeshConfig
from .settings.reading import read_settings, shown, to_plain
from .settings.refine import RefineConfig
from .settings.refocus import RefocusConfig
from .settings.sampling import SamplingConfig
from .settings.verdict import VerdictConfig

Settings = TypeVar("Settings")
AS_MADE: Mapping = MappingProxyType({})  # no change to what the model was made for
LONGEST = 100_000  # characters of a recipe's JSON; a whole one has some 3,000


@dataclass(frozen=True)
class Recipe:
    """How a model's views are made and what is made of them. `Recipe()` is MVDream's.

    Attributes:
        sampling, refocus, verdict, candidates: of `sample_views`. fit: of `fit_views`. refine: of `refine`. mesh: of
            `extract_mesh`.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    refocus: RefocusConfig = field(default_factory=RefocusConfig.attend_and_excite)
    verdict: VerdictConfig = field(default_factory=VerdictConfig)
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def to_json(self) -> str:
        """Every setting but those of a single run (seed, memory preset)."""
        return json.dumps(to_plain(self))

    def for_other_weights(self) -> Recipe:
        """Without what was found out about one model's weights: which layers know, and what its verdicts are worth."""
        unknown = replace(self.verdict, early=(), final=(), calibrated_on="")
        return replace(self, refocus=replace(self.refocus, layers=()), verdict=unknown)

    @classmethod
    def from_json(cls, data: str | Mapping, base: Recipe | None = None, where: str = "recipe") -> Recipe:
        """What `to_json` wrote, as text or as the object that it stands for.

        Args:
            base: the recipe whose settings stand where `data` has none; None takes MVDream's.
            where: names the recipe in errors.

        Raises:
            ValueError: an entry that there is not, of another type or out of range; names it.
        """
        if isinstance(data, str):
            if len(data) > LONGEST:
                raise ValueError(f"{where} has {len(data)} characters, which is no recipe")
            try:
                data = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} is not valid JSON: {error}") from error
        return read_settings(cls() if base is None else base, data, where)


def chosen(base: Settings, given: Settings | Mapping, what: str) -> Settings:
    """A stage's settings: `given` whole, or `base` with the changes that it names. ValueError: a bad change, after `what`."""
    return given if isinstance(given, type(base)) else read_settings(base, given, what, run=True)


def describe(settings) -> str:
    """Settings in one line for people: `steps 50, guidance_scale 10, sampler ddim`."""
    plain = to_plain(settings)
    return ", ".join(f"{f.name} {_short(plain[f.name])}" for f in fields(settings) if f.name in plain)


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value).strip("'")
