"""Time and memory of a piece of work."""

from __future__ import annotations

import os
import threading
import time

import psutil

from ..devices import peak_memory, reset_peak_memory, resolve_device

SAMPLE_SECONDS = 0.05


class Resources:
    """`with Resources() as used:` measures its block; afterwards `used.numbers()` has it.

    On CUDA the peak is the allocator's own (`devices.peak_memory`). On the CPU it is the process's resident
    memory, sampled every 50 ms, since the system's high-water mark cannot be reset between items: a shorter spike is missed.
    """

    def __enter__(self) -> Resources:
        self.device = resolve_device()
        reset_peak_memory(self.device)
        self._process = psutil.Process(os.getpid())
        self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._started = time.perf_counter()
        return self

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self._started
        self._done.set()
        self._sampler.join()
        self._peak = max(self._peak, self._process.memory_info().rss)

    def numbers(self) -> dict[str, float]:
        """`seconds`, `peak_memory_mb` (resident, of the whole process) and on CUDA `peak_cuda_mb`; 1 MB is 2^20 bytes."""
        numbers = {"seconds": self.seconds, "peak_memory_mb": self._peak / 2**20}
        on_device = peak_memory(self.device)
        if on_device is not None:
            numbers["peak_cuda_mb"] = on_device / 2**20
        return numbers
