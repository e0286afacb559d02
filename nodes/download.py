"""Weights from the Hugging Face hub, fetched in a process of their own so that the user can cancel at once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ..gd_core.views import Progress

# What the loader offers, and what a user should know before fetching it.
HUB_MODELS = {"ashawkey/mvdream-sd2.1-diffusers@main": "2.6 GB (MVDream v2.1, CreativeML OpenRAIL licence)"}
MEGABYTES = 2600
POLL = 0.25  # seconds
PACK = str(Path(__file__).parents[1])
# The import path is handed over: Python as ComfyUI's portable build for Windows ships it has no other.
DOWNLOAD = "import sys; sys.path[:] = sys.argv[2:]; from gd_core.diffusion.hub import download; download(sys.argv[1])"
QUIET = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # else Windows opens a console


def downloaded(source: str) -> Path | None:
    """The folder of `owner/name@revision` if all of its weights are on this machine."""
    repository, revision = source.split("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    complete = all(any((folder / part).glob("*.safetensors")) for part in ("unet", "vae", "text_encoder"))
    return folder if complete else None


def size_of(folder: Path) -> int:
    """Bytes of the files in `folder`, some of which may be renamed meanwhile."""
    size = 0
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def fetch(source: str, progress: Progress) -> Path:
    """Download a model into the hub's cache; its folder.

    Raises:
        ConnectionError: it did not work; with the reason.
    """
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{source.split('@')[0].replace('/', '--')}" / "blobs"
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-c", DOWNLOAD, source, PACK, *sys.path]
        process = subprocess.Popen(command, stderr=errors, encoding="utf-8", creationflags=QUIET)
        try:
            while process.poll() is None:
                progress(min(size_of(blobs) // 1_000_000, MEGABYTES - 1), MEGABYTES, None)
                time.sleep(POLL)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        last_line = errors.read().strip().rpartition("\n")[2]
    folder = downloaded(source)
    if folder is None:
        raise ConnectionError(last_line.partition(": ")[2] or f"{source} could not be downloaded")
    return folder
