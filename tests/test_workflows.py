"""The example graphs against the nodes' schemas: what opens on a canvas must also run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.nodes.conftest import base, nodes, pack  # noqa: F401  fixtures
from tools import workflows

ROOT = Path(__file__).parents[1]

NAMES = (
    "1_quick_start",
    "2_full_quality_mvdream",
    "3_views_from_images_to_mesh",
    "4_refocusing_off_against_on",
    "5_batch_of_seeds",
    "6_turntable_video",
    "7_views_to_hunyuan3d",
    "8_parts_by_word",
)
TITLE = 30  # pixels above a node's `pos`
CORE_OUTPUTS = {
    "CreateCameraInfo": ["LOAD3D_CAMERA"],
    "CreateVideo": ["VIDEO"],
    "Preview3DAdvanced": ["LOAD3D_MODEL_INFO", "LOAD3D_CAMERA"],
    "PreviewImage": ["IMAGE"],
    "SaveVideo": ["VIDEO"],
    "PreviewAny": ["STRING"],
    "ImageOnlyCheckpointLoader": ["MODEL", "CLIP_VISION", "VAE"],
    "CLIPVisionEncode": ["CLIP_VISION_OUTPUT"],
    "Hunyuan3Dv2ConditioningMultiView": ["CONDITIONING"],
    "EmptyLatentHunyuan3Dv2": ["LATENT"],
    "ModelSamplingAuraFlow": ["MODEL"],
    "KSampler": ["LATENT"],
    "VAEDecodeHunyuan3D": ["VOXEL"],
    "VoxelToMesh": ["MESH"],
}


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


def link_course(start: tuple, end: tuple, points: int = 40) -> list[tuple]:
    """The curve that LiteGraph draws from an output to an input: its control points lie a quarter of the distance outwards."""
    reach = 0.25 * math.dist(start, end)
    x = start[0], start[0] + reach, end[0] - reach, end[0]
    y = start[1], start[1], end[1], end[1]
    course = []
    for i in range(points + 1):
        t = i / points
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        course.append(tuple(sum(w * v for w, v in zip(weights, axis, strict=True)) for axis in (x, y)))
    return course


def slot_height(node: dict, slots: str, index: int) -> float:
    """Where a slot lies; inputs with a widget are drawn with it and count for none above."""
    above = sum("widget" not in slot for slot in node[slots][:index])
    return node["pos"][1] + 20 * (above + 0.7)


def test_links_do_not_run_behind_nodes(graph):
    by_id = {node["id"]: node for node in graph["nodes"]}
    for link, source, output, target, slot, _ in graph["links"]:
        start = by_id[source]["pos"][0] + by_id[source]["size"][0], slot_height(by_id[source], "outputs", output)
        end = by_id[target]["pos"][0], slot_height(by_id[target], "inputs", slot)
        for x, y in link_course(start, end):
            for node in graph["nodes"]:
                left, top = node["pos"][0] + 2, node["pos"][1] - TITLE
                right, bottom = left + node["size"][0] - 4, node["pos"][1] + node["size"][1]
                assert not (left < x < right and top < y < bottom), (link, node["id"])


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_square_thumbnail(name):
    with Image.open(workflows.FOLDER / f"{name}.jpg") as picture:
        assert picture.format == "JPEG" and picture.width == picture.height and 200 <= picture.width <= 1024


def test_the_templates_stand_under_the_name_that_the_readme_gives():
    for language in ("en", "zh"):
        texts = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))
        assert texts["templateWorkflows"]["category"]["grounded-dreamer"] == "Grounded Dreamer"
    assert "Templates > Grounded Dreamer > 1_quick_start" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_workflow_has_an_id_of_its_own():
    """The page keys a node's views by it."""
    ids = [workflows.load(name)["id"] for name in NAMES]
    assert len(set(ids)) == len(NAMES)


def test_views_are_shown_once_and_a_preview_leaves_no_second_file(graph):
    types = [node["type"] for node in graph["nodes"]]
    assert "Preview3D" not in types
    shown = {link[3] for link in graph["links"] if link[5] == "IMAGE"}
    from_sampler = {
        link[3]
        for link in graph["links"]
        if link[3] in shown and next(n for n in graph["nodes"] if n["id"] == link[1])["type"] == "GroundedDreamerSampleViews"
    }
    assert not [n for n in graph["nodes"] if n["id"] in from_sampler and n["type"] == "PreviewImage"]  # the strip shows them


def test_the_bundled_model_knows_the_words_of_its_graphs():
    from gd_core.diffusion import load_mvdream  # noqa: PLC0415

    model = load_mvdream("toys", device="cpu")
    for name in NAMES:
        for entry in workflows.to_api(workflows.load(name)).values():
            if entry["class_type"] == "GroundedDreamerFocusPrompt" and name != "2_full_quality_mvdream":
                model.encode_prompt(entry["inputs"]["prompt"])


def test_the_six_main_nodes_wired_in_order_are_the_quick_start(nodes):  # noqa: F811
    """Sensible defaults: the quick start changes none of them but its prompt and the seed of its views."""
    for entry in workflows.to_api(workflows.load("1_quick_start")).values():
        if entry["class_type"].startswith("GroundedDreamer"):
            for item in nodes[entry["class_type"].removeprefix("GroundedDreamer")].define_schema().inputs:
                chosen = item.id == "prompt" or (entry["class_type"] == "GroundedDreamerSampleViews" and item.id == "seed")
                if item.default is not None and not chosen:
                    assert entry["inputs"].get(item.id, item.default) == item.default, (entry["class_type"], item.id)
