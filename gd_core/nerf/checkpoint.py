"""The state of a fit in a file, to go on from as if it had not stopped."""

from __future__ import annotations

from pathlib import Path

import torch

from ..files import read_tensors, write_tensors
from .field import RadianceField

FORMAT = "grounded-dreamer-fit"
FORMAT_VERSION = 1


def write_checkpoint(
    path: Path,
    inputs: str,
    counters: dict,
    field: RadianceField,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Write a checkpoint; an older one is replaced only once the new one is whole."""
    tensors = {"generator": generator.get_state()}
    tensors |= {f"field.{name}": value for name, value in field.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    header = {"format": FORMAT, "version": FORMAT_VERSION, "inputs": inputs, "counters": counters}
    write_tensors(path, tensors, header)


def read_checkpoint(path: Path, inputs: str) -> tuple[dict, dict]:
    """Counters, and tensors by part: `field` (a state dict), `optimizer` (index -> state), `generator`.

    Raises:
        ValueError: the file is no checkpoint of a fit, or one of other views or settings.
    """
    tensors, header = read_tensors(path, FORMAT, "a checkpoint of a NeRF fit", newest=FORMAT_VERSION)
    if header["inputs"] != inputs:
        raise ValueError(f"checkpoint {path} belongs to a fit of other views or settings: delete it to start over")
    field = {k.removeprefix("field."): v for k, v in tensors.items() if k.startswith("field.")}
    optimizer: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            optimizer.setdefault(int(index), {})[name] = value
    return header["counters"], {"field": field, "optimizer": optimizer, "generator": tensors["generator"]}
