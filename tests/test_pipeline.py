"""The whole job on a small model of the real classes: what it leaves, and that a killed run ends like an unbroken one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gd_core.distillation import RefineConfig
from gd_core.mesh import MeshConfig
from gd_core.nerf import EncodingConfig, FieldConfig, FitConfig, load_field
from gd_core.pipeline import generate
from gd_core.recipe import chosen
from gd_core.runs import arguments_of, read_record
from gd_core.views import load_views
from tests.random_models import random_mvdream

ROOT = Path(__file__).parents[1]
PROMPT = "a red cube and a blue sphere"
STAGES = ["views", "fit", "refine", "mesh", "turntable"]
PICTURES = ["views.png", "attention.png", "turntable.mp4"]
RESULTS = [*PICTURES, "mesh.glb", "field.safetensors", "views.safetensors", "fit.safetensors"]
SETTINGS = {
    "steps": 2,
    "fit": FitConfig(
        field=FieldConfig(EncodingConfig(resolution=24, channels=4), occupancy_resolution=32, step=0.06),
        steps=40,
        rays_per_step=256,
    ),
    # A random model draws noise, which no field can match: only then is a reference weight of 0 sensible.
    "refinement": RefineConfig(steps=4, evaluate_every=2, milestones=((0.0, 0.25),), reference_weight=0.0),
    "mesh": MeshConfig(resolution=32, density_threshold=0.5, target_faces=500, texture_size=64),
    "turntable_frames": 2,
    "turntable_size": 32,
}


class Cancelled(Exception):
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"), image_size=32)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    out, seen = tmp_path_factory.mktemp("run") / "out", []
    generate(PROMPT, out, model=model, **SETTINGS, progress=lambda *step: seen.append(step[:3]))
    return out, seen


def results(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


def test_it_leaves_the_results_and_nothing_else(run):
    out, _ = run
    assert sorted(p.name for p in out.iterdir()) == sorted([*RESULTS, "run.json"])
    assert load_views(out / "views.safetensors").prompt == PROMPT
    assert load_field(out / "field.safetensors").provenance["refine"]["config"]["steps"] == 4


def test_each_stage_reports_all_its_steps(run):
    _, seen = run
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == STAGES
    for stage in STAGES:
        steps = [(step, total) for name, step, total in seen if name == stage]
        assert steps[-1][0] == steps[-1][1] and steps == sorted(steps)


def test_the_record_holds_settings_versions_seconds_and_metrics(run):
    record = json.loads((run[0] / "run.json").read_text())
    assert record["finished"] and list(record["seconds"]) == STAGES
    assert record["settings"]["prompt"] == PROMPT and record["settings"]["refinement"]["steps"] == 4
    assert set(record["versions"]) >= {"torch", "diffusers", "transformers", "python"}
    assert set(record["metrics"]["refined"]) == {"reference_psnr", "mask_iou"}


def test_the_record_gives_back_the_arguments(run, model):
    arguments = arguments_of(read_record(run[0]))
    stages = {"refinement": model.recipe.refine, "fit": model.recipe.fit, "mesh": model.recipe.mesh}
    for name, setting in SETTINGS.items():
        given = arguments[name]
        assert (chosen(stages[name], given, name) if name in stages else given) == setting


@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_in_any_stage_and_resumed_leaves_the_same_bytes(run, model, tmp_path, stage):
    def cancel(name, step, total, preview):
        if name == stage and step >= min(2, total):
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(PROMPT, tmp_path, model=model, **SETTINGS, progress=cancel)
    assert not read_record(tmp_path)["finished"]
    assert not list(tmp_path.glob("*.tmp"))
    seen = []
    generate(PROMPT, tmp_path, model=model, **SETTINGS, resume=True, progress=lambda name, *step: seen.append(name))
    assert set(seen) == set(STAGES[STAGES.index(stage) :])
    assert results(tmp_path) == results(run[0])


def test_a_folder_with_a_run_is_neither_taken_over_nor_mixed(run, model):
    before = results(run[0])
    with pytest.raises(ValueError, match="of an earlier run"):
        generate(PROMPT, run[0], model=model, **SETTINGS)
    with pytest.raises(ValueError, match="other settings .fit, refinement, seed."):
        generate(PROMPT, run[0], model=model, **SETTINGS, seed=1, resume=True)
    assert results(run[0]) == before


def test_nothing_to_resume(model, tmp_path):
    with pytest.raises(ValueError, match="no run to resume"):
        generate(PROMPT, tmp_path / "nowhere", model=model, resume=True)
    assert not (tmp_path / "nowhere").exists()


def test_refinement_can_be_left_out(run, model, tmp_path):
    record = generate(PROMPT, tmp_path, model=model, **{**SETTINGS, "refinement": None})
    assert (tmp_path / "field.safetensors").read_bytes() == (tmp_path / "fit.safetensors").read_bytes()
    assert record["metrics"]["refined"] == record["metrics"]["fitted"]


WORKER = """
import importlib
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.random_models import random_mvdream
from tests.test_pipeline import PROMPT, SETTINGS
from gd_core.pipeline import generate
importlib.import_module("gd_core.distillation.refinement").CHECKPOINT_SECONDS = 0.0
tell = lambda stage, step, total, preview: print(stage, step, flush=True)
model = random_mvdream(Path(sys.argv[1]) / "tokenizer", image_size=32)
generate(PROMPT, Path(sys.argv[1]) / "out", model=model, **SETTINGS, resume=len(sys.argv) > 2, progress=tell)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9 on Windows")
def test_killed_mid_refinement_and_resumed_leaves_the_same_bytes(model, tmp_path):
    def start(*extra):
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), *extra], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    process = start()
    for line in process.stdout:
        if line.split() == ["refine", "3"]:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    process = start("resume")
    assert process.stdout.readline().split() in (["refine", "3"], ["refine", "4"])  # at most the step in flight was lost
    process.stdout.read()
    assert process.wait(60) == 0
    process.stdout.close()
    generate(PROMPT, tmp_path / "unbroken", model=model, **SETTINGS)
    assert results(tmp_path / "out") == results(tmp_path / "unbroken")
