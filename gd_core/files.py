"""Files that are there whole or not at all: a full disk or a kill never leaves half of one under its final name."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

LONGEST_NAME = 240  # bytes of a file's name: file systems take 255, and what is unfinished ends in ".tmp"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there takes the place of `path` once the body is done.

    If the body raises, the file that was there stays as it was and the temporary one is removed. Whoever writes it, the file
    has the mode of the one that it replaces, or of any new file here (safetensors alone would keep it from all but its owner).
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_unwritable(path: str | Path, *, overwrite: bool = True) -> None:
    """ValueError, before any work is done, for a file that could not be written in the end: its folder is missing or closed,
    its name is too long (in bytes), it is a folder, or it exists and must not be replaced."""
    path = Path(path)
    folder = path.parent
    refuse_long_name(path)
    if not folder.is_dir():
        raise ValueError(f"cannot write {path.name}: there is no folder {folder}")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder, name a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write {path.name}: the folder {folder} cannot be written to")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: choose another name, or allow overwriting")


SAFETENSORS, PICKLE, ZIP, UNKNOWN = "a safetensors file", "a pickle", "a zip archive", "data of an unknown kind"
_SIGNATURES = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file that it stands for: run `git lfs pull`, or download that"),
    (b"PK\x03\x04", ZIP),
    (b"\x80", PICKLE),
    (b"GGUF", "a GGUF file, whose quantised weights are not read here"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"RIFF", "a picture or sound (RIFF)"),
    (b"glTF", "a mesh (GLB)"),
    (b"%PDF", "a PDF"),
)


def kind_of(path: str | Path) -> str:
    """What a file is by its first bytes, whatever its name says: `SAFETENSORS`, `PICKLE`, `ZIP`, or a phrase for people that
    starts with an article, such as "a web page"; `UNKNOWN` when they tell nothing."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        return "an empty file: its download was cut short"
    # First, since its length may begin with any byte, that of a pickle too.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return SAFETENSORS
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")):
        return "a web page, not the file that it may offer (log in or accept the licence there, and use its download link)"
    if text.startswith((b"{", b"[")):
        return "a JSON text, perhaps a server's answer"
    if not head.strip(b"\0"):
        return "a file of zeros, as an unfinished download leaves"
    return UNKNOWN if head.translate(None, b"\t\n\r" + bytes(range(32, 127))) else "a plain text"


def not_safetensors(path: str | Path, error: Exception) -> str:
    """Why a file that was to hold safetensors could not be read, as one clause behind its name."""
    kind = kind_of(path)
    return f"is not a safetensors file or is cut short: {error}" if kind in (SAFETENSORS, UNKNOWN) else f"is {kind}"


def refuse_unwritable_folder(folder: str | Path) -> None:
    """ValueError for a folder in which no file could be made, be it there or yet to be made."""
    folder = Path(folder).absolute()
    for named in (folder, *folder.parents):  # whether a file of such a name exists cannot even be asked
        refuse_long_name(named)
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"cannot use the folder {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"cannot use the folder {folder}: {there} cannot be written to")


def plain_sentence(error: Exception) -> str:
    """What went wrong, in words alone and on one line; of the system's errors with the file, if it names one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return " ".join(str(error).split())


def refuse_long_name(path: Path) -> None:
    """ValueError for a name that file systems do not take, which count its bytes."""
    try:
        size = len(os.fsencode(path.name))
    except UnicodeEncodeError:
        raise ValueError(f"cannot write {path.name[:40]!r}: its name has signs that the file system does not know") from None
    if size > LONGEST_NAME:
        raise ValueError(f"cannot write {path.name[:40]}...: its name has {size} bytes, shorten it to {LONGEST_NAME}")


def write_text(path: str | Path, text: str) -> None:
    """A UTF-8 file. Raises OSError when the folder does not exist, cannot be written to, or is full."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict) -> None:
    """A safetensors file of copies on the CPU, with `header` as JSON under the key "header" of its metadata.

    Raises:
        OSError: the folder does not exist, cannot be written to, or is full; names `path`.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(copies, temporary, {"header": json.dumps(header)})
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def read_tensors(path: str | Path, format: str, what: str, *, newest: int = 1) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of what `write_tensors` wrote, on the CPU.

    Args:
        format: the header's "format". what: names such a file in errors, for example "views saved by Grounded-Dreamer".
        newest: the highest "version" of the header that this release reads; a header without one has 1.

    Raises:
        ValueError: the file is damaged, holds something else, or is of a newer release; names the file and the remedy.
        FileNotFoundError: there is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} {not_safetensors(path, error)}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not hold {what}: {error}") from error
    if not isinstance(header, dict) or header.get("format") != format:
        raise ValueError(f"{path} does not hold {what}")
    version = header.get("version", 1)
    if not isinstance(version, int) or version > newest:
        raise ValueError(f"{path} has format {version}, this release reads up to {newest}: update the node pack")
    return tensors, header


def fingerprint(*values) -> str:
    """SHA-256 of values: tensors by content, modules by their state, dataclasses by their fields, the rest by `repr`.

    A class says with `fingerprinted()` what of it counts, where that is not every field.
    """
    digest = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif hasattr(value, "fingerprinted"):
            add(value.fingerprinted())
        elif isinstance(value, nn.Module):
            add(sorted(value.state_dict().items()))
        elif is_dataclass(value):
            add([getattr(value, f.name) for f in fields(value)])
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}".encode())
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode() + b";")

    add(values)
    return digest.hexdigest()
