"""The state of a refinement: kept in memory to go back to, and in a file to go on from after a kill."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import not_safetensors, write_tensors
from ..nerf.field import RadianceField
from ..settings.refine import RefineConfig
from ..views import ViewSet
from .guidance import Guidance

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


def fingerprint(radiance: RadianceField, views: ViewSet, guidance: Guidance, config: RefineConfig) -> str:
    """Hash of the inputs of a refinement; a checkpoint goes on only with the same ones."""
    digest = hashlib.sha256(json.dumps({**asdict(config), "preset": None}, sort_keys=True).encode())
    tensors = [*radiance.state_dict().values(), views.images, views.masks, *vars(views.cameras).values()]
    for tensor in (*tensors, guidance.context, guidance.negative_context):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} {not_safetensors(path, error)}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} is not a refinement checkpoint")
    if header["inputs"] != inputs:
        raise ValueError(
            f"checkpoint {path} belongs to a refinement of another field, views, prompt or settings: delete it to start over"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    snapshots = {name: Snapshot(part(f"{name}.field."), part(f"{name}.optimizer.")) for name in SNAPSHOTS}
    return RefineState(generator=tensors["generator"], **snapshots, **header["state"])
