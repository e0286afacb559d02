"""The tiny model's world: the renderer is exact, prompts say what is there, and the judge sees it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.cameras import orbit_cameras
from tools.tiny.judge import judge, segment, solids_of_prompt, validate
from tools.tiny.measure import prompts_of, wilson
from tools.tiny.renderer import render
from tools.tiny.scenes import HELD_OUT_PAIRS, SHAPES, VOCABULARY, Solid, random_scene
from tools.tiny.text import make_tokenizer

ROOT = Path(__file__).parents[2]


def solid(shape: str, color: str, center=(0.0, 0.0, 0.0), radius: float = 0.45) -> Solid:
    return Solid(shape, color, "", radius, center, 0.3)


def test_sphere_covers_the_disc_that_perspective_says():
    cameras = orbit_cameras(4)
    _, coverage = render([solid("sphere", "red")], cameras, 64, supersample=4)
    radius, distance = 0.9 * 0.45, 3.0
    tangent = radius / (distance**2 - radius**2) ** 0.5
    pixels = torch.pi * (tangent / torch.tan(torch.deg2rad(torch.tensor(20.0))) * 32) ** 2
    assert torch.allclose(coverage.sum((2, 3)), pixels.expand(4, 1), rtol=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_stays_within_its_declared_size(shape):
    one = solid(shape, "blue", radius=0.5)
    cameras = orbit_cameras(2, 0.0, distance=50.0, fov_y_deg=2.0)  # nearly orthographic
    _, coverage = render([one], cameras, 128)
    half_world = 50 * torch.tan(torch.deg2rad(torch.tensor(1.0))).item()
    rows = coverage[:, 0].amax(2).sum(1) / 128 * 2 * half_world
    columns = coverage[:, 0].amax(1).sum(1) / 128 * 2 * half_world
    assert (rows <= 2 * one.half_height + 0.03).all() and (rows >= 2 * one.half_height - 0.05).all()
    assert (columns <= 2 * one.footprint + 0.03).all()


def test_nearer_solid_hides_the_farther():
    near, far = solid("cube", "green", (0.6, 0.0, 0.0)), solid("cube", "red", (-0.6, 0.0, 0.0), 0.3)
    _, coverage = render([near, far], orbit_cameras(1, 0.0, 90.0))  # from +x
    assert coverage[0, 0].sum() > 300 and coverage[0, 1].sum() == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans())
def test_prompts_name_exactly_the_solids_in_known_words(seed, count, held_out):
    scene = random_scene(random.Random(seed), count, held_out)
    assert solids_of_prompt(scene.prompt) == [(s.color, s.shape) for s in scene.solids]
    assert set(scene.prompt.replace(",", " , ").split()) <= set(VOCABULARY)
    assert all(((s.color, s.shape) in HELD_OUT_PAIRS) == held_out for s in scene.solids)
    for a in scene.solids:
        for b in scene.solids:
            apart = sum((x - y) ** 2 for x, y in zip(a.center, b.center, strict=True)) ** 0.5
            assert a is b or apart > 0.2


def test_every_vocabulary_word_is_one_token(tmp_path):
    make_tokenizer(tmp_path)  # raises otherwise


def test_judge_is_right_on_fresh_ground_truth():
    scores = validate(30)
    assert scores["all"] >= 0.9, scores  # 0.973 on the 300 scenes of `python -m tools.tiny.judge validate`


def test_judge_tells_a_missing_a_wrong_and_a_hidden_solid_apart():
    cameras = orbit_cameras(4)
    pair = [solid("cube", "red", (0.5, 0.0, 0.0)), solid("sphere", "blue", (-0.5, 0.0, 0.0))]
    views, _ = render(pair, cameras)
    assert judge(views, [("red", "cube"), ("blue", "sphere")]).all_present
    assert not judge(views, [("red", "cube"), ("green", "sphere")]).all_present
    assert not judge(views, [("red", "cone"), ("blue", "sphere")]).all_present
    alone, _ = render(pair[:1], cameras)
    broken = views.clone()
    broken[1] = alone[1]
    assert judge(broken, [("red", "cube"), ("blue", "sphere")]).all_present  # one view: may be hidden
    broken[2] = alone[2]
    assert not judge(broken, [("red", "cube"), ("blue", "sphere")]).all_present


def test_background_grey_or_white_is_no_solid():
    for grey in (1.0, 0.8, 0.6):
        assert segment(torch.full((64, 64, 3), grey)) == {}


def test_splits_do_not_share_prompts_order_and_are_repeatable():
    assert prompts_of("two", 20, "dev") != prompts_of("two", 20, "test")
    assert prompts_of("three", 5) == prompts_of("three", 5)


def test_wilson_interval_of_known_case():
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490, abs=2e-3) and high == pytest.approx(0.943, abs=2e-3)


def test_the_tokenizer_numbers_its_words_the_same_in_every_process(tmp_path):
    """The trainer breaks ties by chance: weights of one run were read with another's numbers."""
    code = "import sys, pathlib; from tools.tiny.text import make_tokenizer; make_tokenizer(pathlib.Path(sys.argv[1]))"
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, cwd=ROOT)
    first, second = (json.loads((tmp_path / name / "vocab.json").read_text()) for name in ("first", "second"))
    assert first == second
    shipped = json.loads((ROOT / "gd_core/weights/tiny/tokenizer/vocab.json").read_text())
    assert {word: shipped[word + "</w>"] for word in ("a", "red", "top")} == {w: first[w + "</w>"] for w in ("a", "red", "top")}
