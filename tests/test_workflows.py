"""The example graphs against the nodes' schemas: what opens on a canvas must also run."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from tests.nodes.conftest import base, nodes, pack  # noqa: F401  fixtures
from tools import workflows

NAMES = (
    "batch_of_seeds",
    "full_quality_mvdream",
    "quick_start_tiny",
    "refocusing_off_against_on",
    "turntable_video",
    "views_from_images_to_mesh",
)
CORE_OUTPUTS = {"CreateVideo": ["VIDEO"], "PreviewImage": ["IMAGE"], "SaveVideo": ["VIDEO"], "PreviewAny": ["STRING"]}


@pytest.fixture(params=NAMES)
def graph(request) -> dict:
    return workflows.load(request.param)


def test_these_are_all():
    assert tuple(workflows.names()) == NAMES


def test_values_are_ones_that_the_nodes_take(graph, nodes):  # noqa: F811
    for node_id, entry in workflows.to_api(graph).items():
        if not entry["class_type"].startswith("GroundedDreamer"):
            continue
        schema = nodes[entry["class_type"].removeprefix("GroundedDreamer")].define_schema()
        declared = {item.id: item for item in schema.inputs}
        assert set(entry["inputs"]) <= set(declared), node_id
        for name, item in declared.items():
            assert item.optional or name in entry["inputs"], (node_id, entry["class_type"], name)
            value = entry["inputs"].get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert (item.min is None or item.min <= value) and (item.max is None or value <= item.max), (node_id, name)
            if item.options is not None and (name in entry["inputs"] or not item.optional):
                assert value in item.options, (node_id, name)


def test_links_join_like_with_like(graph, nodes):  # noqa: F811
    by_id = {node["id"]: node for node in graph["nodes"]}
    for _, source, output, target, slot, kind in graph["links"]:
        entry = by_id[source]
        if entry["type"].startswith("GroundedDreamer"):
            outputs = nodes[entry["type"].removeprefix("GroundedDreamer")].define_schema().outputs
            assert outputs[output].io_type == kind and entry["outputs"][output]["name"] == outputs[output].display_name
        else:
            assert kind in CORE_OUTPUTS[entry["type"]]
        accepted = by_id[target]["inputs"][slot]["type"]
        assert accepted == "*" or kind in accepted.split(",")
        if by_id[target]["type"].startswith("GroundedDreamer"):
            schema = nodes[by_id[target]["type"].removeprefix("GroundedDreamer")].define_schema()
            item = next(item for item in schema.inputs if item.id == by_id[target]["inputs"][slot]["name"])
            assert item.io_type == kind


def test_graphs_stand_alone(graph):
    text = json.dumps(graph)
    assert not re.search(r'"[^"]*(/home/|/root|/tmp/|[A-Z]:\\\\)', text)
    assert all(node["type"].startswith("GroundedDreamer") or "GroundedDreamer" not in node["type"] for node in graph["nodes"])
    assert any(node["type"] == "MarkdownNote" for node in graph["nodes"])


def test_nodes_do_not_lie_on_each_other(graph):
    boxes = [(*node["pos"], *node["size"], node["id"]) for node in graph["nodes"]]
    for i, (x, y, width, height, first) in enumerate(boxes):
        for u, v, w, h, second in boxes[i + 1 :]:
            assert x + width <= u or u + w <= x or y + height <= v - 20 or v + h <= y - 20, (first, second)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_thumbnail(name):
    with Image.open(workflows.FOLDER / f"{name}.jpg") as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 200 and max(picture.size) <= 1024


def test_the_tiny_model_knows_the_words_of_its_graphs():
    from gd_core.diffusion import load_mvdream  # noqa: PLC0415

    model = load_mvdream("tiny", device="cpu")
    for name in NAMES:
        for entry in workflows.to_api(workflows.load(name)).values():
            if entry["class_type"] == "GroundedDreamerFocusPrompt" and name != "full_quality_mvdream":
                model.encode_prompt(entry["inputs"]["prompt"])


def test_the_six_main_nodes_wired_in_order_are_the_quick_start(nodes):  # noqa: F811
    """Sensible defaults: the quick start changes none of them but the seed of its views."""
    for entry in workflows.to_api(workflows.load("quick_start_tiny")).values():
        if entry["class_type"].startswith("GroundedDreamer"):
            for item in nodes[entry["class_type"].removeprefix("GroundedDreamer")].define_schema().inputs:
                chosen = entry["class_type"] == "GroundedDreamerSampleViews" and item.id == "seed"
                if item.default is not None and not chosen:
                    assert entry["inputs"].get(item.id, item.default) == item.default, (entry["class_type"], item.id)
