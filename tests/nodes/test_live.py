"""What the focus widget is told, live and over its routes."""

from __future__ import annotations

import asyncio
import base64

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer


@pytest.fixture(scope="module")
def events(pack, nodes):
    """Events of a sampling run of four steps."""
    from server import PromptServer  # noqa: PLC0415

    with torch.inference_mode():
        model = nodes["LoadMVDream"].execute(model="small", download=False, precision="auto").args[0]
        prompt = nodes["FocusPrompt"].execute(prompt="A red cube and a blue sphere", negative_prompt="", focus="").args[0]
        PromptServer.instance.events.clear()
        inputs = {item.id: item.default for item in nodes["SampleViews"].define_schema().inputs if item.default is not None}
        nodes["SampleViews"].execute(**inputs | {"model": model, "prompt": prompt, "seed": 1, "steps": 4})
    return [data for name, data in PromptServer.instance.events if name == "grounded_dreamer.attention"]


def test_events_tell_steps_words_and_views(events):
    assert events[0]["step"] == 1 and events[0]["state"] == "running" and events[-1]["state"] == "done"
    assert events[-2]["step"] == events[-2]["total"] == 4
    for event in events:
        assert event["node"] == event["sampler"] == "7" and event["run"] == events[0]["run"]
        height, width = event["map_size"]
        assert {"cube", "sphere"} <= {word["word"] for word in event["words"]}
        for word in event["words"]:
            assert len(base64.b64decode(word["map"])) == 4 * height * width and word["scale"] > 0
        assert len(event["views"]) == 4 and all(view.startswith("data:image/jpeg;base64,") for view in event["views"])
    focus = {word["word"]: word for word in events[-1]["words"]}
    assert 0 <= focus["cube"]["attention"] <= 1 and focus["red"]["attention"] is None


def test_a_run_cut_short_says_so(pack):
    from server import PromptServer  # noqa: PLC0415

    live, types = pack.nodes.routes.live, sys_modules(pack, "types")
    PromptServer.instance.events.clear()
    from comfy.model_management import InterruptProcessingException  # noqa: PLC0415

    for error, state in ((InterruptProcessingException, "interrupted"), (ValueError, "failed"), (MemoryError, "failed")):
        with pytest.raises(error), live.LiveAttention(types.FocusedPrompt("a cube", "", None, "3"), "4", "w"):
            raise error
        assert PromptServer.instance.events[-1][1]["state"] == state


def sys_modules(pack, name):
    import sys  # noqa: PLC0415

    return sys.modules[f"{pack.__name__}.nodes.{name}"]


def post(pack, path, **request):
    """Status and JSON of one request to our routes."""

    async def ask():
        app = web.Application()
        app.router.add_post("/grounded_dreamer/words", pack.nodes.routes.words)
        app.router.add_post("/grounded_dreamer/attention", pack.nodes.routes.attention)
        async with TestClient(TestServer(app)) as client, client.post(path, **request) as response:
            return response.status, await response.json()

    return asyncio.run(ask())


def test_the_words_of_a_prompt(pack):
    prompt = "A cube, a red cube on Müller's 2nd-hand table"
    status, answer = post(pack, "/grounded_dreamer/words", json={"text": prompt})
    assert status == 200 and answer["text_clean"] == prompt and answer["notes"] == answer["unknown"] == []
    assert [(w["word"], w["occurrence"]) for w in answer["words"] if w["word"] == "cube"] == [("cube", 0), ("cube", 1)]
    assert all(prompt[w["start"] : w["end"]].lower() == w["label"].lower() == w["word"] for w in answer["words"])
    assert {w["word"] for w in answer["words"] if w["subject"]} == {"cube", "table"}
    of_second = {w["word"] for w in answer["words"] if w["phrase"] == 1}
    assert of_second == {"red", "cube"}
    assert {w["focus"] for w in answer["words"] if w["subject"]} == {1.0}


def test_what_is_typed_and_what_is_meant(pack):
    text = "\U0001f642 (Cube:1.3) and a  “red” spheer\n(toy:1.1), BREAK a \U0001f642 giraffe"
    status, answer = post(pack, "/grounded_dreamer/words", json={"text": text, "model": "tiny (bundled)"})
    clean = answer["text_clean"]
    assert clean == '\U0001f642 Cube and a "red" spheer toy, a \U0001f642 giraffe'
    utf16 = clean.encode("utf-16-le")
    for word in answer["words"]:
        assert utf16[2 * word["start"] : 2 * word["end"]].decode("utf-16-le") == word["label"]
    assert {w["word"]: w["weight"] for w in answer["words"] if w["weight"]} == {"cube": 1.3, "toy": 1.1}
    assert len(answer["notes"]) == 1 and "BREAK" in answer["notes"][0]
    assert answer["unknown"] == [{"word": "spheer", "nearest": "sphere"}, {"word": "giraffe", "nearest": None}]


def test_the_route_names_stale_focus_words(pack):
    focus = '{"v": 1, "focus": [{"word": "cube"}, {"word": "dog"}, {"word": "cube", "occurrence": 1}]}'
    notes = post(pack, "/grounded_dreamer/words", json={"text": "a red cube", "focus": focus})[1]["notes"]
    assert len(notes) == 2 and "'dog'" in notes[0] and "only once" in notes[1]


def test_a_reloaded_page_gets_the_last_event(pack, events):
    ask = {"workflow": None, "node": "7", "prompt": "A red cube and a blue sphere"}
    status, answer = post(pack, "/grounded_dreamer/attention", json=ask)
    assert status == 200 and answer == events[-1]
    assert post(pack, "/grounded_dreamer/attention", json=ask | {"prompt": None})[1]["run"] == events[-1]["run"]


@pytest.mark.parametrize("other", [{"workflow": "another"}, {"node": "8"}, {"prompt": "another"}])
def test_events_are_kept_by_workflow_node_and_prompt(pack, events, other):
    ask = {"workflow": None, "node": "7", "prompt": "A red cube and a blue sphere"} | other
    assert post(pack, "/grounded_dreamer/attention", json=ask) == (200, {"run": None})


@pytest.mark.parametrize(
    ("extra", "workflow"), [(None, None), ({}, None), ({"workflow": {"id": "w"}}, "w"), ({"workflow": {}}, None)]
)
def test_the_workflow_is_the_one_that_the_browser_sends(pack, extra, workflow):
    assert pack.nodes.routes.live.workflow_id(extra) == workflow


@pytest.mark.parametrize("path", ["/grounded_dreamer/words", "/grounded_dreamer/attention"])
@pytest.mark.parametrize(
    "request_",
    [
        {"data": b""},
        {"data": b"\xff\xfe{"},
        {"data": b"[" * 50_000},
        {"data": b"{" + b" " * 200_000},
        {"json": []},
        {"json": {}},
        {"json": {"text": 5, "node": 5}},
        {"json": {"text": {"a": 1}, "node": ["7"]}},
        {"json": {"text": "a cube", "model": 3, "node": ["7"]}},
        {"json": {"text": "x" * 30_000, "node": "x" * 300}},
    ],
)
def test_junk_gets_400_and_a_sentence(pack, path, request_):
    status, answer = post(pack, path, **request_)
    assert status == 400 and list(answer) == ["error"] and "Traceback" not in answer["error"] and len(answer["error"]) < 200


def test_memory_is_bounded(pack):
    live = pack.nodes.routes.live
    for index in range(100):
        live._remember({"workflow": "w", "node": str(index), "prompt": "p", "run": "x"})
    assert len(live._memory) == live.REMEMBERED_RUNS
    assert live.remembered("w", "99", None) and not live.remembered("w", "0", None)


def test_the_samplers_strip_is_told_of_candidates_and_keeps_the_verdicts(run, nodes):
    from server import PromptServer  # noqa: PLC0415

    with torch.inference_mode():
        model = nodes["LoadMVDream"].execute(model="small", download=False, precision="auto").args[0]
    prompt = run("FocusPrompt", prompt="a red cube and a blue sphere").args[0]
    PromptServer.instance.events.clear()
    out = run("SampleViews", model=model, prompt=prompt, seed=3, steps=4, candidates=3, batch_size=2, refocus=False)
    told = [data for name, data in PromptServer.instance.events if name == "grounded_dreamer.verdicts"]
    assert [event["node"] for event in told] == ["7", "7"]
    for index, (event, views, seed) in enumerate(zip(told, out.args[0], out.args[3], strict=True)):
        assert [c["seed"] for c in event["candidates"]] == [str(3 + index + k * 1_000_000) for k in range(3)]
        assert event["winner"] == str(seed) == str(views.seed)
        assert all(c["views"].startswith("data:image/jpeg;base64,") for c in event["candidates"])
    kept = out.ui["gd_verdicts"]
    assert [v["name"] for v in kept[0]["verdicts"]] == ["red cube", "blue sphere"] and len(kept) == 2


def test_a_missing_subject_is_told_in_words(run, nodes, monkeypatch, caplog):
    from dataclasses import replace  # noqa: PLC0415

    with torch.inference_mode():
        model = nodes["LoadMVDream"].execute(model="small", download=False, precision="auto").args[0]
    recipe = model.model.recipe
    lost = replace(recipe.verdict, final=(-9.0, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(model.model, "recipe", replace(recipe, verdict=lost))
    prompt = run("FocusPrompt", prompt="a red cube and a blue sphere").args[0]
    run("SampleViews", model=model, prompt=prompt, steps=2)
    assert "'red cube' and 'blue sphere' are probably missing from the views" in caplog.text
