"""Reading weights from disk without running anything that is in them, and putting them into a model without a copy.

Files are memory-mapped and models are built on the meta device, so loading costs what converting the dtype costs, and a model
either gets every weight or is never seen by anybody.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

StateDict = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")


def read_weights(path: Path) -> StateDict:
    """All tensors of one file, or of every weight file (shard) of a folder, memory-mapped.

    `.safetensors` files, and `.pt`/`.pth`/`.ckpt`/`.bin` files with `weights_only=True`, so that no code in them runs. In a
    folder safetensors come before pickles, and of two precisions of the same weights the full one.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: what is there is damaged, holds code, or is not weights.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.is_file():
        return _read_file(path)
    weights: StateDict = {}
    for shard in weight_files(path):
        for name, tensor in _read_file(shard).items():
            if name in weights:
                raise ValueError(f"{path} holds '{name}' in two files: keep only the shards of one model in a folder")
            weights[name] = tensor
    return weights


def weight_files(folder: Path) -> list[Path]:
    """The files of one model's weights in `folder`, in order of their names."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        files = sorted(file for file in folder.iterdir() if file.suffix in _PICKLES)
    full = [file for file in files if ".fp16." not in file.name]
    if not files:
        raise FileNotFoundError(f"{folder} has no weights (.safetensors or .pt): choose the folder or file of the model")
    return full or files


def _read_file(path: Path) -> StateDict:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file or is cut short ({error}): download it again") from error
    if path.suffix not in _PICKLES:
        raise ValueError(f"{path} is not a checkpoint: give a .safetensors or .pt file, or a model's folder")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: it holds more than weights (code that would run on loading), or is damaged. "
            "Use a .safetensors file, or get the checkpoint from its authors"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a PyTorch checkpoint or is cut short ({error}): download it again") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"{path} is not a flat dictionary of weights as MVDream publishes them")
    return weights


def empty_model(build: Callable[[], Model], what: str) -> Model:
    """A model without weights, from a `build` that allocates nothing. ValueError: its config makes no model."""
    try:
        with torch.device("meta"):
            return build()
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"{what} has weights or a config that make no such model ({error}): download it again") from error


def load_strictly(build: Callable[[], Model], weights: Mapping[str, Tensor], dtype: torch.dtype, what: str) -> Model:
    """A model whose every parameter is one of `weights`, in evaluation mode, sharing memory with them where the dtype allows.

    Args:
        build: makes the model; called on the meta device, so it allocates and initialises nothing.
        weights: exactly the model's parameters.
        dtype: of the model.
        what: names the part and its source in errors.

    Raises:
        ValueError: a weight is missing, left over, of another shape, or not finite.
    """
    model = empty_model(build, what)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = {
        "missing": sorted(expected.keys() - given.keys()),
        "not known": sorted(given.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(given[name])} for {list(shape)}"
            for name, shape in expected.items()
            if given.get(name, shape) != shape
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{len(names)} {problem}, such as {names[0]}" for problem, names in problems.items() if names)
        raise ValueError(f"the weights of {what} do not fit its config: {told}. Give an MVDream checkpoint, unchanged")
    for name, tensor in weights.items():
        # A sum passes every NaN and infinity on, in one read and without a second tensor.
        if not (tensor.is_meta or torch.isfinite(tensor.sum(dtype=torch.float32))):
            raise ValueError(f"weight '{name}' of {what} holds NaN or infinite values: the file is damaged, download it again")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, strict=True, assign=True)
    return model.eval()
