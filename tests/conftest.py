"""Property tests draw the same examples in every run, since a suite that fails must fail again; and shapes are checked."""

import os

# Before torch is imported here or in a process that a test starts: on a busy machine two threads wait for each other at every
# small operation, and on an idle one they gain nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401  by name below

install_import_hook("gd_core", "tests.shapes.checked")  # before anything, the plugin below too, imports gd_core

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_terminal_summary(terminalreporter) -> None:
    """Say whether the nodes ran in a real ComfyUI: a green suite without one has not tried them there."""
    tree = os.environ.get("COMFY_DIR")
    ran = f"the nodes ran in the ComfyUI of COMFY_DIR ({tree})"
    none = "no real ComfyUI was tried: set COMFY_DIR to a tree of it to run the nodes in one"
    terminalreporter.write_line(ran if tree else none)


pytest_plugins = ["tests.small_clip"]
