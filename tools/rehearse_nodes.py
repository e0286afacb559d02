"""The rehearsal's nodes: a real ComfyUI runs the full-quality graph on a random model; seconds and memory of each node.

`COMFY_DIR` names ComfyUI's tree, `COMFY_PYTHON` an interpreter with its requirements. The views of random weights show nothing,
so the fit gets a picture of a ball, four times, through *Views from Images*; the sampler's views end in a preview.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil

from gd_core.runs import write_png
from gd_core.views import ViewSet

ROOT = Path(__file__).parents[1]
NAME = "rehearsal"  # of the bundle in models/mvdream, and of the picture
START_SECONDS, POLL_SECONDS = 900, 0.25


def graph(prompt: str, steps: int, fit_steps: int, dtype: str, mesh: dict) -> dict[str, tuple[str, dict]]:
    """Node by its id: class without our prefix where it is ours, and the inputs that are not defaults."""
    precision = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "auto": "auto"}[dtype]
    return {
        "model": ("GroundedDreamerLoadMVDream", {"model": NAME, "precision": precision}),
        "prompt": ("GroundedDreamerFocusPrompt", {"prompt": prompt}),
        "sampler": ("GroundedDreamerSampleViews", {"model": ["model", 0], "prompt": ["prompt", 0], "steps": steps}),
        "preview": ("PreviewImage", {"images": ["sampler", 1]}),
        "picture": ("LoadImage", {"image": f"{NAME}.png"}),
        "pictures": ("RepeatImageBatch", {"image": ["picture", 0], "amount": 4}),
        "views": ("GroundedDreamerViewsFromImages", {"images": ["pictures", 0], "prompt": prompt}),
        "fit": ("GroundedDreamerFitNeRF", {"views": ["views", 0], "steps": fit_steps}),
        "refine": (
            "GroundedDreamerRefineSDS",
            {"field": ["fit", 0], "views": ["views", 0], "model": ["model", 0], "steps": steps},
        ),
        "mesh": ("GroundedDreamerExportMesh", {"field": ["refine", 0], **mesh}),
    }


def rehearse(bundle: Path, views: ViewSet, nodes: dict[str, tuple[str, dict]]) -> list[dict]:
    """Run `nodes` in a ComfyUI of their own; a row for each node that took time. RuntimeError: one of them failed."""
    comfy = os.environ.get("COMFY_DIR")
    if not comfy:
        raise ValueError("COMFY_DIR is not set: it names the tree of the ComfyUI to rehearse in")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        base = Path(folder)
        for name in ("custom_nodes", "models/mvdream", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True)
        (base / "custom_nodes/grounded-dreamer").symlink_to(ROOT)
        (base / "models/mvdream" / NAME).symlink_to(bundle.resolve())
        write_png(views.images[0], base / "input" / f"{NAME}.png")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        options = ["--cpu", "--port", str(port), "--base-directory", folder, "--disable-api-nodes", "--disable-auto-launch"]
        options += ["--database-url", f"sqlite:///{base / 'user/comfyui.db'}"]
        command = [os.environ.get("COMFY_PYTHON", sys.executable), "main.py", *options]
        with open(base / "log", "w") as log:
            server = subprocess.Popen(command, cwd=comfy, stdout=log, stderr=subprocess.STDOUT)
        try:
            return asyncio.run(_follow(f"http://127.0.0.1:{port}", server, nodes, base / "log"))
        finally:
            server.terminate()
            server.wait(30)


async def _follow(url: str, server: subprocess.Popen, nodes: dict[str, tuple[str, dict]], log: Path) -> list[dict]:
    async with aiohttp.ClientSession() as http:
        await _until_ready(http, url, server, log)
        prompt = {
            name: {"class_type": kind, "inputs": await _inputs(http, url, kind, given)} for name, (kind, given) in nodes.items()
        }
        async with http.ws_connect(f"{url}/ws?clientId=rehearsal", max_msg_size=0) as ws:
            async with http.post(f"{url}/prompt", json={"prompt": prompt, "client_id": "rehearsal"}) as response:
                answer = await response.json()
            if response.status != 200 or answer.get("node_errors"):
                raise RuntimeError(f"ComfyUI refused the graph: {json.dumps(answer)[:2000]}")
            return await _rows(ws, psutil.Process(server.pid), log)


async def _rows(ws, process: psutil.Process, log: Path) -> list[dict]:
    """A row a node, from the server's own events; memory is looked at between them."""
    rows: list[dict] = []
    while True:
        try:
            message = await ws.receive(POLL_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            message = None
        resident = process.memory_info().rss / 1e9
        if rows:
            rows[-1]["resident_gb"] = max(rows[-1]["resident_gb"], resident)
            rows[-1]["seconds"] = time.monotonic() - rows[-1]["begun"]
        if message is None or message.type == aiohttp.WSMsgType.BINARY:
            continue
        if message.type != aiohttp.WSMsgType.TEXT:
            raise RuntimeError(f"the server closed the connection:\n{log.read_text()[-2000:]}")
        event = json.loads(message.data)
        kind, data = event["type"], event["data"]
        if kind == "executing" and data["node"] is not None:
            rows.append({"stage": f"node {data['node']}", "begun": time.monotonic(), "seconds": 0.0, "resident_gb": resident})
        elif kind == "execution_success":
            return [{key: value for key, value in row.items() if key != "begun"} for row in rows]
        elif kind in ("execution_error", "execution_interrupted"):
            raise RuntimeError(f"node {data.get('node_id')} failed: {data.get('exception_message')}")


async def _inputs(http: aiohttp.ClientSession, url: str, kind: str, given: dict) -> dict:
    """The node's defaults, and what is given."""
    async with http.get(f"{url}/object_info/{kind}") as response:
        required = (await response.json())[kind]["input"]["required"]
    defaults = {name: spec[1]["default"] for name, spec in required.items() if len(spec) > 1 and "default" in spec[1]}
    return defaults | given


async def _until_ready(http: aiohttp.ClientSession, url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            async with http.get(f"{url}/system_stats"):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.5)
    raise RuntimeError(f"ComfyUI did not start:\n{log.read_text()[-2000:]}")
