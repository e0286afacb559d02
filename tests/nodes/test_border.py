"""What is said on a node: progress from the start, sensible times, and every decision that was taken without asking."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
HEAVY = ("diffusers", "transformers", "trimesh", "networkx", "accelerate", "skimage")


@pytest.fixture
def border(pack):
    return sys.modules[f"{pack.__name__}.nodes.border"]


@pytest.fixture
def said(pack):
    """What nodes said, as (node, text)."""
    from server import PromptServer  # noqa: PLC0415

    PromptServer.instance.texts.clear()
    return PromptServer.instance.texts


@pytest.fixture
def clock(border, monkeypatch):
    """A clock that the test turns."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(border.time, "monotonic", lambda: now.time)
    return now


def test_a_node_speaks_before_its_first_step(border, said):
    border.NodeProgress(SimpleNamespace(hidden=SimpleNamespace(unique_id="3")), "fitting the field")
    assert said == [("3", "fitting the field: preparing")]


def test_time_left_runs_down_and_is_not_told_while_nobody_knows(border, said, clock):
    progress = border.NodeProgress(SimpleNamespace(hidden=SimpleNamespace(unique_id="3")), "making the mesh")
    for step in range(11):  # a step a second
        progress(step, 100, None)
        clock.time += 1
    assert said[-1][1] == "making the mesh: 10 of 100, 1 min 30 s left"
    lefts = []
    for _ in range(20):  # and then the eleventh takes its time
        progress(10, 100, None)
        lefts.append(said[-1][1].partition(", ")[2])
        clock.time += 1
    told = [text for text in lefts if text]
    assert told == ["1 min 29 s left", "1 min 28 s left", "1 min 27 s left"] and lefts[len(told) :] == [""] * (20 - len(told))


def decided(pack, name, text):
    logging.getLogger(f"{pack.__name__}.{name}").warning(text)


@pytest.mark.parametrize("name", ["gd_core.nerf.evidence", "gd_core.distillation.refinement", "nodes.files"])
def test_what_was_decided_on_the_way_is_said_on_the_node(pack, border, said, name):
    @border.at_the_border
    def execute(cls):
        border.tell(cls, "the report")
        decided(pack, name, "view 3 is left out")
        decided(pack, name, "view 3 is left out")
        logging.getLogger("another.pack").warning("not ours")
        return SimpleNamespace(args=(), ui=None)

    execute(SimpleNamespace(hidden=SimpleNamespace(unique_id="9")))
    assert said[-1] == ("9", "the report\nview 3 is left out")


def test_one_subject_says_that_refocusing_rests(run, said):
    model = run("LoadMVDream", model="small").args[0]
    run("SampleViews", model=model, prompt=run("FocusPrompt", prompt="a red cube").args[0], steps=2)
    assert "refocusing rests" in said[-1][1]


def test_a_view_with_an_empty_mask_is_named_on_the_node(run, ball, said):
    masks = torch.ones(4, 32, 32)
    masks[:, :8] = masks[:, -8:] = masks[:, :, :8] = masks[:, :, -8:] = 0
    masks[2] = 0
    views = run("ViewsFromImages", images=ball, masks=masks).args[0]
    run("FitNeRF", views=views, steps=3)
    assert "views 2 have an empty mask" in said[-1][1]


def test_a_checkpoint_that_cannot_be_kept_is_no_reason_to_stop(border, pack, run, ball, said, monkeypatch, base):
    views = run("ViewsFromImages", images=ball).args[0]
    (base / "temp").mkdir(exist_ok=True)
    blocked = base / "temp/grounded_dreamer"
    if blocked.is_dir():
        for file in blocked.iterdir():
            file.unlink()
        blocked.rmdir()
    blocked.write_text("a file where the folder should be")
    try:
        assert run("FitNeRF", views=views, steps=3).args
    finally:
        blocked.unlink()
    assert "starts over" in said[-1][1]


def test_importing_the_pack_imports_nothing_that_takes_seconds(base):
    code = f"""
import importlib.util, sys
from pathlib import Path
sys.path.insert(0, "{STAND_IN.as_posix()}")
import folder_paths
folder_paths.use(Path(sys.argv[1]))
spec = importlib.util.spec_from_file_location("pack", "{ROOT.as_posix()}/__init__.py", submodule_search_locations=[sys.argv[2]])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, str(base), str(ROOT)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
