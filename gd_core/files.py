"""Files that are there whole or not at all: a full disk or a kill never leaves half of one under its final name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there takes the place of `path` once the body is done.

    If the body raises, the file that was there stays as it was and the temporary one is removed.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
