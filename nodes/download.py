"""Weights from the Hugging Face hub, fetched in a process of their own so that the user can cancel at once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ..gd_core.views import Progress

# What the loader offers, and what a user should know before fetching it.
HUB_MODELS = {"ashawkey/mvdream-sd2.1-diffusers@main": "2.6 GB (MVDream v2.1, CreativeML OpenRAIL licence)"}
MEGABYTES = 2600
POLL = 0.25  # seconds
DOWNLOAD = "import sys; from gd_core.diffusion.hub import download; download(sys.argv[1])"


def downloaded(source: str) -> Path | None:
    """The folder of `owner/name@revision` if all of its weights are on this machine."""
    repository, revision = source.split("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    complete = all(any((folder / part).glob("*.safetensors")) for part in ("unet", "vae", "text_encoder"))
    return folder if complete else None


def fetch(source: str, progress: Progress) -> Path:
    """Download a model into the hub's cache; its folder.

    Raises:
        ConnectionError: it did not work; with the reason.
    """
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{source.split('@')[0].replace('/', '--')}" / "blobs"
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", DOWNLOAD, source], cwd=Path(__file__).parents[1], stderr=errors, encoding="utf-8"
        )
        try:
            while process.poll() is None:
                done = sum(file.stat().st_size for file in blobs.glob("*")) // 1_000_000
                progress(min(done, MEGABYTES - 1), MEGABYTES, None)
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
