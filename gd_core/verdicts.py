"""What a model itself says of each subject of a prompt: is it in the views that it made?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

THERE, DOUBTFUL, MISSING = "there", "doubtful", "missing"


@dataclass(frozen=True)
class SubjectVerdict:
    """One subject.

    Attributes:
        key: of its noun in `ViewSet.attention` ("cube", "cube#2"). name: for people ("red cube").
        word: "there", "doubtful" or "missing"; a model that was not calibrated calls nothing missing.
        score: higher is surer: log-odds of being there, or without calibration the mean lift.
        probability: of being there in every view, 0..1, or None without calibration.
        views: the lift in each view, above 0 where the subject explains what is seen.
        features: `settings.verdict.FEATURES`, what the verdict was reached by. early: the same early in the run, by which
            candidates are compared; empty where nobody looked.
    """

    key: str
    name: str
    word: str
    score: float
    probability: float | None
    views: tuple[float, ...]
    features: tuple[float, ...] = ()
    early: tuple[float, ...] = ()

    def to_plain(self) -> dict:
        """JSON-able."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, data: dict) -> SubjectVerdict:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})

    def __str__(self) -> str:
        sure = "not calibrated" if self.probability is None else f"{100 * self.probability:.0f} %"
        return f"{self.name}: {self.word} ({sure})"


def missing_words(verdicts: Sequence[SubjectVerdict]) -> str:
    """A sentence for people on what is missing, or ""."""
    gone = [f"'{v.name}'" for v in verdicts if v.word == MISSING]
    if not gone:
        return ""
    are = "are" if len(gone) > 1 else "is"
    return f"{' and '.join(gone)} {are} probably missing from the views: try another seed, or more candidates"
