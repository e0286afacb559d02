import json
from pathlib import Path

import pytest
import torch

from gd_core.benchmark import load_prompts
from gd_core.benchmark.runner import Plan, items_of, load_callable, run_benchmark
from gd_core.benchmark.scoring import Scorers, score_run
from gd_core.benchmark.workers import RayCluster, run_here, run_processes
from gd_core.metrics import load_clip

MAKER = f"{Path(__file__).parent / 'maker_for_tests.py'}:spheres"
RESOURCES = ("seconds", "peak_memory_mb")


def plan(model="any", **settings):
    return Plan(maker=MAKER, model=model, settings=settings)


@pytest.fixture
def items():
    return items_of(load_prompts("tiny").head(3), [0, 1])


def numbers_of(out, items):
    """Everything that a run measured but its time and memory."""
    scores = score_run(out, items)
    for record in scores.items:
        record["resources"] = None
        record["numbers"] = {k: v for k, v in record["numbers"].items() if k not in RESOURCES}
    return json.dumps([scores.items, scores.prompts, scores.whole, scores.failed], sort_keys=True)


def test_every_prompt_with_every_seed(tmp_path, items):
    seen = []
    failed = run_benchmark(plan(), items, tmp_path / "run", run_here, progress=lambda *step: seen.append(step[:2]))
    assert failed == {} and seen[-1] == (6, 6) and [s for s, _ in seen] == [1, 2, 3, 4, 5, 6]
    scores = score_run(tmp_path / "run", items)
    assert len(scores.items) == 6 and len(scores.prompts) == 3
    assert scores.items[0]["numbers"]["silhouette_coherence"] > 0.95
    assert set(scores.prompts[0]["numbers"]) == {"image_diversity", "chamfer_diversity"}
    assert any("Embedding diversity was not measured" in note for note in scores.notes)
    assert {f.name for f in (tmp_path / "run" / "items").iterdir()} == {item.key for item in items}


def test_a_failed_item_is_reported_and_tried_again(tmp_path, items):
    bad = items[2]
    before = torch.get_rng_state()
    failed = run_benchmark(plan(fail=[bad.key]), items, tmp_path, run_here)
    assert failed == {bad.key: f"RuntimeError: cannot draw '{bad.prompt.text}'"}
    assert score_run(tmp_path, items).failed == failed
    assert len(list((tmp_path / "items").glob("*.failed.json"))) == 1 and not list((tmp_path / "items").glob("*.part"))
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run | {"settings": {}}))  # as if what made it fail were mended
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "items").glob("*/item.json")}
    assert run_benchmark(plan(), items, tmp_path, run_here) == {}
    assert all(path.stat().st_mtime_ns == when for path, when in times.items()), "what is there is not made again"
    assert torch.equal(before, torch.get_rng_state())


def test_an_interrupted_run_goes_on_and_grows(tmp_path, items):
    class Stop(Exception):
        pass

    def stop(step, total, preview):
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        run_benchmark(plan(), items, tmp_path / "a", run_here, progress=stop)
    assert len(list((tmp_path / "a" / "items").glob("*/item.json"))) == 3
    run_benchmark(plan(), items, tmp_path / "a", run_here)
    run_benchmark(plan(), items[:1], tmp_path / "b", run_here)
    run_benchmark(plan(), items, tmp_path / "b", run_here)
    assert numbers_of(tmp_path / "a", items) == numbers_of(tmp_path / "b", items)


def test_a_folder_holds_one_run(tmp_path, items):
    run_benchmark(plan(), items[:1], tmp_path / "run", run_here)
    with pytest.raises(ValueError, match="holds a run with model 'any', this one has 'other'"):
        run_benchmark(plan(model="other"), items, tmp_path / "run", run_here)
    weights = tmp_path / "model" / "unet" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))
    trained = plan(model=str(tmp_path / "model"))
    run_benchmark(trained, items[:1], tmp_path / "trained", run_here)
    run_benchmark(trained, items[:1], tmp_path / "trained", run_here)
    weights.write_bytes(bytes(999) + b"x")
    with pytest.raises(ValueError, match="holds a run with weights"):
        run_benchmark(trained, items[:1], tmp_path / "trained", run_here)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not empty and holds no run"):
        run_benchmark(plan(), items, tmp_path / "full", run_here)
    with pytest.raises(ValueError, match="no finished item"):
        score_run(tmp_path / "run", items[1:])


def test_two_processes_give_the_serial_run_though_one_is_killed(tmp_path, items):
    killed = plan(kill_once=items[3].key, marker=str(tmp_path / "was killed"))
    assert run_benchmark(killed, items, tmp_path / "killed", run_processes, workers=2) == {}
    assert (tmp_path / "was killed").exists()
    run_benchmark(plan(), items, tmp_path / "serial", run_here)
    assert numbers_of(tmp_path / "killed", items) == numbers_of(tmp_path / "serial", items)


def test_an_item_that_kills_its_workers_is_given_up(tmp_path, items):
    failed = run_benchmark(plan(kill=[items[0].key]), items[:2], tmp_path, run_processes)
    assert failed == {items[0].key: "2 workers died at this item: out of memory, or killed"}
    assert len(score_run(tmp_path, items).items) == 1


def test_a_worker_that_cannot_start_stops_the_run(tmp_path, items):
    with pytest.raises(ValueError, match="no model 'missing'"):
        run_benchmark(plan(model="missing"), items, tmp_path / "a", run_processes)
    assert not list((tmp_path / "a").iterdir()), "the folder is free for the model that was meant"
    with pytest.raises(RuntimeError, match="died .* while it loaded model 'crash'"):
        run_benchmark(plan(model="crash"), items, tmp_path / "b", run_processes)


def test_clip_and_judge_score_a_finished_run(tmp_path, items, clip_folder):
    run_benchmark(plan(), items, tmp_path, run_here)

    def judge(images, prompt):
        return {"bright": bool(images.mean() > 0.5), "red": float(images[..., 0].mean())}

    scorers = Scorers(
        clip=load_clip(clip_folder),
        judge=judge,
        captioner=lambda images: ["a shape"] * len(images),
        caption_judge=lambda prompt, captions: 2.5,
        reference=torch.rand(6, 32, 32, 3, generator=torch.Generator().manual_seed(0)),
        features=lambda images: images.mean((2, 3)),
        feature_name="mean colour",
    )
    scores = score_run(tmp_path, items, scorers)
    summary = scores.summary()
    assert summary["judge_bright"]["all"].n == 6 and summary["caption_alignment"]["all"].value == 2.5
    assert {"clip_score", "minimum_object_clip", "clip_r_precision", "janus_suspected", "embedding_diversity"} <= set(summary)
    assert set(summary["clip_score"]) == {"all", "one subject", "two subjects", "three subjects"}
    assert scores.whole["fid"] > 0 and scores.whole["distribution_features"] == "mean colour"
    with pytest.raises(ValueError, match="both a captioner and a caption judge"):
        score_run(tmp_path, items, Scorers(captioner=lambda images: []))


def test_callables_are_named_by_file_or_module(tmp_path):
    (tmp_path / "mine.py").write_text("def judge(images, prompt):\n    return {}\n")
    assert load_callable(f"{tmp_path / 'mine.py'}:judge")(None, "") == {}
    assert load_callable("gd_core.benchmark.prompt_sets:load_prompts") is load_prompts
    for source, message in [
        (f"{tmp_path / 'mine.py'}:other", "has no function 'other'"),
        (f"{tmp_path / 'none.py'}:judge", "no file"),
        ("gd_core.nothing:judge", "no module"),
        ("judge", "names no function"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_callable(source)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_seeds_are_checked(seeds):
    with pytest.raises(ValueError, match="give one seed or more"):
        items_of(load_prompts("abstract"), seeds)


# --- Ray ---------------------------------------------------------------------------------------------------------------------


def test_a_cluster_that_is_not_there_is_missed():
    with pytest.raises(ValueError, match="no Ray cluster answers at '127.0.0.1:1'"):
        RayCluster("127.0.0.1:1", 2).__enter__()
    with pytest.raises(ValueError, match="should be local, auto"):
        RayCluster("somewhere", 2).__enter__()


def test_two_ray_workers_give_the_serial_run_though_one_is_killed(tmp_path, items):
    pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    run_benchmark(plan(), items, tmp_path / "serial", run_here)
    with RayCluster("local", 2) as cluster:
        failing = plan(fail=[items[1].key])
        assert set(run_benchmark(failing, items[:2], tmp_path / "failing", cluster, workers=2)) == {items[1].key}
        killed = plan(kill_once=items[4].key, marker=str(tmp_path / "was killed"))
        assert run_benchmark(killed, items, tmp_path / "ray", cluster, workers=2) == {}
        assert (tmp_path / "was killed").exists()
        with pytest.raises(ValueError, match="no model 'missing'"):
            run_benchmark(plan(model="missing"), items, tmp_path / "missing", cluster, workers=2)
    assert numbers_of(tmp_path / "ray", items) == numbers_of(tmp_path / "serial", items)
