"""Intervals and paired tests: how far a number of a small benchmark can be trusted.

Several seeds of one prompt are not independent, so resampling draws whole prompts with all their seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval; `n` values went into it."""

    value: float
    low: float
    high: float
    n: int


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001), which stays within 0..1 and is
    honest at 0 and n successes, where the textbook interval has no width.

    Raises:
        ValueError: for n < 1 or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A mean with its percentile bootstrap interval (Efron 1979), resampled by cluster.

    Args:
        values: n finite numbers.
        clusters: n labels (the prompt of each value); values with one label are drawn together. None: each on its own.

    Raises:
        ValueError: for no values, values that are not finite, or labels that do not fit.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"a mean needs at least one value and all of them finite, got {values.tolist()}")
    labels = range(values.size) if clusters is None else clusters
    if len(labels) != values.size:
        raise ValueError(f"{values.size} values came with {len(labels)} cluster labels")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(label, len(order)) for label in labels])
    sums, counts = np.bincount(index, values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(order), (resamples, len(order)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(values.mean()), float(low), float(high), int(values.size))


@dataclass(frozen=True)
class PairedDifference:
    """`b - a` over pairs: its mean with a bootstrap interval, the pairs that rose and fell, and the two-sided p."""

    difference: Estimate
    risen: int
    fallen: int
    p_value: float


def paired_difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> PairedDifference:
    """Did the same prompts and seeds do better under `b` than under `a`?

    The p value is the exact sign test's, which for yes/no values is McNemar's exact test (McNemar 1947): it looks only at the
    pairs that changed, and assumes nothing of how much. It counts pairs as independent; the interval does not.

    Raises:
        ValueError: when the two do not have the same length, or are empty.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired comparison needs as many values on both sides, got {len(a)} and {len(b)}")
    change = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    difference = bootstrap_mean(change.tolist(), clusters, seed=seed)
    risen, fallen = int((change > 0).sum()), int((change < 0).sum())
    changed = risen + fallen
    tail = sum(math.comb(changed, k) for k in range(min(risen, fallen) + 1)) / 2**changed
    return PairedDifference(difference, risen, fallen, min(1.0, 2 * tail))


def finite(value: float | None) -> bool:
    """Whether a measurement is there at all: metrics that do not apply to an item are None or NaN in its results."""
    return value is not None and math.isfinite(value)
