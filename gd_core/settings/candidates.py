"""`CandidateConfig`: how many starts are tried for one set of views, and how far."""

from __future__ import annotations

from dataclasses import dataclass

from .reading import check_ranges

MOST_CANDIDATES = 8


@dataclass(frozen=True)
class CandidateConfig:
    """Several starts of one object, of which the best goes on.

    Attributes:
        count: starts, 1 to 8. share: of the steps that each is given before they are compared, above 0 and at most 1.
        retries: how many more are finished, the next best first and fresh starts after them, while the verdict on the views
            says that a subject is missing.
    """

    count: int = 1
    share: float = 0.12
    retries: int = 0

    def __post_init__(self) -> None:
        ranges = {"count": (1, MOST_CANDIDATES), "share": (0.01, 1), "retries": (0, MOST_CANDIDATES - 1)}
        check_ranges(self, ranges, "candidates")
