"""Faces on every side are told from a face on one."""

from dataclasses import replace

import pytest
import torch

from gd_core.diffusion import load_mvdream
from tools.bench_janus import AROUND, FIT, HYBRID, MULTI_VIEW, PLAIN, RENDER, from_views, judged, read_strip, summary
from tools.tiny.measure import save_picture
from tools.tiny.renderer import render
from tools.tiny.scenes import Solid


@pytest.fixture(scope="module")
def cat() -> torch.Tensor:
    """Sixteen renders around a cat."""
    return render([Solid("cat", "pink", "", 0.85, (0.0, 0.0, 0.0), 0.0)], AROUND, RENDER)[0]


def test_one_face_is_seen_from_two_fifths_and_never_from_opposite_sides(cat):
    found = judged(cat, "a pink cat")
    assert found["found"] >= 14 and not found["janus"] and 0.25 <= found["front"] <= 0.5
    assert judged(cat, "a blue cat")["found"] == 0


def test_a_face_all_around_is_janus_and_the_table_says_so(cat, tmp_path):
    save_picture(torch.cat(list(cat[:1].repeat(16, 1, 1, 1)), 1), tmp_path / "x.png")
    twice = judged(read_strip(tmp_path / "x.png"), "a pink cat")
    assert twice["janus"] and twice["front"] == 1
    table = summary({MULTI_VIEW: {0: judged(cat, "a pink cat")}, PLAIN: {0: twice}}, {PLAIN: 0.72})
    assert f"| {PLAIN} | 72 % | 1 of 1 | 100 % " in table and "+100 points" in table


def test_the_hybrid_refines_the_very_field_that_the_fit_left(tmp_path):
    model = load_mvdream("tiny", device="cpu", dtype=torch.float32)
    recipe = model.recipe
    short = {
        "sampling": replace(recipe.sampling, steps=4),
        "fit": replace(recipe.fit, steps=3, quality="draft"),
        "refine": replace(recipe.refine, steps=2),
    }
    model = replace(model, recipe=replace(recipe, **short))
    fitted = from_views(model, "a red cube", 0, FIT, tmp_path / "000.safetensors")
    kept = (tmp_path / "000.safetensors").read_bytes()
    refined = from_views(model, "a red cube", 0, HYBRID, tmp_path / "000.safetensors")
    assert "refine" not in fitted.provenance and refined.provenance["refine"]["config"]["steps"] == 2
    assert (tmp_path / "000.safetensors").read_bytes() == kept
