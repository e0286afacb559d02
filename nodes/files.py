"""Where nodes may write: ComfyUI's output folder for results, its temp folder for checkpoints. And what they offer to load."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import folder_paths

from ..gd_core.files import fingerprint, refuse_long_name, refuse_unwritable_folder

ROOM_FOR_NUMBER = "_00001_.field.safetensors"  # the longest that is put behind a prefix
REFUSED_SIGNS = ':*?"<>|' if os.name == "nt" else ""
ROOTS = {"output": folder_paths.get_output_directory, "input": folder_paths.get_input_directory}
log = logging.getLogger(__name__)


def refuse_prefix(filename_prefix: str) -> str | None:
    """Why files cannot be saved under this prefix, or None."""
    root = Path(folder_paths.get_output_directory()).resolve()
    if not filename_prefix.strip() or "\0" in filename_prefix:
        return "filename_prefix is empty: give a name such as 3d/dream"
    if len(filename_prefix) > 200:
        return f"filename_prefix has {len(filename_prefix)} characters: shorten it to 200"
    name = filename_prefix.replace("\\", "/")
    if not name.rpartition("/")[2].strip(" ."):
        return f"filename_prefix '{filename_prefix}' ends without a name: give one such as 3d/dream"
    if odd := sorted(set(name) & set(REFUSED_SIGNS)):
        return f"filename_prefix '{filename_prefix}' has {' '.join(odd)}, which this system takes in no name: leave that out"
    path = root / name
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


class OffersFiles:
    """A node whose input `file` lists the files below the output and input folders, named as core annotates them.

    `SUFFIXES`: what their names end in, small letters. `KIND`, `REMEDY`: what a refusal calls one, and how to get one.
    """

    SUFFIXES: tuple[str, ...]
    KIND: str
    REMEDY: str

    @classmethod
    def files(cls) -> list[str]:
        found = []
        for kind, root in ROOTS.items():
            paths = (path for path in Path(root()).rglob("*") if path.name.lower().endswith(cls.SUFFIXES))
            found += [f"{name} [{kind}]" for name in sorted(path.relative_to(root()).as_posix() for path in paths)]
        return found

    @classmethod
    def found(cls, file: str) -> Path | None:
        """Where a name of the list lies, None for any other; the folders are not walked again, they may hold a lot."""
        name, _, kind = file.rpartition(" ")
        root = ROOTS.get(kind.strip("[]"))
        if root is None or "\0" in name or not name.lower().endswith(cls.SUFFIXES):
            return None
        path = Path(os.path.abspath(Path(root(), name)))
        return path if path.is_relative_to(os.path.abspath(root())) and path.is_file() else None

    @classmethod
    def validate_inputs(cls, file=None) -> bool | str:
        if file is not None and cls.found(file) is None:
            return f"there is no {cls.KIND} file '{file[:200]}': choose one from the list, or {cls.REMEDY}"
        return True

    @classmethod
    def fingerprint_inputs(cls, file=None):
        path = None if file is None else cls.found(file)
        if path is None:
            return file
        # Textures and buffers of such a file lie beside it.
        several = path.parent.iterdir() if path.suffix.lower() in (".obj", ".gltf") else [path]
        return max(one.stat().st_mtime_ns for one in several if one.is_file())

    @classmethod
    def path_of(cls, file: str) -> str:
        valid = cls.validate_inputs(file)
        if valid is not True:
            raise ValueError(valid)
        return str(cls.found(file))


def checkpoint_path(kind: str, *inputs) -> Path | None:
    """Where a run with exactly these inputs keeps its checkpoint, so that after an interrupt the same run goes on from it.

    None where there is no room for checkpoints: the run is worth more than the chance to go on with it.
    """
    folder = Path(folder_paths.get_temp_directory()) / "grounded_dreamer"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("no checkpoint can be kept in %s (%s): an interrupted run starts over", folder, error.strerror)
        return None
    return folder / f"{kind}-{fingerprint(*inputs)[:24]}.safetensors"


def forget(checkpoint: Path | None) -> None:
    """A finished run needs its checkpoint no longer."""
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
