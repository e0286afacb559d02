"""A ComfyUI server with nothing but this pack, from the tree that `COMFY_DIR` names, with the interpreter `COMFY_PYTHON`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMFY_DIR = os.environ.get("COMFY_DIR")
RUN_ON_PAGE = """async () => {
  const ends = ["execution_success", "execution_error", "execution_interrupted"];
  const ended = new Promise(done => {
    for (const name of ends) app.api.addEventListener(name, ({detail}) => done([name, detail]), {once: true});
  });
  await app.queuePrompt(0);
  return await ended;
}"""  # for a browser with the page open: queues its graph; [how it ended, the event's detail]
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user/default")


def interpreter() -> str:
    """`COMFY_PYTHON`, else the environment in or beside the tree, else this one."""
    tree = Path(COMFY_DIR or ".")
    usual = [folder / name / "bin/python" for folder in (tree, tree.parent) for name in (".venv", "venv")]
    return os.environ.get("COMFY_PYTHON") or next((str(path) for path in usual if path.exists()), sys.executable)


COMFY_PYTHON = interpreter()


@contextmanager
def running(base: Path, seconds: float = 600, api_nodes: bool = False) -> Iterator[str]:
    """Start a server on a free port with `base` for its folders, yield its address once it answers, and stop it.

    Without `api_nodes` the server forbids its page all that is not its own, the textures inside a GLB among it.

    Raises:
        RuntimeError: it did not answer within `seconds`; with the end of its log.
    """
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    settings = {"Comfy.TutorialCompleted": True}  # else the template browser covers the first graph
    (base / "user/default/comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")
    if not (base / "custom_nodes/grounded-dreamer").exists():
        (base / "custom_nodes/grounded-dreamer").symlink_to(ROOT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--cpu", "--port", str(port), "--base-directory", str(base), "--disable-auto-launch"]
    options += [] if api_nodes else ["--disable-api-nodes"]
    options += ["--database-url", f"sqlite:///{base / 'user/comfyui.db'}"]
    with open(base / "log", "w") as log:
        process = subprocess.Popen([COMFY_PYTHON, "main.py", *options], cwd=COMFY_DIR, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        if not until_ready(url, process, seconds):
            raise RuntimeError(f"ComfyUI did not start:\n{(base / 'log').read_text()[-3000:]}")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def until_ready(url: str, process: subprocess.Popen, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/system_stats"):
                return True
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.3)
    return False
