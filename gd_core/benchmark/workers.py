"""Where shards run: in this process, in several, or on a Ray cluster. Each returns the items at which a worker died."""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import no_type_check
from urllib.parse import urlsplit

from ..files import whole_file
from .runner import Item, Plan, failure_file, item_folder, run_shard

POLL_SECONDS = 0.1
CONNECT_SECONDS = 5.0


def run_here(plan: Plan, shards: list[list[Item]], out: Path, tell: Callable[[], None]) -> list[Item]:
    """One after another in this process; all shards share one maker."""
    for _ in run_shard(plan, [item for shard in shards for item in shard], out):
        tell()
    return []


def run_processes(plan: Plan, shards: list[list[Item]], out: Path, tell: Callable[[], None]) -> list[Item]:
    """One fresh process a shard, so that each has its own model, CUDA context and crash.

    Raises:
        ValueError: a worker could not load its model.
        RuntimeError: a worker died before it was ready.
    """
    context = _process_context()
    running = []
    for shard in shards:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_shard_process, args=(plan, shard, out, theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((process, ours, shard))
    while any(process.is_alive() for process, _, _ in running):
        time.sleep(POLL_SECONDS)
        tell()
    died = []
    for process, channel, shard in running:
        process.join()
        said = _messages(channel)
        if said and said[-1] != "ready":
            raise ValueError(said[-1])
        left = [item for item in shard if not (item_folder(out, item).is_dir() or failure_file(out, item).is_file())]
        if left and not said:
            raise RuntimeError(
                f"a worker died (exit code {process.exitcode}) while it loaded model '{plan.model}': "
                "out of memory? Use fewer workers"
            )
        died += left[:1]
    return died


def _process_context() -> multiprocessing.context.BaseContext:
    """Never a fork of this process, which may hold a CUDA context. A fork server, where there is one, imports torch once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.benchmark"])
    return context


def _shard_process(plan: Plan, shard: list[Item], out: Path, channel) -> None:
    try:
        for _ in run_shard(plan, shard, out, ready=lambda: channel.send("ready")):
            pass
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        channel.send(f"{error}")


def _messages(channel) -> list[str]:
    said = []
    try:
        while channel.poll():
            said.append(channel.recv())
    except EOFError:
        pass
    return said


class RayCluster:
    """Shards as tasks of a Ray cluster; `with RayCluster("auto", workers) as execute: run_benchmark(..., execute)`.

    Items come back over the network one by one as they are done, so the machines need no shared disk: only the model folder, at
    the same path, where the model is not bundled. This package is sent along.

    Args:
        address: `local` (a new Ray on this machine), `auto` (the one this machine belongs to), `HOST:PORT`, or `ray://HOST:PORT`.
        workers: shards at a time; a new local Ray gets as many CPUs. On a cluster with GPUs each shard takes one.

    Raises:
        ValueError: no cluster answers at the address.
        ModuleNotFoundError: Ray is not installed.
    """

    def __init__(self, address: str, workers: int) -> None:
        self.address, self.workers = address, workers

    def __enter__(self) -> RayCluster:
        if self.address not in ("auto", "local"):
            _expect_listener(self.address)
        try:
            import ray  # noqa: PLC0415  (optional, and seconds to import)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("--ray needs Ray: pip install 'ray>=2.10'") from error
        package = Path(__file__).resolve().parents[1]
        options = {"runtime_env": {"py_modules": [str(package)]}, "log_to_driver": False, "logging_level": "warning"}
        if self.address == "local":
            options |= {"num_cpus": self.workers, "include_dashboard": False}
        try:
            ray.init(address=self.address, **options)
        except ConnectionError as error:
            raise ValueError(
                f"no Ray cluster at '{self.address}': start one with `ray start --head`, or use --ray local"
            ) from error
        self.ray = ray
        return self

    def __exit__(self, *_) -> None:
        self.ray.shutdown()

    def __call__(self, plan: Plan, shards: list[list[Item]], out: Path, tell: Callable[[], None]) -> list[Item]:
        gpus = 1 if self.ray.cluster_resources().get("GPU", 0) >= 1 else 0
        task = self.ray.remote(_ray_shard).options(num_cpus=1, num_gpus=gpus, max_retries=0, num_returns="streaming")
        with ThreadPoolExecutor(len(shards)) as pool:
            died = list(pool.map(lambda shard: self._collect(task.remote(plan, shard), plan, shard, out, tell), shards))
        return [item for item in died if item is not None]

    def _collect(self, stream, plan: Plan, shard: list[Item], out: Path, tell: Callable[[], None]) -> Item | None:
        """Write a shard's items as they come; the item that its worker died at, or None."""
        errors = self.ray.exceptions
        received = -1  # the first message only says that the model is loaded
        try:
            for reference in stream:
                _unpack(self.ray.get(reference), out)
                received += 1
                tell()
        except errors.RayTaskError as error:
            raise ValueError(f"a Ray worker stopped: {error.cause}") from error
        except errors.RayError as error:
            if received < 0:
                raise RuntimeError(f"a Ray worker died while it loaded model '{plan.model}': {error}") from error
            return shard[received]
        return None


@no_type_check  # a wrapper that checks types is no generator function, and Ray streams only from one
def _ray_shard(plan: Plan, shard: list[Item]) -> Iterator[dict[str, bytes]]:
    """Runs on a worker: each finished item (or its failure) as a dict of file names and contents."""
    out = Path(tempfile.mkdtemp(prefix="grounded-dreamer-"))
    (out / "items").mkdir()
    try:
        yield {}
        for _ in run_shard(plan, shard, out):
            files = [path for path in (out / "items").rglob("*") if path.is_file()]
            yield {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
            shutil.rmtree(out / "items")
            (out / "items").mkdir()
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _unpack(files: dict[str, bytes], out: Path) -> None:
    """Write one item's files; its folder appears whole, by a rename."""
    for name, content in files.items():
        path = out / name
        if path.parent.name == "items":  # a failure: one file
            with whole_file(path) as temporary:
                temporary.write_bytes(content)
            continue
        part = path.parent.with_name(path.parent.name + ".part")
        part.mkdir(parents=True, exist_ok=True)
        (part / path.name).write_bytes(content)
    for folder in {(out / name).parent for name in files if (out / name).parent.name != "items"}:
        folder.with_name(folder.name + ".part").rename(folder)


def _expect_listener(address: str) -> None:
    """Fail within seconds when nothing listens at `address`, where Ray itself would try for minutes."""
    parts = urlsplit(address if "//" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"Ray address '{address}' has no proper port: {error}") from error
    if not host or not port:
        raise ValueError(f"Ray address '{address}' should be local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(f"no Ray cluster answers at '{address}' ({error}): is it running, and is the port open?") from error
