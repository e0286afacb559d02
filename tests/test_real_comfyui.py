"""The pack in a real ComfyUI: `COMFY_DIR` names its tree, `COMFY_PYTHON` an interpreter with its requirements."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest
import torch
import trimesh
from PIL import Image

from gd_core.rigs import chosen_cameras
from tests.nerf.conftest import draw
from tests.web.conftest import FLAGS, chromium
from tools import workflows
from tools.comfyui import COMFY_DIR, COMFY_PYTHON, RUN_ON_PAGE, running

ROOT = Path(__file__).parents[1]
# Small enough that the whole of this file takes minutes on a laptop.
SMALL = {
    "GroundedDreamerLoadMVDream": {"model": "toys (bundled)"},
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
    with running(base) as url:
        yield url, base


def small(name: str, **more: dict) -> dict:
    """An example workflow with settings for tests; `more`: inputs by class type without our prefix."""
    prompt = workflows.to_api(workflows.load(name))
    if name == "2_full_quality_mvdream":  # the bundled model stands in, and has words for other things
        more = {"FocusPrompt": {"prompt": "a red cube next to a blue sphere"}} | more
    more["SampleViews"] = {"seed": workflows.names().index(name)} | more.get("SampleViews", {})  # nothing in common to cache
    for entry in prompt.values():
        entry["inputs"] |= SMALL.get(entry["class_type"], {})
        entry["inputs"] |= more.get(entry["class_type"].removeprefix("GroundedDreamer"), {})
    return prompt


def run(url: str, prompt: dict, interrupt_at: str | None = None, step: int = 3, text_at: str | None = None) -> dict:
    """Queue a prompt and follow it; `interrupt_at`: class type at whose `step` the user cancels, `text_at`: at whose first
    word."""
    return asyncio.run(_run(url, prompt, interrupt_at, step, text_at))


def post(url: str, path: str, body: dict) -> dict:
    async def ask():
        async with aiohttp.ClientSession() as http, http.post(f"{url}/grounded_dreamer/{path}", json=body) as response:
            return await response.json()

    return asyncio.run(ask())


def with_defaults(url: str, prompt: dict) -> dict:
    """A prompt whose nodes of ours have every input that it does not name at the value of a new node."""

    async def ask(node):
        async with aiohttp.ClientSession() as http, http.get(f"{url}/object_info/{node}") as response:
            return (await response.json())[node]["input"]

    for entry in prompt.values():
        if entry["class_type"].startswith("GroundedDreamer"):
            declared = asyncio.run(ask(entry["class_type"]))
            for name, (_, *more) in (declared.get("required", {}) | declared.get("optional", {})).items():
                if more and "default" in more[0]:
                    entry["inputs"].setdefault(name, more[0]["default"])
    return prompt


async def _run(url: str, prompt: dict, interrupt_at: str | None, step: int, text_at: str | None) -> dict:
    seen = {"cached": [], "previews": 0, "texts": 0} | dict.fromkeys(("status", "idle_s", "left", "refused", "error"))
    first_steps = seen["first_steps"] = {}  # by class type
    said = seen["said"] = {}  # what each node said of itself, by class type
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
                if kind == 3:
                    node, text = node_text(message.data)
                    said.setdefault(prompt[node]["class_type"], []).append(text)
                    if asked is None and prompt[node]["class_type"] == text_at:
                        async with http.post(f"{url}/interrupt"):
                            asked = time.monotonic()
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if kind == "execution_cached":
                seen["cached"] = data["nodes"]
            running = kind == "progress" and prompt[data["node"]]["class_type"]
            if running and data["value"]:  # 0 is the preparation
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


def node_text(data: bytes) -> tuple[str, str]:
    """Node id and text of a progress text message."""
    size = int.from_bytes(data[4:8], "big")
    return data[8 : 8 + size].decode(), data[8 + size :].decode()


NEEDS_WEIGHTS = "7_views_to_hunyuan3d"  # of Hunyuan3D, which nothing small stands in for


def test_the_workflow_for_hunyuan3d_passes_the_servers_validation(server):
    url, base = server
    checkpoint = base / "models/checkpoints/hunyuan3d-dit-v2-mv_fp16.safetensors"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.touch()
    prompt = workflows.to_api(workflows.load(NEEDS_WEIGHTS))
    for entry in prompt.values():
        if entry["class_type"] == "GroundedDreamerLoadMVDream":
            entry["inputs"]["model"] = "toys (bundled)"
    assert asyncio.run(accepted(url, prompt)) == {}
    next(e for e in prompt.values() if e["class_type"] == "KSampler")["inputs"]["sampler_name"] = "nonsense"
    assert "14" in asyncio.run(accepted(url, prompt))


async def accepted(url: str, prompt: dict) -> dict:
    """The errors by node with which the server answers a prompt; nothing of it runs to the end."""
    async with aiohttp.ClientSession(url) as http:
        async with http.post("/prompt", json={"prompt": prompt}) as answer:
            errors = (await answer.json())["node_errors"]
        await http.post("/queue", json={"clear": True})
        await http.post("/interrupt", json={})
    return errors


@pytest.mark.parametrize("name", sorted({*workflows.names()} - {NEEDS_WEIGHTS}))
def test_every_workflow_runs_and_the_second_time_from_cache(server, name):
    url, base = server
    first = run(url, small(name))
    assert first["status"] == "success", first["error"]
    assert first["previews"] > 0 and first["texts"] > 0
    again = run(url, small(name))
    assert again["status"] == "success" and set(again["cached"]) >= set(small(name))


def test_parts_and_views_go_on_to_cores_nodes_and_a_saved_mesh_comes_back_to_be_painted(server):
    url, base = server
    prompt = small("8_parts_by_word", ExportMesh={"filename_prefix": "3d/doors"})
    node = {entry["class_type"].removeprefix("GroundedDreamer"): number for number, entry in prompt.items()}
    orbit = {"mode": "orbit", "mode.yaw": 30.0, "mode.pitch": 20.0, "mode.distance": 4.0, "roll": 0.0, "fov": 35.0, "zoom": 1.0}
    views = [node["SampleViews"], 0]
    prompt |= {
        "20": {
            "class_type": "GroundedDreamerViewsByName",
            "inputs": {"views": views, "front_azimuth": 90.0, "size": 64, "margin": 0.15},
        },
        "21": {"class_type": "PreviewImage", "inputs": {"images": ["20", 3]}},
        "22": {
            "class_type": "CreateCameraInfo",
            "inputs": orbit | {f"target_{axis}": 0.0 for axis in "xyz"} | {"camera_type": "perspective"},
        },
        "23": {"class_type": "SaveGLB", "inputs": {"mesh": [node["ExportMesh"], 3], "filename_prefix": "3d/part"}},
    }
    prompt[node["Turntable"]]["inputs"] |= {"camera_info": ["22", 0]}
    done = run(url, prompt)
    assert done["status"] == "success", done["error"]
    whole = trimesh.load(base / "output/3d/doors_00001_.glb")
    assert {"pink rabbit", "cyan house"} <= set(whole.geometry)
    assert len(list((base / "output/3d").glob("part_*.glb"))) == len(whole.geometry)  # core saves each part of the list
    prompt |= {
        "24": {"class_type": "GroundedDreamerLoadMesh", "inputs": {"file": "3d/doors_00001_.glb [output]"}},
        "25": {
            "class_type": "GroundedDreamerProjectViews",
            "inputs": {"mesh": ["24", 0], "views": views, "texture_size": 128, "min_agreement": 0.5},
        },
        "26": {"class_type": "SaveGLB", "inputs": {"mesh": ["25", 0], "filename_prefix": "3d/painted"}},
    }
    done = run(url, prompt)
    assert done["status"] == "success", done["error"]
    (painted,) = trimesh.load(base / "output/3d/painted_00001_.glb").geometry.values()
    assert painted.visual.material.baseColorTexture.size == (128, 128)
    assert painted.bounds == pytest.approx(whole.bounds, abs=1e-3)  # it is back where it was


@pytest.mark.parametrize("node", list(LONG))
def test_an_interrupt_ends_the_node_midway_and_the_next_run_works(server, node, record_property):
    url, _ = server
    stopped = run(url, small("1_quick_start", **{node.removeprefix("GroundedDreamer"): LONG[node] | {"seed": 5}}), node)
    expect_interrupted(stopped, record_property)
    assert run(url, small("1_quick_start"))["status"] == "success"


@pytest.mark.parametrize(
    ("node", "step"),
    # percent of the mesh: in density, surface, decimation, xatlas, rasterising, baking, padding or encoding
    [("ExportMesh", percent) for percent in (1, 31, 40, 51, 65, 80, 100)] + [("Turntable", 1)],
)
def test_an_interrupt_ends_the_node_midway_at_large_sizes(server, node, step, record_property):
    name = {"ExportMesh": "1_quick_start", "Turntable": "6_turntable_video"}[node]
    stopped = run(server[0], small(name, **{node: LARGE[node]}), f"GroundedDreamer{node}", step)
    if step == 100:  # the mesh is there and is being encoded: nothing is left of the bar
        stopped["left"] = 1
    expect_interrupted(stopped, record_property)


@pytest.mark.parametrize(("node", "steps", "stop"), [("FitNeRF", 300, 200), ("RefineSDS", 24, 12)])
def test_the_run_after_an_interrupt_goes_on_where_it_stopped(server, node, steps, stop):
    prompt = small("1_quick_start", **{node: {"steps": steps, "seed": 7}})
    assert run(server[0], prompt, f"GroundedDreamer{node}", stop)["status"] == "interrupted"
    again = run(server[0], prompt)
    assert again["status"] == "success" and again["first_steps"][f"GroundedDreamer{node}"] >= stop
    started_over = run(server[0], small("1_quick_start", **{node: {"steps": steps + 1, "seed": 7}}))
    assert started_over["first_steps"][f"GroundedDreamer{node}"] < stop


@pytest.mark.parametrize(
    ("node", "inputs", "complaint"),
    [
        ("ExportMesh", {"resolution": 1024}, "bigger than max"),
        ("ExportMesh", {"filename_prefix": "../../x"}, "leads out of the output folder"),
        ("FocusPrompt", {"prompt": "cube " * 2000}, "characters"),
        ("FocusPrompt", {"prompt": " "}, "the prompt is empty"),
        ("LoadMVDream", {"model": "../../x.pt"}, "no model"),
        ("SampleViews", {"model": ["3", 0]}, "mismatch"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(server, node, inputs, complaint):
    url, base = server
    before = sorted(base.parent.glob("*"))
    refused = run(url, small("1_quick_start", **{node: inputs}))
    assert refused["status"] == "refused"
    text = json.dumps(refused["refused"])
    assert complaint in text and "Traceback" not in text
    assert sum(len(entry["errors"]) for entry in refused["refused"]["node_errors"].values()) == 1  # one bad value, one error
    assert sorted(base.parent.glob("*")) == before


def sheet_of_views(base: Path, side: int, name: str) -> dict:
    """A graph over a picture of four views in a row, with transparency: Load Image, Views from Images, a short fit."""
    views = draw(chosen_cameras(4, 1.0, rig="Hunyuan3D-2mv"), size=64)
    pixels = torch.cat((views.images, views.masks[..., None]), dim=-1).movedim(0, 1).reshape(64, 256, 4)
    picture = Image.fromarray((pixels * 255).round().byte().numpy()).resize((4 * side, side), Image.Resampling.NEAREST)
    picture.save(base / "input" / name)
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "InvertMask", "inputs": {"mask": ["1", 1]}},
        "3": {
            "class_type": "GroundedDreamerViewsFromImages",
            "inputs": {
                "images": ["1", 0], "masks": ["2", 0], "prompt": "", "elevation": 15.0, "azimuth_start": 90.0,
                "azimuth_span": 360.0, "fov": 40.0, "distance": 3.0, "rig": "Hunyuan3D-2mv",
            },
        },
        "4": {"class_type": "GroundedDreamerFitNeRF", "inputs": {"views": ["3", 0], "steps": 20, "seed": 0}},
        "5": {"class_type": "GroundedDreamerSaveField", "inputs": {"field": ["4", 0], "filename_prefix": "x"}},
    }  # fmt: skip


def test_load_images_mask_is_inverted_and_the_remedy_works(server):
    url, base = server
    prompt = with_defaults(url, sheet_of_views(base, 64, "small.png"))
    prompt["3"]["inputs"]["masks"] = ["1", 1]
    wrong = run(url, prompt)
    assert wrong["status"] == "error" and "Invert Mask" in wrong["error"]["exception_message"]
    prompt["3"]["inputs"]["masks"] = ["2", 0]
    assert run(url, prompt)["status"] == "success"


def test_a_fit_of_large_images_is_interrupted_while_it_prepares(server, record_property):
    url, base = server
    stopped = run(url, with_defaults(url, sheet_of_views(base, 1536, "large.png")), text_at="GroundedDreamerFitNeRF")
    record_property("idle_s", stopped["idle_s"])
    assert stopped["status"] == "interrupted" and "GroundedDreamerFitNeRF" not in stopped["first_steps"]


def test_an_unconnected_input_is_named(server):
    prompt = small("1_quick_start")
    sampler = next(entry for entry in prompt.values() if entry["class_type"] == "GroundedDreamerSampleViews")
    del sampler["inputs"]["model"]
    refused = run(server[0], prompt)
    assert refused["status"] == "refused" and "Required input is missing" in json.dumps(refused["refused"])


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a red giraffe", "does not know the word 'giraffe' of the prompt. It is"),  # and nothing is like it
        ("a red spheer", "Did you mean 'sphere'?"),
        ("a purpel cube", "Did you mean 'purple'?"),
    ],
)
def test_a_word_that_the_model_does_not_know_is_the_prompts_error(server, prompt, says):
    failed = run(server[0], small("1_quick_start", FocusPrompt={"prompt": prompt}))
    assert failed["status"] == "error" and says in failed["error"]["exception_message"]
    assert failed["error"]["node_type"] == "GroundedDreamerFocusPrompt"


def only_views(**more: dict) -> dict:
    """Model, prompt, sampler and a preview: views alone."""
    prompt = small("1_quick_start", **more)
    kept = {"GroundedDreamerLoadMVDream", "GroundedDreamerFocusPrompt", "GroundedDreamerSampleViews"}
    prompt = {i: entry for i, entry in prompt.items() if entry["class_type"] in kept}
    sampler = next(i for i, entry in prompt.items() if entry["class_type"] == "GroundedDreamerSampleViews")
    prompt["99"] = {"class_type": "PreviewImage", "inputs": {"images": [sampler, 1]}}
    return prompt


@pytest.mark.parametrize(
    ("prompt", "focus", "words"),
    [
        ("a (red:1.3) cube and a blue sphere", "", {"red": 1.3, "cube": 1, "sphere": 1}),  # core's Ctrl+Up
        ("a red cube and a blue sphere", {"dog": 2, "red": 0.5}, {"red": 0.5}),  # a stale word is left out
        ("a red cube and a blue sphere BREAK embedding:toy", "", {"cube": 1, "sphere": 1}),
    ],
)
def test_prompts_as_people_write_them_run(server, prompt, focus, words):
    if focus:
        entries = [{"word": word, "occurrence": 0, "weight": weight} for word, weight in focus.items()]
        focus = json.dumps({"v": 1, "focus": entries})
    done = run(server[0], only_views(FocusPrompt={"prompt": prompt, "focus": focus}, SampleViews={"seed": 31}))
    assert done["status"] == "success", done["error"]
    asked = post(server[0], "words", {"text": prompt})
    if not focus:
        assert {w["word"]: w["focus"] for w in asked["words"] if w["focus"] is not None} == words


def test_refining_is_cancelled_within_a_step(server, record_property):
    prompt = small("1_quick_start", RefineSDS={"steps": 500, "seed": 9})
    expect_interrupted(run(server[0], prompt, "GroundedDreamerRefineSDS", 2), record_property)


def test_the_mesh_ends_on_its_report_and_one_subject_says_that_refocusing_rests(server):
    done = run(server[0], small("1_quick_start", FocusPrompt={"prompt": "a red cube"}))
    assert done["status"] == "success"
    said = done["said"]
    assert "triangles" in said["GroundedDreamerExportMesh"][-1]
    assert "refocusing rests" in said["GroundedDreamerSampleViews"][-1]
    assert all(lines for lines in said.values())


def test_routes_answer_and_refuse_junk(server):
    async def ask(path, **request):
        async with aiohttp.ClientSession() as http, http.post(f"{server[0]}/grounded_dreamer/{path}", **request) as response:
            return response.status, await response.json()

    status, answer = asyncio.run(ask("words", json={"text": "a red cube"}))
    assert status == 200 and [w["word"] for w in answer["words"] if w["subject"]] == ["cube"]
    for path in ("words", "attention"):
        assert asyncio.run(ask(path, data=b"\0junk"))[0] == 400


def test_the_stand_in_has_the_real_signatures():
    """What `tests/nodes` runs against takes the arguments that the real functions take."""
    done = subprocess.run(
        [COMFY_PYTHON, ROOT / "tests/nodes/compare_stand_in.py", COMFY_DIR], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- the page


@pytest.fixture(scope="module", params=["classic", "Nodes 2.0"])
def page(server, request):
    """ComfyUI's own page with the quick start on it, in either renderer."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page's tests need the Python package playwright")
    if not chromium():
        pytest.skip("the page's tests need Chromium: apt-get install chromium, or name one in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        page = browser.new_context(viewport={"width": 1500, "height": 1000}).new_page()
        page.set_default_timeout(240_000)
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(server[0]) else route.abort())
        page.goto(server[0], wait_until="domcontentloaded")
        page.wait_for_function("() => window.app?.graph && window.app.canvas && window.app.extensionManager")
        vue = request.param == "Nodes 2.0"
        page.evaluate("vue => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue)", vue)
        page.graph = workflows.load("1_quick_start")
        yield page
        browser.close()


FOCUS = "app.graph.nodes.find(node => node.type === 'GroundedDreamerFocusPrompt')"


def open_graph(page) -> None:
    page.evaluate("graph => app.loadGraphData(graph)", page.graph)
    look_at(page, FOCUS)
    page.wait_for_selector('.gd-chip.gd-focused[data-key="rabbit"]')


def look_at(page, node: str) -> None:
    look = "node => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [80 - node.pos[0], 120 - node.pos[1]]; }"
    page.evaluate(f"() => {{ ({look})({node}); app.canvas.setDirty(true, true); }}")
    page.wait_for_timeout(1000)


def value(page, node: str = FOCUS) -> str:
    return page.evaluate(f"{node}.widgets.find(widget => widget.name === 'focus').value")


def test_the_properties_panel_leaves_the_widget_as_it_is(page):
    open_graph(page)
    size = "[...document.querySelectorAll('.gd-focus')].filter(e => e.offsetWidth).map(e => [e.offsetWidth, e.offsetHeight])"
    before = page.evaluate(size)
    page.evaluate(f"app.canvas.selectNode({FOCUS})")
    page.get_by_role("button", name="Toggle properties panel").first.click()
    page.wait_for_timeout(2000)
    assert page.evaluate(size) == before and len(before) == 1
    page.get_by_role("button", name="Toggle properties panel").first.click()


def test_chips_on_a_subgraph_node_write_the_promoted_value_and_survive_a_reload(page):
    open_graph(page)
    page.evaluate(
        f"""() => {{
            const {{subgraph, node}} = app.graph.convertToSubgraph(new Set([{FOCUS}]));
            const [inner] = subgraph.nodes;
            for (const name of ["prompt", "focus"]) {{
              subgraph.addInput(name, "STRING").connect(inner.inputs.find(slot => slot.name === name), inner);
            }}
        }}"""
    )
    outer = "app.graph.nodes.find(node => node.subgraph)"
    page.wait_for_function(f"() => {outer}.widgets.some(widget => widget.name === 'focus chips')")
    look_at(page, outer)
    chips = "document.querySelectorAll('.gd-focus:not(.gd-locked) .gd-chip[data-key=pink]')"
    page.evaluate(f"{chips}.forEach(chip => chip.click())")
    page.wait_for_timeout(600)
    weights = {entry["word"]: entry["weight"] for entry in json.loads(value(page, outer))["focus"]}
    assert weights == {"pink": 1, "rabbit": 1, "house": 1}
    sent = page.evaluate("async () => Object.values((await app.graphToPrompt()).output)")
    prompt = next(entry for entry in sent if entry["class_type"] == "GroundedDreamerFocusPrompt")
    assert json.loads(prompt["inputs"]["focus"])["focus"][0]["word"] == "pink"
    page.evaluate("() => app.loadGraphData(app.rootGraph.serialize())")
    page.wait_for_function(f"() => {outer}?.widgets.some(widget => widget.name === 'focus chips')")
    look_at(page, outer)
    page.wait_for_selector('.gd-focus:not(.gd-locked) .gd-focused[data-key="pink"]')


@pytest.mark.parametrize("prefix", ["3d/%date:yyyy%/x", "%Load MVDream.precision%/x", "3d/%Focus Prompt.prompt%"])
def test_prefixes_are_resolved_as_core_resolves_them(page, prefix):
    open_graph(page)
    page.evaluate("() => app.graph.nodes.forEach(node => (node.title ||= node.type))")
    export = "app.graph.nodes.find(node => node.type === 'GroundedDreamerExportMesh')"
    page.evaluate(f"prefix => {{ {export}.widgets.find(w => w.name === 'filename_prefix').value = prefix }}", prefix)
    sent = page.evaluate("async () => Object.values((await app.graphToPrompt()).output)")
    written = next(entry for entry in sent if entry["class_type"] == "GroundedDreamerExportMesh")["inputs"]["filename_prefix"]
    assert "%" not in written and written.count("/") >= 1


def test_slots_of_ours_have_colours_of_their_own(page):
    types = ["GD_MODEL", "GD_PROMPT", "GD_VIEWS", "GD_FIELD", "GD_SCORES"]
    colours = page.evaluate("types => types.map(type => app.canvas.constructor.link_type_colors[type])", types)
    assert len(set(colours)) == len(types) and all(colours)
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    page.wait_for_timeout(1500)
    assert page.evaluate("types => types.map(type => app.canvas.constructor.link_type_colors[type])", types) == colours
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


def test_a_run_from_the_page_shows_its_views_on_the_chips(page):
    open_graph(page)
    page.evaluate(
        """settings => {
            for (const node of app.graph.nodes) for (const [name, value] of Object.entries(settings[node.type] ?? {})) {
              const widget = node.widgets?.find(widget => widget.name === name);
              if (widget) widget.value = value;
            }
        }""",
        SMALL,
    )
    ended = page.evaluate(RUN_ON_PAGE)
    assert ended[0] == "execution_success", ended
    page.wait_for_selector(".gd-view-image:not([hidden])")
    page.graph = page.graph | {"id": "00000000-0000-4000-8000-000000000001"}
    open_graph(page)  # another workflow with a node of this id
    page.wait_for_timeout(1500)
    assert page.locator(".gd-view-image:not([hidden])").count() == 0
