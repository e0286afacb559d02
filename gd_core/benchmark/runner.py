"""Running a prompt set: every prompt with every seed, resumable, past failures, in one process, several, or on a Ray cluster.

A run is a folder: `run.json` says what was asked, `items/<prompt>__<seed>/` is one finished item and appears in one rename, so
that an interrupted item leaves nothing that looks finished. Making and scoring are apart: workers only make items, `scoring`
reads them back, so the numbers do not depend on how the work was spread and a metric can be added to a finished run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..diffusion.card import BUNDLED
from ..diffusion.lora import parse_lora
from ..files import write_text
from ..views import Progress
from .items import Made, save_item
from .prompt_sets import Prompt, PromptSet
from .resources import Resources

Maker = Callable[[Prompt, int], Made]
"""Makes one item of a prompt and a seed. Each worker gets its own from a factory `(model, settings) -> Maker`."""

MAX_DEATHS = 2  # a worker may be killed by chance once; an item that kills two is the reason


@dataclass(frozen=True)
class Item:
    """One prompt with one seed."""

    prompt: Prompt
    seed: int

    @property
    def key(self) -> str:
        """Folder name, unique in a run."""
        return f"{self.prompt.id}__{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What makes an item: the same plan, prompt and seed give the same item on the same kind of machine.

    Attributes:
        maker: `"views"` (stage 1 only), `"asset"` (the whole pipeline) or `FILE.py:FUNCTION`, a factory of the user's own.
        model: passed on to `load_mvdream`.
        settings: keyword settings of the maker, JSON-able.
        threads: torch threads of every worker. Fixed, not shared out among them: sums in another order give other last bits.
    """

    maker: str = "views"
    model: str = "tiny"
    settings: dict = field(default_factory=dict)
    threads: int = 1

    def build(self) -> Maker:
        """The maker, with its model loaded. Raises what the factory raises, ValueError for a maker that is not there."""
        torch.set_num_threads(self.threads)
        source = {"views": f"{__package__}.makers:views_maker", "asset": f"{__package__}.makers:asset_maker"}
        return load_callable(source.get(self.maker, self.maker))(self.model, dict(self.settings))


def load_callable(source: str) -> Callable:
    """The function that `FILE.py:NAME` or `package.module:NAME` names.

    Raises:
        ValueError: no such file, module or function.
    """
    where, separator, name = source.rpartition(":")
    if not separator or not name.isidentifier():
        raise ValueError(f"'{source}' names no function: write FILE.py:FUNCTION or package.module:FUNCTION")
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise ValueError(f"no file '{where}' (from '{source}')")
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ValueError(f"no module '{where}' (from '{source}'): {error}") from error
    if not callable(getattr(module, name, None)):
        raise ValueError(f"'{where}' has no function '{name}'")
    return getattr(module, name)


def items_of(prompts: PromptSet, seeds: Sequence[int]) -> list[Item]:
    """Prompts x seeds, prompt by prompt.

    Raises:
        ValueError: no seed, or one twice.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"give one seed or more, none twice and none negative, got {list(seeds)}")
    return [Item(prompt, seed) for prompt in prompts.prompts for seed in seeds]


def run_benchmark(
    plan: Plan,
    items: Sequence[Item],
    out: Path,
    execute: Callable[[Plan, list[list[Item]], Path, Callable[[], None]], list[Item]],
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Make every item that is not there yet.

    Items that failed in an earlier run are tried again. A worker that dies costs the one item that it was at, which goes to
    another worker.

    Args:
        out: the run's folder; made when missing.
        execute: runs shards and returns the items at which a worker died: `workers.run_here`, `workers.run_processes` or
            a `workers.RayCluster`.
        progress: called after each item with the items that are done or failed, and their total.

    Returns:
        failed items' keys with what went wrong; also in `items/<key>.failed.json`.

    Raises:
        ValueError: `out` holds another run, or the maker cannot be built.
    """
    _claim(out, plan, items)
    for item in items:
        failure_file(out, item).unlink(missing_ok=True)
    deaths: Counter[str] = Counter()

    def pending() -> list[Item]:
        return [i for i in items if not item_folder(out, i).is_dir() and not failure_file(out, i).is_file()]

    def tell() -> None:
        if progress is not None:
            progress(len(items) - len(pending()), len(items), None)

    try:
        while todo := pending():
            shards = [todo[start::workers] for start in range(min(workers, len(todo)))]
            for item in execute(plan, shards, out, tell):
                deaths[item.key] += 1
                if deaths[item.key] >= MAX_DEATHS:
                    write_failure(out, item, f"{MAX_DEATHS} workers died at this item: out of memory, or killed", "")
    finally:
        if not any((out / "items").iterdir()):  # a model that does not load leaves no run behind that others must match
            shutil.rmtree(out / "items")
            (out / "run.json").unlink()
    return {i.key: json.loads(failure_file(out, i).read_text())["error"] for i in items if failure_file(out, i).is_file()}


def run_shard(plan: Plan, items: Sequence[Item], out: Path, ready: Callable[[], None] = lambda: None) -> Iterator[Item]:
    """Make the items of one shard in order into `out`, and yield each once it is done or has failed."""
    make = plan.build()
    ready()
    for item in items:
        part = item_folder(out, item).with_name(item.key + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            with Resources() as used:
                made = make(item.prompt, item.seed)
            save_item(made, item.prompt, item.seed, used.numbers(), part)
        except Exception as error:  # whatever one item fails of, the rest of the set still runs and the report says so
            shutil.rmtree(part, ignore_errors=True)
            write_failure(out, item, f"{type(error).__name__}: {error}", traceback.format_exc())
        else:
            part.rename(item_folder(out, item))
        yield item


def item_folder(out: Path, item: Item) -> Path:
    return out / "items" / item.key


def failure_file(out: Path, item: Item) -> Path:
    return out / "items" / f"{item.key}.failed.json"


def write_failure(out: Path, item: Item, error: str, trace: str) -> None:
    path = failure_file(out, item)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"prompt": item.prompt.text, "seed": item.seed, "error": error, "traceback": trace})


def write_json(path: Path, data) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(data, indent=1))


def weights_fingerprint(model: str) -> str:
    """A short hash of the weight files of a local model, "" where there are none here (the hub, another machine of a cluster).

    Of each file its size and 64 KB from the middle: training changes those everywhere, and 5 GB need not be read.
    """
    path = BUNDLED.get(model, Path(model))
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            size = file.stat().st_size
            opened.seek(size // 2)
            digest.update(f"{file.name} {size} ".encode() + opened.read(2**16))
    return digest.hexdigest()[:16] if files else ""


def _claim(out: Path, plan: Plan, items: Sequence[Item]) -> None:
    """Write `run.json`, or hold the folder's own against this plan: a run that mixes two settings says nothing of either."""
    record = {"maker": plan.maker, "model": plan.model, "settings": plan.settings, "threads": plan.threads}
    loras = [parse_lora(lora)[0] for lora in plan.settings.get("loras", ())]
    record["weights"] = " ".join(weights_fingerprint(str(model)) for model in (plan.model, *loras))
    path = out / "run.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        texts = before.get("prompts", {})
        for name, value in json.loads(json.dumps(record)).items():
            if before.get(name) != value:
                raise ValueError(
                    f"'{out}' holds a run with {name} {before.get(name)!r}, this one has {value!r}: give another --out, or "
                    "the same settings to go on with that run"
                )
        for item in items:
            if texts.get(item.prompt.id, item.prompt.text) != item.prompt.text:
                raise ValueError(
                    f"'{out}' holds a run whose prompt {item.prompt.id} is '{texts[item.prompt.id]}', "
                    f"not '{item.prompt.text}': give another --out"
                )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty and holds no run: give a new folder as --out")
    else:
        texts = {}
    out.mkdir(parents=True, exist_ok=True)
    (out / "items").mkdir(exist_ok=True)
    write_json(path, record | {"prompts": texts | {item.prompt.id: item.prompt.text for item in items}})
