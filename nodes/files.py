"""Where nodes may write: ComfyUI's output folder for results, its temp folder for checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import folder_paths
import torch
from torch import Tensor

from ..gd_core.cameras import Cameras
from ..gd_core.files import refuse_long_name, refuse_unwritable_folder
from ..gd_core.views import ViewSet

ROOM_FOR_NUMBER = "_00001_.field.safetensors"  # the longest that is put behind a prefix


def refuse_prefix(filename_prefix: str) -> str | None:
    """Why files cannot be saved under this prefix, or None."""
    root = Path(folder_paths.get_output_directory()).resolve()
    if not filename_prefix.strip() or "\0" in filename_prefix:
        return "filename_prefix is empty: give a name such as 3d/dream"
    if len(filename_prefix) > 200:
        return f"filename_prefix has {len(filename_prefix)} characters: shorten it to 200"
    path = root / filename_prefix.replace("\\", "/")
    if not path.resolve().is_relative_to(root):
        return f"filename_prefix '{filename_prefix}' leads out of the output folder: leave out '..' and leading slashes"
    try:
        refuse_unwritable_folder(path.parent)
        refuse_long_name(path.with_name(path.name + ROOM_FOR_NUMBER))
    except ValueError as error:
        return f"filename_prefix '{filename_prefix[:60]}': {error}"
    return None


def new_output(filename_prefix: str, suffix: str) -> tuple[Path, dict[str, str]]:
    """The next free path under ComfyUI's output folder, numbered as core numbers files, and how the browser asks for it."""
    reason = refuse_prefix(filename_prefix)
    if reason:
        raise ValueError(reason)
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, folder_paths.get_output_directory())
    filename = f"{name}_{counter:05}_{suffix}"
    return Path(folder) / filename, {"filename": filename, "subfolder": subfolder, "type": "output"}


def checkpoint_path(kind: str, *inputs) -> Path:
    """Where a run with exactly these inputs keeps its checkpoint, so that after an interrupt the same run goes on from it."""
    folder = Path(folder_paths.get_temp_directory()) / "grounded_dreamer"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}-{fingerprint(*inputs)[:24]}.safetensors"


def fingerprint(*inputs) -> str:
    """SHA-256 of values: tensors by content, dataclasses by fields, the rest by `repr`."""
    digest = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, ViewSet):  # not its provenance, which holds timings
            add([value.images, value.masks, value.cameras, value.prompt, value.negative_prompt])
        elif isinstance(value, Cameras):
            add(list(vars(value).values()))
        elif isinstance(value, torch.nn.Module):
            add(sorted(value.state_dict().items()))
        elif dataclasses.is_dataclass(value):
            add([getattr(value, field.name) for field in dataclasses.fields(value)])
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}".encode())
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode() + b";")

    add(inputs)
    return digest.hexdigest()
