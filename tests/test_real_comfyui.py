"""The pack in a real ComfyUI: `COMFY_DIR` names its tree, `COMFY_PYTHON` an interpreter with its requirements."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from tools import workflows

ROOT = Path(__file__).parents[1]
COMFY_DIR = os.environ.get("COMFY_DIR")
COMFY_PYTHON = os.environ.get("COMFY_PYTHON", sys.executable)
# Small enough that the whole of this file takes minutes on a laptop.
SMALL = {
    "GroundedDreamerLoadMVDream": {"model": "tiny (bundled)"},
    "GroundedDreamerSampleViews": {"steps": 4},
    "GroundedDreamerFitNeRF": {"steps": 100},
    "GroundedDreamerRefineSDS": {"steps": 2},
    "GroundedDreamerExportMesh": {"resolution": 48, "texture_size": 128, "target_faces": 800},
    "GroundedDreamerTurntable": {"frames": 3, "size": 64},
}
LONG = {"GroundedDreamerSampleViews": {"steps": 500}, "GroundedDreamerFitNeRF": {"steps": 50_000}}
LARGE = {
    "ExportMesh": {"resolution": 256, "texture_size": 2048, "target_faces": 50_000},
    "Turntable": {"frames": 120, "size": 512},
}

pytestmark = pytest.mark.skipif(not COMFY_DIR, reason="COMFY_DIR is not set: no real ComfyUI to run the nodes in")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """URL and base directory of a server with nothing but this pack."""
    base = tmp_path_factory.mktemp("comfy")
    for folder in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (base / folder).mkdir()
    (base / "custom_nodes/grounded-dreamer").symlink_to(ROOT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--cpu", "--port", str(port), "--base-directory", str(base), "--disable-api-nodes", "--disable-auto-launch"]
    options += ["--database-url", f"sqlite:///{base / 'user/comfyui.db'}"]
    with open(base / "log", "w") as log:
        process = subprocess.Popen([COMFY_PYTHON, "main.py", *options], cwd=COMFY_DIR, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(until_ready(url, process, base / "log"))
        yield url, base
    finally:
        process.terminate()
        process.wait(20)


async def until_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    async with aiohttp.ClientSession() as http:
        while process.poll() is None:
            try:
                async with http.get(f"{url}/system_stats"):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.3)
    raise RuntimeError(f"ComfyUI did not start:\n{log.read_text()[-3000:]}")


def small(name: str, **more: dict) -> dict:
    """An example workflow with settings for tests; `more`: inputs by class type without our prefix."""
    prompt = workflows.to_api(workflows.load(name))
    if name == "full_quality_mvdream":  # the tiny model stands in, and has words for other things
        more = {"FocusPrompt": {"prompt": "a red cube next to a blue sphere"}} | more
    more["SampleViews"] = {"seed": workflows.names().index(name)} | more.get("SampleViews", {})  # nothing in common to cache
    for entry in prompt.values():
        entry["inputs"] |= SMALL.get(entry["class_type"], {})
        entry["inputs"] |= more.get(entry["class_type"].removeprefix("GroundedDreamer"), {})
    return prompt


def run(url: str, prompt: dict, interrupt_at: str | None = None, step: int = 3) -> dict:
    """Queue a prompt and follow it; `interrupt_at`: class type at whose `step` the user cancels."""
    return asyncio.run(_run(url, prompt, interrupt_at, step))


async def _run(url: str, prompt: dict, interrupt_at: str | None, step: int) -> dict:
    seen = {"cached": [], "previews": 0, "texts": 0} | dict.fromkeys(("status", "idle_s", "left", "refused", "error"))
    first_steps = seen["first_steps"] = {}  # by class type
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/ws?clientId=test", max_msg_size=0) as ws,
    ):
        async with http.post(f"{url}/prompt", json={"prompt": prompt, "client_id": "test"}) as response:
            answer = await response.json()
            if answer.get("node_errors") or response.status != 200:  # the nodes that these do not concern may run
                return seen | {"status": "refused", "refused": answer}
        asked = None
        async for message in ws:
            if message.type == aiohttp.WSMsgType.BINARY:
                kind = int.from_bytes(message.data[:4], "big")
                seen["previews"] += kind in (1, 4)
                seen["texts"] += kind == 3
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if kind == "execution_cached":
                seen["cached"] = data["nodes"]
            running = kind == "progress" and prompt[data["node"]]["class_type"]
            if running:
                first_steps.setdefault(running, data["value"])
                seen["left"] = data["max"] - data["value"]
            if interrupt_at and asked is None and running == interrupt_at and data["value"] >= step:
                async with http.post(f"{url}/interrupt"):
                    asked = time.monotonic()
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                idle = None if asked is None else time.monotonic() - asked
                return seen | {"status": kind.removeprefix("execution_"), "idle_s": idle, "error": data}
    raise RuntimeError("the server closed the connection")


def expect_interrupted(stopped: dict, record_property) -> None:
    """The node did not come to its end. The seconds until ComfyUI was idle go into the report (`--junit-xml`): they are 2 at
    most on an idle machine, and a busy one is no error."""
    record_property("idle_s", stopped["idle_s"])
    assert stopped["status"] == "interrupted" and stopped["left"] > 0


@pytest.mark.parametrize("name", workflows.names())
def test_every_workflow_runs_and_the_second_time_from_cache(server, name):
    url, base = server
    first = run(url, small(name))
    assert first["status"] == "success", first["error"]
    assert first["previews"] > 0 and first["texts"] > 0
    again = run(url, small(name))
    assert again["status"] == "success" and set(again["cached"]) >= set(small(name))


@pytest.mark.parametrize("node", list(LONG))
def test_an_interrupt_ends_the_node_midway_and_the_next_run_works(server, node, record_property):
    url, _ = server
    stopped = run(url, small("quick_start_tiny", **{node.removeprefix("GroundedDreamer"): LONG[node] | {"seed": 5}}), node)
    expect_interrupted(stopped, record_property)
    assert run(url, small("quick_start_tiny"))["status"] == "success"


@pytest.mark.parametrize(
    ("node", "step"),
    # percent of the mesh: in density, surface, decimation, xatlas, rasterising, baking, padding or encoding
    [("ExportMesh", percent) for percent in (1, 31, 40, 51, 65, 80, 100)] + [("Turntable", 1)],
)
def test_an_interrupt_ends_the_node_midway_at_large_sizes(server, node, step, record_property):
    name = {"ExportMesh": "quick_start_tiny", "Turntable": "turntable_video"}[node]
    stopped = run(server[0], small(name, **{node: LARGE[node]}), f"GroundedDreamer{node}", step)
    expect_interrupted(stopped, record_property)


@pytest.mark.parametrize(("node", "steps", "stop"), [("FitNeRF", 300, 200), ("RefineSDS", 24, 12)])
def test_the_run_after_an_interrupt_goes_on_where_it_stopped(server, node, steps, stop):
    prompt = small("quick_start_tiny", **{node: {"steps": steps, "seed": 7}})
    assert run(server[0], prompt, f"GroundedDreamer{node}", stop)["status"] == "interrupted"
    again = run(server[0], prompt)
    assert again["status"] == "success" and again["first_steps"][f"GroundedDreamer{node}"] >= stop
    started_over = run(server[0], small("quick_start_tiny", **{node: {"steps": steps + 1, "seed": 7}}))
    assert started_over["first_steps"][f"GroundedDreamer{node}"] < stop


@pytest.mark.parametrize(
    ("node", "inputs", "complaint"),
    [
        ("ExportMesh", {"target_faces": 500_000}, "too many to unwrap"),
        ("ExportMesh", {"resolution": 1024}, "bigger than max"),
        ("ExportMesh", {"filename_prefix": "../../x"}, "leads out of the output folder"),
        ("FocusPrompt", {"focus": "{"}, "not valid JSON"),
        ("FocusPrompt", {"focus": '{"v":1,"focus":[{"word":"dog"}]}'}, "'dog' is not in the prompt"),
        ("FocusPrompt", {"prompt": "cube " * 2000}, "10000 characters"),
        ("LoadMVDream", {"model": "../../x.pt"}, "no model"),
        ("SampleViews", {"model": ["3", 0]}, "mismatch"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(server, node, inputs, complaint):
    url, base = server
    before = sorted(base.parent.glob("*"))
    refused = run(url, small("quick_start_tiny", **{node: inputs}))
    assert refused["status"] == "refused"
    text = json.dumps(refused["refused"])
    assert complaint in text and "Traceback" not in text
    assert sorted(base.parent.glob("*")) == before


def test_an_unconnected_input_is_named(server):
    prompt = small("quick_start_tiny")
    sampler = next(entry for entry in prompt.values() if entry["class_type"] == "GroundedDreamerSampleViews")
    del sampler["inputs"]["model"]
    refused = run(server[0], prompt)
    assert refused["status"] == "refused" and "Required input is missing" in json.dumps(refused["refused"])


def test_a_word_that_the_tiny_model_does_not_know_is_named(server):
    failed = run(server[0], small("quick_start_tiny", FocusPrompt={"prompt": "a red giraffe"}))
    assert failed["status"] == "error" and "does not know the word 'giraffe'" in failed["error"]["exception_message"]


def test_routes_answer_and_refuse_junk(server):
    async def ask(path, **request):
        async with aiohttp.ClientSession() as http, http.post(f"{server[0]}/grounded_dreamer/{path}", **request) as response:
            return response.status, await response.json()

    status, answer = asyncio.run(ask("words", json={"prompt": "a red cube"}))
    assert status == 200 and [w["word"] for w in answer["words"] if w["subject"]] == ["cube"]
    for path in ("words", "attention"):
        assert asyncio.run(ask(path, data=b"\0junk"))[0] == 400


def test_the_stand_in_has_the_real_signatures():
    """What `tests/nodes` runs against takes the arguments that the real functions take."""
    done = subprocess.run(
        [COMFY_PYTHON, ROOT / "tests/nodes/compare_stand_in.py", COMFY_DIR], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
