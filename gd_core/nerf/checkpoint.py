"""The state of a fit in a file, to go on from as if it had not stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from ..files import not_safetensors, write_tensors
from ..views import ViewSet
from .field import RadianceField

if TYPE_CHECKING:
    from .fit import FitConfig

FORMAT = "grounded-dreamer-fit"
FORMAT_VERSION = 1


def fingerprint(views: ViewSet, config: FitConfig) -> str:
    """Hash of what a fit works on; a checkpoint goes on only with the same views and settings."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for tensor in (views.images, views.masks, *vars(views.cameras).values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} {not_safetensors(path, error)}") from error
    if header.get("format") != FORMAT or header["version"] > FORMAT_VERSION:
        raise ValueError(f"{path} is not a checkpoint of a NeRF fit that this release can read")
    if header["inputs"] != inputs:
        raise ValueError(f"checkpoint {path} belongs to a fit of other views or settings: delete it to start over")
    field = {k.removeprefix("field."): v for k, v in tensors.items() if k.startswith("field.")}
    optimizer: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            optimizer.setdefault(int(index), {})[name] = value
    return header["counters"], {"field": field, "optimizer": optimizer, "generator": tensors["generator"]}
