"""The process that downloads weights."""

from __future__ import annotations

import os
import subprocess
import sys


def test_it_finds_the_pack_where_python_looks_nowhere_else(pack):
    """ComfyUI's portable build for Windows runs Python isolated: the current folder is not searched."""
    download = pack.nodes.download
    command = [sys.executable, "-I", "-c", download.DOWNLOAD, "owner/name@main", download.PACK, *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert "ConnectionError: owner/name@main could not be downloaded" in done.stderr


def test_a_file_that_is_renamed_meanwhile_is_no_error(pack, tmp_path):
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    assert pack.nodes.download.size_of(tmp_path) == 10
