"""The folder of one `generate` run: what was asked, which stages are done, what each left, and how to go on after a kill.

A stage's result appears under its final name only when it is whole, so a file that is there is a stage that is done. Results
hold no wall-clock times (those are in `run.json`): a run that was killed and resumed leaves the same bytes as one that was not,
on a CPU. On CUDA torch does not repeat some sums: there the results are the same to rounding.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import diffusers
import torch
import transformers
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from . import __version__
from .attention import Focus
from .files import refuse_unwritable_folder, whole_file, write_text
from .mesh import TriangleMesh
from .nerf import RadianceField
from .pictures import heat_map_overlays, image_grid, view_grid
from .views import Progress, ViewSet

logger = logging.getLogger(__name__)

RECORD = "run.json"
RECORD_FORMAT = "grounded-dreamer-run"
FILES = (
    RECORD, "views.safetensors", "views.png", "attention.png", "fit.safetensors", "fit.checkpoint", "field.safetensors",
    "refine.checkpoint", "mesh.glb", "turntable.mp4",
)  # fmt: skip
Result = TypeVar("Result")

StageProgress = Callable[[str, int, int, Tensor | None], None]
"""`progress(stage, step, total, preview)`: `views.Progress` with the stage's name in front. It may raise: that cancels."""


class RunFolder:
    """One run in its folder.

    Attributes:
        path: the folder.
        record: what `run.json` holds: settings, versions, seconds of each stage, metrics, whether it is finished.
    """

    def __init__(
        self, path: str | Path, settings: dict, *, resume: bool, overwrite: bool, progress: StageProgress | None
    ) -> None:
        """Look whether the folder may be had. It is made, and an earlier run's files in it go, once a step of this run is done.

        Raises:
            ValueError: it holds another run, or one that is there and is neither to be resumed nor to be replaced, or it
                cannot be written.
        """
        self.path = Path(path)
        self.progress = progress
        settings = json.loads(json.dumps(settings))
        if resume:
            self.record, self.claimed = read_record(self.path), True
            _refuse_other_settings(self.path, self.record["settings"], settings)
            return
        refuse_unwritable_folder(self.path)
        self.claimed = False
        self.leftovers = [self.path / name for name in FILES if (self.path / name).exists()]
        if self.leftovers and not overwrite:
            raise ValueError(
                f"{self.path} holds {self.leftovers[0].name} of an earlier run: resume that run, allow overwriting, or choose "
                "another folder"
            )
        self.record = {
            "format": RECORD_FORMAT,
            "settings": settings,
            "versions": versions(),
            "seconds": {},
            "metrics": {},
            "finished": False,
        }

    def claim(self) -> None:
        """Make the folder this run's own. OSError: it cannot be written."""
        if self.claimed:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.leftovers:
            leftover.unlink(missing_ok=True)
        self.claimed = True
        self.save()

    def stage(
        self,
        name: str,
        file: str,
        make: Callable[[Progress], Result],
        save: Callable[[Result, Path], None],
        load: Callable[[Path], Result] | None = None,
    ) -> Result | None:
        """The stage's result: made and saved, or loaded (None without `load`) when an earlier run has left it."""
        path = self.path / file
        if self.claimed and path.exists():
            logger.info("%s is there already", path)
            return None if load is None else load(path)
        started = time.monotonic()
        result = make(self._progress_of(name))
        self.claim()
        save(result, path)
        self.checkpoint(name).unlink(missing_ok=True)
        self.record["seconds"][name] = round(time.monotonic() - started, 3)
        self.save()
        return result

    def checkpoint(self, name: str) -> Path:
        """Where the stage keeps what it needs to go on after a kill."""
        return self.path / f"{name}.checkpoint"

    def finish(self, **metrics) -> dict:
        """Complete the record with the run's metrics, and return it."""
        self.record |= {"metrics": metrics, "finished": True}
        self.save()
        return self.record

    def save(self) -> None:
        write_text(self.path / RECORD, json.dumps(self.record, indent=1))

    def _progress_of(self, name: str) -> Progress:
        def tell(step: int, total: int, preview: Tensor | None) -> None:
            if step > 0:
                self.claim()
            if self.progress is not None:
                self.progress(name, step, total, preview)

        return tell


def read_record(folder: str | Path) -> dict:
    """`run.json` of a run's folder. Raises ValueError when there is none or it is not one."""
    path = Path(folder) / RECORD
    if not path.is_file():
        raise ValueError(f"{folder} holds no run to resume: there is no {RECORD} in it")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise ValueError(f"{path} is not the record of a Grounded-Dreamer run")
    return record


def arguments_of(record: dict) -> dict:
    """The arguments of `generate` that the run of `record` was started with."""
    arguments = dict(record["settings"])
    if arguments["focus"] is not None:
        arguments["focus"] = Focus.from_json(arguments["focus"])
    return arguments


def _refuse_other_settings(path: Path, before: dict, now: dict) -> None:
    different = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if different:
        raise ValueError(
            f"{path} holds a run with other settings ({', '.join(different)}): resume it with its own, or choose another folder"
        )


def save_views(views: ViewSet, path: Path) -> None:
    """The views, and their pictures beside them (`pictures_beside`): all views in a row, and a row for each word with maps."""
    in_a_row, attention = pictures_beside(path)
    write_png(view_grid([views], columns=len(views)), in_a_row)
    if views.attention:
        overlays = heat_map_overlays(views, list(views.attention))
        write_png(image_grid(overlays, columns=len(views)), attention)
    replace(views, provenance=without_timings(views.provenance)).save(path)


def pictures_beside(path: Path) -> tuple[Path, Path]:
    """`views.png` and `attention.png` of `views.safetensors`; `NAME.png` and `NAME_attention.png` of any other `NAME`."""
    attention = "attention.png" if path.stem == "views" else f"{path.stem}_attention.png"
    return path.with_name(f"{path.stem}.png"), path.with_name(attention)


def save_field(field: RadianceField, path: Path) -> None:
    field.provenance = without_timings(field.provenance)
    field.save(path)


def save_mesh(mesh: TriangleMesh, path: Path, extras: dict, overwrite: bool = False, print_mm: float = 0.0) -> None:
    mesh.export(path, overwrite=overwrite, extras={**extras, "report": without_timings(mesh.report)}, print_mm=print_mm)


def write_png(image: Float[Tensor, "H W 3"], path: Path) -> None:
    """RGB 0..1; whole or not at all."""
    with whole_file(path) as temporary:
        Image.fromarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy()).save(temporary, "PNG")


def without_timings(values):
    """A copy of JSON-able data without entries that tell seconds."""
    if isinstance(values, dict):
        return {k: without_timings(v) for k, v in values.items() if "seconds" not in k}
    return [without_timings(v) for v in values] if isinstance(values, list) else values


def versions() -> dict[str, str]:
    return {
        "grounded_dreamer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
