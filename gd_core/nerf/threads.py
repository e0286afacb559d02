"""How many threads a fit takes: its steps are hundreds of small operations, at each of which threads wait for one another."""

from __future__ import annotations

import functools
import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

ROUNDS = 7
POINTS, CHANNELS, TEXELS = 16384, 24, 96  # of a step of the fit
PAYS = 1.3  # times as fast, or one thread is taken: it leaves the rest to others, and a result does not hang on who else runs


def _typical_work() -> None:
    """About a tenth of a step of the fit: lookups, products, sums, over arrays of its size."""
    planes = torch.ones(1, CHANNELS, TEXELS, TEXELS)
    where = torch.linspace(-1, 1, 2 * POINTS).view(1, POINTS, 1, 2)
    values = torch.nn.functional.grid_sample(planes, where, align_corners=True)[0, :, :, 0].T
    for _ in range(4):
        values = torch.relu(values @ torch.ones(CHANNELS, CHANNELS))
        values = values * values.sum(1, keepdim=True).rsqrt()


@functools.cache
def threads_that_pay(most: int) -> int:
    """One, or `most` if by a timing (a tenth of a second, once a process) that is faster by more than `PAYS`.

    Medians over alternating rounds: on a busy machine a few rounds with many threads are quick by luck.
    """
    if most == 1:
        return 1
    before = torch.get_num_threads()
    seconds: dict[int, list[float]] = {1: [], most: []}
    try:
        for _ in range(ROUNDS):
            for count, times in seconds.items():
                torch.set_num_threads(count)
                _typical_work()  # wakes the threads
                start = time.perf_counter()
                _typical_work()
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    alone, together = (statistics.median(times) for times in seconds.values())
    chosen = most if together * PAYS < alone else 1
    logger.info("NeRF fit on %d of %d threads (%.1f ms alone, %.1f ms together)", chosen, most, 1e3 * alone, 1e3 * together)
    return chosen


@contextmanager
def fitting_threads(device: torch.device) -> Iterator[None]:
    """Set torch's number of threads for a fit on `device`, and afterwards back."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(threads_that_pay(before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
