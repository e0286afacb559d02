"""Reading weights from disk without running anything that is in them, and putting them into a model without a copy.

Files are memory-mapped and models are built on the meta device, so loading costs what converting the dtype costs, and a model
either gets every weight or is never seen by anybody.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..files import PICKLE, SAFETENSORS, UNKNOWN, ZIP, kind_of

StateDict = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_OWN_PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")


def read_weights(path: Path) -> StateDict:
    """All tensors of one file, or of every weight file (shard) of a folder, memory-mapped.

    A file is read as what its first bytes say: safetensors, or PyTorch's own with `weights_only=True`, so that no code in it
    runs; what trainers wrap around the weights is taken off (`unwrapped`). In a folder safetensors come before pickles, and of
    two precisions of the same weights the full one.

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
    found = sorted(file for file in folder.iterdir() if file.is_file())
    files = [file for file in found if file.suffix.lower() == ".safetensors"]
    files = files or [file for file in found if file.suffix.lower() in _PICKLES]
    full = [file for file in files if ".fp16." not in file.name]
    if not files:
        raise FileNotFoundError(f"{folder} has no weights (.safetensors or .pt): choose the folder or file of the model")
    return full or files


def _read_file(path: Path) -> StateDict:
    """By what the file is, not by what its name says: many a `.pt` is a web page, and many a safetensors file a `.bin`."""
    kind = kind_of(path)
    try:
        if kind == SAFETENSORS:
            return load_file(path)
        if kind == PICKLE or (kind == ZIP and _is_torch_archive(path)):
            with torch.serialization.safe_globals(_HARMLESS):
                return unwrapped(torch.load(path, map_location="cpu", weights_only=True, mmap=kind == ZIP), path)
    except SafetensorError as error:
        raise ValueError(f"{path} is a safetensors file that is damaged or cut short ({error}): download it again") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise ValueError(
                f"{path} was refused: it holds more than weights (code that would run on loading: {found[1]}). "
                "Use a .safetensors file, or get the checkpoint from its authors"
            ) from error
        if "Unsupported operand" in str(error):
            raise ValueError(
                f"{path} was refused: it holds instructions that weights do not need, so it may run code, or is damaged. "
                "Use a .safetensors file, or get the checkpoint from its authors"
            ) from error
        raise ValueError(f"{path} is a PyTorch checkpoint that is damaged or cut short: download it again") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is a PyTorch checkpoint that is damaged or cut short ({error}): download it again") from error
    if kind == UNKNOWN:
        wanted = ".safetensors" if path.suffix.lower() == ".safetensors" else ".safetensors or .pt"
        raise ValueError(f"{path} is not a checkpoint, or is cut short: give a whole {wanted} file, or a model's folder")
    raise ValueError(f"{path} is not a checkpoint, but {kind}")


def _is_torch_archive(path: Path) -> bool:
    """A zip that `torch.save` wrote; a file that is cut short, without its directory, counts as one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return True


class _TrainingState:
    """Stands for objects of training frameworks in a checkpoint, which are read past. It has no code."""


# What Lightning's checkpoints hold beside tensors (as ComfyUI's loader lets pass): numbers of numpy, and the callback's name.
_HARMLESS = [
    (_TrainingState, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (_TrainingState, "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint"),
    (np.core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np.core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
]
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "weights", "params", "ema_state_dict", "net")
_PREFIXES = ("module.", "_forward_module.", "model.")


def unwrapped(loaded: object, path: Path) -> StateDict:
    """The weights within what trainers save: Lightning's `state_dict`, others' `model` or `module`; prefixes that a wrapper of
    the whole model puts before every name (DataParallel, Fabric, a Lightning module, torch.compile) go.

    Raises:
        ValueError: there are no weights in it.
    """
    for _ in range(3):
        inside = [name for name in _WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping)]
        if not inside:
            break
        loaded = loaded[inside[0]]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds no dictionary of weights, but {type(loaded).__name__}")
    named = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    weights = {name.replace("_orig_mod.", ""): value for name, value in named.items()}
    if not weights:
        raise ValueError(f"{path} holds no weights: nothing in it is a tensor ({', '.join(map(str, list(loaded)[:5]))})")
    while (prefix := _common_prefix(weights)) is not None:
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _common_prefix(names: Mapping[str, Tensor]) -> str | None:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in names):
            # MVDream's own names begin with "model.", too: of a UNet alone all of them do.
            own = prefix == "model." and not any(name.startswith(_OWN_PARTS, len(prefix)) for name in names)
            return None if own else prefix
    return None


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
