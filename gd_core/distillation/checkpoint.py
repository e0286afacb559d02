"""The state of a refinement: kept in memory to go back to, and in a file to go on from after a kill."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..files import read_tensors, write_tensors
from ..nerf.field import RadianceField

FORMAT = "grounded-dreamer-refinement"


@dataclass
class Snapshot:
    """Copies of a field's tensors and, where it is to be trained on, of its optimiser's (in parameter order)."""

    field: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, radiance: RadianceField, optimizer: torch.optim.Optimizer | None = None) -> Snapshot:
        moments = {}
        if optimizer is not None:
            for index, state in optimizer.state_dict()["state"].items():
                moments |= {f"{index}.{name}": value.detach().cpu().clone() for name, value in state.items()}
        return cls({name: value.detach().cpu().clone() for name, value in radiance.state_dict().items()}, moments)

    def restore(self, radiance: RadianceField, optimizer: torch.optim.Optimizer | None = None) -> None:
        radiance.load_state_dict(self.field)
        if optimizer is None:
            return
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in self.optimizer.items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value.clone()
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@dataclass
class RefineState:
    """Everything that the next step depends on besides the inputs.

    Attributes:
        step: steps done. generator: state of the random generator.
        now, good, best: the field as it is, as it last held the guard, and as it scored best.
        baseline_psnr, best_score: of the field that came in, and of `best`.
        preset: name of the memory preset; a resumed run keeps it, since chunk sizes decide the last bit.
        sds_scale: the guard's cut of the SDS weight, 1 or a power of 1/2.
        history: one dict an evaluation. events: what the guard and the memory presets did, in words.
    """

    step: int
    generator: Tensor
    now: Snapshot
    good: Snapshot
    best: Snapshot
    baseline_psnr: float
    best_score: float
    preset: str
    best_step: int = 0
    sds_scale: float = 1.0
    history: list[dict] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


SNAPSHOTS = ("now", "good", "best")


def save_state(path: Path, state: RefineState, inputs: str) -> None:
    """Write a checkpoint; an older one is replaced only once the new one is whole."""
    tensors = {"generator": state.generator}
    for name in SNAPSHOTS:
        snapshot: Snapshot = getattr(state, name)
        tensors |= {f"{name}.field.{k}": v for k, v in snapshot.field.items()}
        tensors |= {f"{name}.optimizer.{k}": v for k, v in snapshot.optimizer.items()}
    scalars = {k: v for k, v in vars(state).items() if k not in (*SNAPSHOTS, "generator")}
    header = {"format": FORMAT, "inputs": inputs, "state": scalars}
    write_tensors(path, tensors, header)


def load_state(path: Path, inputs: str) -> RefineState:
    """Read what `save_state` wrote.

    Raises:
        ValueError: the file is no such checkpoint, or one of a refinement with other inputs or settings.
    """
    tensors, header = read_tensors(path, FORMAT, "a refinement checkpoint")
    if header["inputs"] != inputs:
        raise ValueError(
            f"checkpoint {path} belongs to a refinement of another field, views, prompt, model or settings: delete it to start "
            "over"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    snapshots = {name: Snapshot(part(f"{name}.field."), part(f"{name}.optimizer.")) for name in SNAPSHOTS}
    return RefineState(generator=tensors["generator"], **snapshots, **header["state"])
