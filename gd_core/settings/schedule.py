"""How a quantity moves while a field is refined: linear ramps, and the bounds that a diffusion timestep is drawn between.

MVDream-threestudio's yaml anneals the upper bound 0.98 -> 0.50 and the lower 0.98 -> 0.02 over 8000 steps, since its field
starts as a blob. Here the field has been fitted to four views, so the **warm start** joins in below pure noise: what is already
right is kept, and only detail that smaller noise destroys is redrawn (see `docs/refinement.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NUM_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class Ramp:
    """`start` until position `first`, then linear to `end` at position `last`, then constant.

    Positions are steps, or shares of a run in 0..1; `first` must not lie after `last`.
    """

    start: float
    end: float
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        if not self.first <= self.last:
            raise ValueError(f"a ramp cannot end at {self.last}, before it begins at {self.first}")

    def at(self, position: float) -> float:
        if self.first == self.last:
            return self.end if position >= self.last else self.start
        share = max(min(1.0, (position - self.first) / (self.last - self.first)), 0.0)
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class TimestepSchedule:
    """The lower and the upper bound of the timestep, shares of the noise schedule in 0..1, each a ramp of its own."""

    lower: Ramp
    upper: Ramp

    def __post_init__(self) -> None:
        for name, ramp in (("lower", self.lower), ("upper", self.upper)):
            if not (0 <= ramp.start < 1 and 0 <= ramp.end < 1):
                raise ValueError(f"the timesteps' {name} bound must stay in 0..1 (1 excluded), got {ramp.start} to {ramp.end}")
        if self.lower.start > self.upper.start or self.lower.end > self.upper.end:
            raise ValueError("the timesteps' lower bound must not lie above the upper one")

    def bounds(self, position: float) -> tuple[int, int]:
        """Smallest and largest timestep at `position`, both in 0..999 and inclusive; int() of the share as in threestudio."""
        lower = int(NUM_TRAIN_TIMESTEPS * self.lower.at(position))
        return lower, max(lower, int(NUM_TRAIN_TIMESTEPS * self.upper.at(position)))

    def draw(self, position: float, generator: torch.Generator) -> int:
        """One timestep, uniform between the bounds."""
        lower, upper = self.bounds(position)
        return int(torch.randint(lower, upper + 1, (), generator=generator, device=generator.device))


def cold_schedule(last: float = 8000) -> TimestepSchedule:
    """MVDream-threestudio's annealing (mvdream-sd21.yaml), in steps; `last=0.8` gives it as shares of a run of 10,000."""
    return TimestepSchedule(lower=Ramp(0.98, 0.02, last=last), upper=Ramp(0.98, 0.50, last=last))


def warm_schedule() -> TimestepSchedule:
    """The same annealing joined at step 4,667 of 10,000, where its upper bound is down to 0.70, over the 5,333 steps left."""
    return TimestepSchedule(lower=Ramp(0.42, 0.02, last=0.625), upper=Ramp(0.70, 0.50, last=0.625))
