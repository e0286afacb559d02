"""The one owner of "which device": what "auto" means, what it holds, and which compiled backends serve there.

Every loader and stage takes a `device`. The library and the command line say "auto", which is decided here and nowhere else;
ComfyUI's nodes hand over ComfyUI's own. Nothing else asks torch which devices there are.

nerfacc and tinycudann are optional, and being installed says little of them. nerfacc's wheel has no compiled part: without nvcc
its calls fail, with nvcc the first one compiles for minutes. tinycudann refuses to be imported on a card that it was not built
for. torch for ROCm calls its devices "cuda" too, and neither knows those. And what was built for another torch may end the
process. So a backend serves only after one small call of it went well in a process of its own, and otherwise plain torch does,
which is said once, with the remedy.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INSTALL = "pip install --no-build-isolation '.[cuda]' in this pack's folder (needs nvcc)"
NERFACC, TINYCUDANN = "nerfacc", "tinycudann"
FIRST_CALL_PROCESS = Path(__file__).with_name("first_call_process.py")
FIRST_CALL_SECONDS = 180.0  # imports and a CUDA context take ten; tiny-cuda-nn may compile kernels meanwhile
JOBS = {NERFACC: "sampling and compositing of rays", TINYCUDANN: "the hash grid"}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device that a name means. A `torch.device` is taken as it is: whoever has one knows that it is there.

    Args:
        device: "auto" is CUDA (ROCm's too), else Intel's XPU, else Apple's MPS, else the CPU; or a name, such as "cuda:1".

    Raises:
        ValueError: there is no such device here.
    """
    if isinstance(device, torch.device):
        return device
    there = _accelerators()
    choices = ", ".join(("auto", *there, "cpu"))
    if device == "auto":
        return torch.device(there[0] if there else "cpu")
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"'{device}' is no device: choose one of {choices}") from error
    if named.type in ("cuda", "xpu", "mps") and named.type not in there:
        raise ValueError(f"torch {torch.__version__} finds no device '{device}' here: choose one of {choices}")
    if named.type == "cuda" and (named.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device '{device}': this machine has {torch.cuda.device_count()}, counted from cuda:0")
    return named


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The number type that a name means on `device`: "auto" is float16 on CUDA and float32 elsewhere; "fp32", "fp16", "bf16".

    Raises:
        ValueError: there is no such type.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be 'auto', {', '.join(map(repr, DTYPES))} or a torch dtype, got '{dtype}'")
    return DTYPES[dtype]


def describe(device: torch.device) -> str:
    """The device in words: the card's name, or the processor and how many threads torch uses of it."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).get_device_name(device)
    if device.type == "cpu":
        return f"CPU {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return device.type


def free_memory(device: torch.device) -> int:
    """Bytes free on `device`; where it shares main memory, or does not tell, those of main memory."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).mem_get_info(device)[0]
    return psutil.virtual_memory().available


def total_memory(device: torch.device) -> int:
    """Bytes of `device`, free or not; see `free_memory`."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).mem_get_info(device)[1]
    return psutil.virtual_memory().total


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps of `device` for later."""
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Start counting `peak_memory` anew."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that tensors have taken of `device` since `reset_peak_memory`; None where torch does not count them."""
    return getattr(torch, device.type).max_memory_allocated(device) if device.type in ("cuda", "xpu") else None


def synchronize(device: torch.device) -> None:
    """Wait until all that was asked of `device` is done: for timings."""
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).synchronize()


@dataclass(frozen=True)
class Backend:
    """What computes a job, and why.

    Attributes:
        package: the optional package that could.
        serves: whether it does; else plain torch does.
        words: one sentence that says so, with the remedy where there is one.
    """

    package: str
    serves: bool
    words: str


def backend(package: str, device: torch.device) -> Backend:
    """Whether `package` (`NERFACC` or `TINYCUDANN`) serves on `device`; tried and said once for each kind of device."""
    return _backend(package, device.type)


@functools.cache
def _backend(package: str, device_type: str) -> Backend:
    reason = _why_not(package, device_type)
    if reason is None:
        found = Backend(package, True, f"{JOBS[package]}: {package}")
    else:
        found = Backend(package, False, f"{JOBS[package]}: plain torch, since {reason}")
    logger.info("on %s, %s", device_type, found.words)
    return found


def _why_not(package: str, device_type: str) -> str | None:
    """Why `package` cannot serve on this kind of device, or None where it can."""
    if device_type != "cuda":
        return f"{package} needs CUDA"
    if torch.version.hip is not None:
        return f"{package} has no version for ROCm"
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed: {INSTALL}"
    failed = first_call(package, device_type)
    return failed and f"{package} {failed}: pip uninstall {package}, then {INSTALL}"


def first_call(package: str, device: str) -> str | None:
    """What went wrong with the first call of an installed `package`, in words, or None. It is made in a process of its own,
    since it may end that; see `first_call_process`. Takes seconds."""
    command = [sys.executable, str(FIRST_CALL_PROCESS), package, device, *sys.path]
    quiet = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # else Windows opens a console
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FIRST_CALL_SECONDS,
            creationflags=quiet,
        )
    except subprocess.TimeoutExpired:
        return f"did not come back from its first call in {FIRST_CALL_SECONDS:g} s"
    if done.returncode == 0:
        return None
    if done.returncode == 1 and done.stdout.strip():
        return f"is installed and fails here ({done.stdout.strip().splitlines()[-1]})"
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode:#x}"
    return f"crashed in its first call ({how})"


def _accelerators() -> list[str]:
    """Kinds of accelerators that torch finds here, the preferred one first."""
    there = {"cuda": torch.cuda.is_available(), "xpu": torch.xpu.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, found in there.items() if found]
