"""Every node's `execute` as ComfyUI calls it: under inference mode, with inputs and modules made there."""

from __future__ import annotations

import json
import struct
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.random_models import QUICK_RECIPE


@pytest.fixture(scope="module")
def model(pack, nodes):
    with torch.inference_mode():
        return nodes["LoadMVDream"].execute(model="small", download=False, precision="auto").args[0]


@pytest.fixture(scope="module")
def ball_views(nodes, ball):
    with torch.inference_mode():
        return nodes["ViewsFromImages"].execute(
            images=ball, elevation=15.0, azimuth_start=90.0, azimuth_span=360.0, fov=40.0, distance=3.0, prompt="a red ball"
        )


@pytest.fixture(scope="module")
def field(nodes, ball_views):
    with torch.inference_mode():
        return nodes["FitNeRF"].execute(views=ball_views.args[0], steps=60, seed=0).args[0]


def prompt(run, text="a red cube and a blue sphere", focus=""):
    return run("FocusPrompt", prompt=text, focus=focus).args[0]


def test_a_model_from_the_list_is_ready_for_gradients(model):
    loaded = model.on_device(0)
    assert loaded.config.name == "random MVDream"
    assert not any(p.is_inference() for p in loaded.unet.parameters())


@pytest.mark.parametrize("refocus", [True, False])
def test_views_are_sampled_with_attention_and_previews(run, model, refocus):
    out = run("SampleViews", model=model, prompt=prompt(run), steps=3, refocus=refocus)
    (views,), (images,), (masks,), (seed,) = out.args
    assert seed == views.seed == 0
    assert images.shape == (4, 64, 64, 3) and masks.shape == (4, 64, 64)
    assert {"cube", "sphere"} <= set(views.attention)
    assert not images.is_inference() and not images.requires_grad
    assert (views.provenance["refocus"] is not None) == refocus


def test_nothing_at_a_node_means_what_the_model_was_made_for(run, model):
    (views,) = run("SampleViews", model=model, prompt=prompt(run)).args[0]
    made = views.provenance
    assert (made["steps"], made["guidance_scale"], made["sampler"]) == (4, 3.0, "ddim")
    assert made["refocus"] == asdict(QUICK_RECIPE.refocus)
    assert json.loads(views.recipe.to_json()) == json.loads(QUICK_RECIPE.to_json())


def test_a_guidance_that_cannot_be_is_refused_before_the_model_is_moved(run, model, monkeypatch):
    monkeypatch.setattr(model, "on_device", lambda memory: pytest.fail("the model was moved first"))
    with pytest.raises(ValueError, match="guidance_scale must be between 1 and 1000, got 0.5"):
        run("SampleViews", model=model, prompt=prompt(run), guidance_scale=0.5)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"refocus_strength": 0.6, "refocus_share": 0.5}, {"step_size": 0.6, "share": 0.5, "normalise": True}),
        ({"objective": "paper"}, {"objective": "mean_views", "step_size": 20.0, "normalise": False, "share": 0.5}),
        ({"objective": "paper", "refocus_strength": 0.3}, {"objective": "mean_views", "step_size": 0.3, "normalise": True}),
        ({"objective": "per view", "refocus_thresholds": "0:0.1"}, {"step_size": 0.6, "thresholds": ((0.0, 0.1),)}),
        ({"refocus_checkpointing": True}, {"checkpointing": True, "step_size": 0.6}),
    ],
)
def test_what_is_said_at_the_node_is_done(run, model, inputs, expected):
    (views,) = run("SampleViews", model=model, prompt=prompt(run), steps=1, sampler="euler", **inputs).args[0]
    assert views.provenance["sampler"] == "euler" and views.provenance["steps"] == 1
    assert {name: views.provenance["refocus"][name] for name in expected} == expected


def test_bad_thresholds_are_a_red_node(nodes):
    assert nodes["SampleViews"].validate_inputs(refocus_thresholds="auto") is True
    assert "pairs of a share" in nodes["SampleViews"].validate_inputs(refocus_thresholds="0.5")
    assert "between 0 and 1" in nodes["SampleViews"].validate_inputs(refocus_thresholds="0:5")


def test_refocusing_survives_an_eviction_under_inference_mode(run, model):
    with torch.inference_mode():  # what moving a model to the CPU and back does to its weights
        for module in (model.model.unet, model.model.text_encoder):
            module.to(torch.float64).to(torch.float32)
    assert any(p.is_inference() for p in model.model.unet.parameters())
    (views,) = run("SampleViews", model=model, prompt=prompt(run), steps=2).args[0]
    assert views.provenance["refocus_report"]["updates"]


def test_a_batch_counts_its_seeds_up_and_is_reproducible(run, model):
    out = run("SampleViews", model=model, prompt=prompt(run), steps=2, seed=2**64 - 1, batch_size=2)
    again = run("SampleViews", model=model, prompt=prompt(run), steps=2, seed=0)
    assert [views.seed for views in out.args[0]] == [2**64 - 1, 0]
    assert torch.equal(out.args[1][1], again.args[1][0])


def test_the_field_is_fitted_to_images_from_upstream(run, field, ball_views, ball):
    frames, masks = run("Turntable", field=field, frames=2, size=32).args
    assert frames.shape == (2, 32, 32, 3) and masks.shape == (2, 32, 32)
    assert masks[0, 16, 16] > 0.9 and masks[0, 0, 0] < 0.1
    assert frames[0, 16, 16, 0] > frames[0, 16, 16, 2] + 0.3  # red
    assert torch.equal(ball, ball_views.args[0].images)  # the images that came in are as they were


@pytest.mark.parametrize("show", ["normals", "depth", "opacity", "words"])
def test_the_turntable_shows_more_than_colour(run, field, show):
    frames = run("Turntable", field=field, frames=1, size=24, show=show).args[0]
    assert frames.shape == (1, 24, 24, 3) and 0 <= frames.min() and frames.max() <= 1


def test_refinement_leaves_the_field_that_came_in(run, field, ball_views, model):
    before = {name: value.clone() for name, value in field.state_dict().items()}
    refined = run("RefineSDS", field=field, views=ball_views.args[0], model=model, steps=2).args[0]
    assert refined is not field and "refine" in refined.provenance
    assert all(torch.equal(value, before[name]) for name, value in field.state_dict().items())


def test_a_mesh_is_exported_with_its_workflow(run, nodes, field, base):
    node = nodes["ExportMesh"]
    node.hidden = SimpleNamespace(unique_id="7", prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": [1]}})
    try:
        out = run("ExportMesh", field=field, resolution=32, texture_size=64, target_faces=500, also_save="obj")
    finally:
        del node.hidden
    mesh, glb, report, parts, names = out.args
    assert names == ["mesh"] and torch.equal(parts[0].vertices, mesh.vertices)
    assert mesh.vertices.shape[0] == 1 and mesh.uvs.shape[1] == mesh.vertices.shape[1] and mesh.texture.shape == (1, 64, 64, 3)
    assert "watertight" in report
    shown = out.ui["3d"][0]
    path = base / "output" / shown["subfolder"] / shown["filename"]
    assert Path(glb.get_source()) == path and path.with_suffix(".obj").is_file()
    extras = glb_json(path)["asset"]["extras"]
    assert json.loads(extras["workflow"]) == {"nodes": [1]} and json.loads(extras["prompt"]) == {"1": {}}


def test_work_that_cannot_be_cancelled_is_left_behind(pack):
    from comfy import model_management  # noqa: PLC0415

    border, release = pack.nodes.border, threading.Event()
    assert border.while_listening(lambda: 3) == 3
    with pytest.raises(ValueError, match="no room"):
        border.while_listening(lambda: (_ for _ in ()).throw(ValueError("no room")))
    threading.Timer(0.2, setattr, (model_management, "interrupted", True)).start()
    ended = []
    with pytest.raises(model_management.InterruptProcessingException):
        border.while_listening(lambda: ended.append(release.wait(600)))
    assert not ended, "the work went on alone"
    release.set()


def test_no_metadata_when_comfyui_is_told_so(run, nodes, field, base, monkeypatch):
    from comfy.cli_args import args  # noqa: PLC0415

    monkeypatch.setattr(args, "disable_metadata", True)
    monkeypatch.setattr(nodes["ExportMesh"], "hidden", SimpleNamespace(unique_id="7", prompt={"1": {}}, extra_pnginfo={}))
    out = run("ExportMesh", field=field, resolution=32, colour="vertex", target_faces=500)
    assert "extras" not in glb_json(Path(out.args[1].get_source()))["asset"]


def test_a_field_is_saved_and_loaded(run, field, base, nodes):
    shown = run("SaveField", field=field, filename_prefix="fields/ball").ui["files"][0]
    name = f"{shown['subfolder']}/{shown['filename']} [output]"
    assert nodes["LoadField"].validate_inputs(file=name) is True
    loaded = run("LoadField", file=name).args[0]
    assert all(torch.equal(value, field.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="no field file"):
        run("LoadField", file="../../etc/passwd [output]")


def test_pictures_of_views(run, model):
    views = run("SampleViews", model=model, prompt=prompt(run), steps=1, batch_size=2).args[0]
    grid = run("ViewGrid", views=views, columns=[4]).args[0]
    assert grid.shape == (1, 2 * 64 + 2, 4 * 64 + 3 * 2, 3)
    overlays, maps, words = run("AttentionHeatMaps", views=views[0], words="sphere, cube").args
    assert overlays.shape == (8, 64, 64, 3) and maps.shape == (8, 64, 64) and words == "sphere, cube"
    assert maps[:4].max() == 1 and 0 <= overlays.min() and overlays.max() <= 1
    with pytest.raises(ValueError, match="no attention map of 'dog'"):
        run("AttentionHeatMaps", views=views[0], words="dog")


def test_evaluation_is_shown_as_text(run, ball_views, field):
    from server import PromptServer  # noqa: PLC0415

    report, scores = run("Evaluate", views=[ball_views.args[0]], field=[field]).args
    assert scores["psnr"] > 10 and "PSNR" in report and PromptServer.instance.texts[-1] == ("7", report)
    both, _ = run("Evaluate", views=[ball_views.args[0], ball_views.args[0]]).args
    assert "Image diversity: 0" in both
    compared = run("Compare", before=scores, after=scores | {"psnr": scores["psnr"] + 1}).args[0]
    assert "better" in compared


def test_cancelling_stops_at_the_next_step_and_the_next_run_goes_on(run, nodes, ball_views, base):
    from comfy import model_management  # noqa: PLC0415
    from comfy.utils import ProgressBar  # noqa: PLC0415

    views = ball_views.args[0]
    whole = run("FitNeRF", views=views, steps=40, seed=3).args[0]
    ProgressBar.updates.clear()
    update = ProgressBar.update_absolute

    def cancel_at_step_20(self, value, total=None, preview=None):
        update(self, value, total, preview)
        model_management.interrupted = value == 20

    ProgressBar.update_absolute = cancel_at_step_20
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            run("FitNeRF", views=views, steps=40, seed=3)
    finally:
        ProgressBar.update_absolute = update
    assert max(value for _, value, _, _ in ProgressBar.updates) == 20
    ProgressBar.updates.clear()
    resumed = run("FitNeRF", views=views, steps=40, seed=3).args[0]
    assert min(value for _, value, _, _ in ProgressBar.updates if value) >= 20  # 0 is the preparation
    assert not list((base / "temp").rglob("fit-*"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_sampling_stops_between_two_layers_and_leaves_no_hook(run, model):
    from comfy import model_management  # noqa: PLC0415

    parts = model.parts
    layers = list(parts.unet.modules())
    middle = parts.unet.mid_block.resnets[0].register_forward_pre_hook(
        lambda layer, inputs: setattr(model_management, "interrupted", True)
    )
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            run("SampleViews", model=model, prompt=prompt(run), steps=2)
    finally:
        middle.remove()
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_rendering_stops_inside_a_frame_and_leaves_no_hook(run, field):
    from comfy import model_management  # noqa: PLC0415

    calls = []

    def cancel(*call):
        calls.append(call)
        model_management.interrupted = True

    last = field.mlp[-1].register_forward_hook(cancel)
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            run("Turntable", field=field, frames=1, size=192)  # more rays than a chunk holds
    finally:
        last.remove()
    assert len(calls) == 1
    assert not any(layer._forward_pre_hooks for layer in field.modules())


def glb_json(path: Path) -> dict:
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    return json.loads(data[20 : 20 + length])
