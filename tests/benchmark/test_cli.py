import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from gd_core.benchmark.cli import load_pictures, main, parse_settings
from gd_core.benchmark.prompt_sets import load_prompts
from gd_core.benchmark.report import Run, markdown_table, write_report
from gd_core.benchmark.runner import Plan, items_of, run_benchmark
from gd_core.benchmark.scoring import score_run
from gd_core.benchmark.workers import run_here

MAKER = f"{Path(__file__).parent / 'maker_for_tests.py'}:spheres"


def evaluate(out, *more):
    return main(["tiny", "--limit", "4", "--out", str(out), "--maker", MAKER, "--model", "any", *more])


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "judge.py"
    path.write_text("def judge(images, prompt):\n    return {'all_subjects': bool(images.mean() > 0.8)}\n")
    return path


def test_a_run_leaves_a_report_that_stands_alone(tmp_path, clip_folder, judge_file, capsys):
    assert evaluate(tmp_path, "--seeds", "0", "1", "--clip", str(clip_folder), "--judge", f"{judge_file}:judge") == 0
    assert "8 of 8 items" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", page), "nothing is loaded from elsewhere"
    assert page.count("<img") == 8 and "All subjects" in page and "Chamfer diversity" in page
    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    summary = data["runs"][0]["summary"]
    assert summary["clip_r_precision"]["all"]["n"] == 8 and summary["chamfer_diversity"]["all"]["n"] == 4
    assert "| CLIP score |" in markdown_table(data)
    kept = tmp_path / "kept" / "spheres"
    more = ("--clip", str(clip_folder), "--judge", f"{judge_file}:judge", "--small", str(kept))
    assert evaluate(tmp_path, "--seeds", "0", "1", *more) == 0
    assert sorted(path.name for path in kept.parent.iterdir()) == ["spheres.jpg", "spheres.json", "spheres.md"]
    assert str(tmp_path) not in kept.with_suffix(".md").read_text()
    beside = kept.with_suffix(".md").read_text().partition("Diversity beside alignment")[2]
    assert "| any | 4 |" in beside and all(name in beside for name in ("Chamfer", "Embedding", "All subjects", "CLIP score"))
    assert "Diversity beside alignment" in page
    assert json.loads((tmp_path / "report.json").read_text()) == data, "a finished run is scored again to the same numbers"


def test_two_runs_side_by_side_are_paired(tmp_path):
    prompts = load_prompts("tiny").head(4)
    items, runs = items_of(prompts, [0, 1]), []
    for name, shift in (("one", 0), ("two", 1)):
        plan = Plan(MAKER, name, {"fail": [items[0].key] if shift else []})
        run_benchmark(plan, items, tmp_path / name, run_here)
        runs.append(Run(name, plan, tmp_path / name, score_run(tmp_path / name, items)))
    data = write_report(tmp_path, "<b>one & two", prompts, items, runs)
    compared = data["comparisons"][0]["metrics"]["silhouette_coherence"]
    assert compared["difference"]["n"] == 7 and compared["difference"]["value"] == 0 and compared["p_value"] == 1
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;one &amp; two" in page and "cannot draw" in page and "failed or not made" in page


def test_failed_items_show_in_the_exit_code(tmp_path, capsys):
    assert evaluate(tmp_path, "--setting", 'fail=["one-001__0"]') == 1
    assert "failed: one-001__0: RuntimeError: cannot draw" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--clip", "nowhere"], "no CLIP model in 'nowhere'"),
        (["--judge", "nowhere.py:judge"], "no file 'nowhere.py'"),
        (["--captioner", "json:dumps"], "both --captioner and --caption-judge or --language-model"),
        (["--protocol", "mine"], "no protocol 'mine': there are t3bench, dreamfields, attend-excite, paper"),
        (["--protocol", "t3bench", "--captioner", "json:dumps"], "t3bench needs --language-model (GPT-4"),
        (["--protocol", "dreamfields"], "dreamfields needs --clip (openai/clip-vit-base-patch32)"),
        (["--protocol", "attend-excite"], "attend-excite needs --clip (openai/clip-vit-base-patch16)"),
        (["--protocol", "paper", "--captioner", "json:dumps"], "at least one of --clip (R-Precision), --captioner with"),
        (["--protocol", "dreamfields", "--maker", "views", "--clip", "c"], "looks at 1 or more renders of the field"),
        (["--protocol", "t3bench", "--maker", "views"], "12 or more renders of the mesh, and --maker views makes four"),
        (["--protocol", "attend-excite", "--maker", "asset", "--clip", "c"], "use --maker views"),
        (["--pool", "tiny"], "--pool is for the R-Precision of a protocol"),
        (["--caption-judge", "json:dumps", "--language-model", "json:dumps"], "two judges of the captions"),
        (["--setting", "steps"], "should be NAME=JSON"),
        (["--setting", "refocus=off"], "is not JSON"),
        (["--reference", "nowhere"], "no pictures"),
        (["--inception", "weights.pth"], "also need --reference"),
        (["--workers", "0"], "at least 1"),
        (["--limit", "1000"], "1000 were asked for"),
        (["--seeds", "1", "1"], "none twice"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--model", "missing"], "no model 'missing'"),
    ],
)
def test_bad_input_is_told_before_anything_is_made(tmp_path, more, message, capsys):
    assert evaluate(tmp_path / "run", *more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*"))


def test_an_unknown_set_is_told(tmp_path, capsys):
    assert main(["nonsense", "--out", str(tmp_path / "run")]) == 2
    assert "no prompt set 'nonsense'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_are_json():
    assert parse_settings(["steps=20", "refocus=null", 'refinement={"multi_view": false}']) == {
        "steps": 20,
        "refocus": None,
        "refinement": {"multi_view": False},
    }


def test_reference_pictures_are_cut_square(tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (24, 12), (0, 255, 0)).save(tmp_path / "b.jpg", quality=100)
    pictures = load_pictures(tmp_path)
    assert pictures.shape == (2, 8, 8, 3)
    torch.testing.assert_close(pictures[1].mean((0, 1)), torch.tensor([0.0, 1.0, 0.0]), atol=0.02, rtol=0)
