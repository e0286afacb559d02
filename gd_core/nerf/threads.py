"""How many threads a fit takes: its steps are hundreds of small operations, at each of which threads wait for one another."""

from __future__ import annotations

import functools
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

logger = logging.getLogger(__name__)

ROUNDS = 7
POINTS, CHANNELS, TEXELS = 16384, 24, 96  # of a step of the fit
WINDOW = 4  # steps whose time is compared: every fourth costs more than the others
SLOWER = 2.0  # times as long as the quickest window so far, and
CROWDED = 0.75  # of the time that the threads would have on cores of their own: then others have come, and one goes on alone
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


class Watch:
    """Held around every step of a fit on a CPU; lets one thread go on alone where others have come to the cores.

    Two threads that waited for each other beside other processes took fourteen times as long as on idle cores. What lies
    between steps, as previews and checkpoints, does not count.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, processor: Callable[[], float] = time.process_time
    ) -> None:
        self.clocks = clock, processor
        self.steps, self.spent, self.quickest = 0, [0.0, 0.0], float("inf")

    def __enter__(self) -> None:
        self.begun = [clock() for clock in self.clocks]

    def __exit__(self, *error: object) -> None:
        ended = [clock() for clock in self.clocks]
        self.spent = [spent + end - start for spent, end, start in zip(self.spent, ended, self.begun, strict=True)]
        self.steps += 1
        if self.steps % WINDOW:
            return
        (seconds, worked), self.spent = self.spent, [0.0, 0.0]
        threads = torch.get_num_threads()
        if threads > 1 and seconds > SLOWER * self.quickest and worked < CROWDED * threads * seconds:
            torch.set_num_threads(1)
            logger.info("NeRF fit goes on with one thread: %d found the cores taken", threads)
        self.quickest = min(self.quickest, seconds)


@contextmanager
def fitting_threads(device: torch.device) -> Iterator[AbstractContextManager]:
    """Set torch's number of threads for a fit on `device`, and afterwards back; yields what is to be held around each step."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(threads_that_pay(before))
    try:
        yield Watch() if device.type == "cpu" else nullcontext()
    finally:
        torch.set_num_threads(before)
