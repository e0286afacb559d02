"""`VerdictConfig`: how a model is asked whether each subject of a prompt is in its views, and what its answers are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .reading import check_ranges

ASK = ("noun", "phrase", "left out")
FEATURES = ("lift", "lift_worst", "presence", "presence_worst")
"""What is known of a subject: how much better the model explains the views by the prompt than by its rival, and the attention
that it gets; each as the mean over the views and in the worst of them."""


@dataclass(frozen=True)
class VerdictConfig:
    """How a subject's verdict is reached. `python -m gd_core calibrate` finds the coefficients of a model.

    Attributes:
        timesteps: of the noise under which the model is asked, 0 to 999: one pass for the prompt and one for each subject's
            rival prompt, beside the two of a guided step. None: no verdicts.
        ask: what a rival prompt is: with another subject's "noun" in place of the subject's, with another's "phrase", or with
            the subject "left out"; the last where there is no other to exchange it for.
        early, final: coefficients of a logistic regression on `FEATURES`, the constant first: of candidates, and of views
            that are done. None: not calibrated; then the lift alone decides, no probability is given, and nothing is called
            missing.
        calibrated_on: what the coefficients come from, in words.
        missing, there: below this probability a subject is missing, from this one on it is there; in between it is doubtful.
    """

    timesteps: tuple[int, ...] = (850,)
    ask: Literal["noun", "phrase", "left out"] = "phrase"
    early: tuple[float, ...] = ()
    final: tuple[float, ...] = ()
    calibrated_on: str = ""
    missing: float = 0.4
    there: float = 0.7

    def __post_init__(self) -> None:
        if self.ask not in ASK:
            raise ValueError(f"the verdict's ask must be one of {', '.join(ASK)}, got '{self.ask}'")
        check_ranges(self, {"missing": (0, 1), "there": (0, 1)}, "the verdict's")
        if not all(0 <= timestep < 1000 for timestep in self.timesteps):
            raise ValueError(f"the verdict's timesteps must be between 0 and 999, got {self.timesteps}")
        for name in ("early", "final"):
            if len(getattr(self, name)) not in (0, 1 + len(FEATURES)):
                raise ValueError(
                    f"the verdict's {name} must have no coefficients or {1 + len(FEATURES)}: a constant, then one for each of "
                    f"{', '.join(FEATURES)}; got {len(getattr(self, name))}"
                )
        if self.missing > self.there:
            raise ValueError(f"the verdict's missing must not be above there, got {self.missing} and {self.there}")
