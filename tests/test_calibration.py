"""Labels, the gate and the fit of verdicts, on data whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gd_core.calibration import (
    FEWEST,
    Labelled,
    calibrate,
    fit_verdicts,
    gate,
    knowing_layers,
    logistic,
    probabilities,
    read_labels,
)
from gd_core.cameras import orbit_cameras
from gd_core.diffusion import sample_views
from gd_core.recipe import Recipe
from gd_core.verdicts import DOUBTFUL, SubjectVerdict
from gd_core.views import ViewSet
from tests.random_models import random_mvdream

PROMPT = "a red cube and a blue sphere"


def views_with(features, prompt=PROMPT):
    """Views of no content whose two subjects have the given features."""
    verdicts = tuple(
        SubjectVerdict(key, key, DOUBTFUL, 0.0, None, (0.0,), features=tuple(row), early=tuple(row))
        for key, row in zip(("cube", "sphere"), features, strict=True)
    )
    provenance = {"subjects": [{"key": "cube", "name": "red cube"}, {"key": "sphere", "name": "blue sphere"}]}
    size = (4, 16, 16)
    return ViewSet(
        torch.ones(*size, 3), torch.zeros(size), orbit_cameras(), prompt=prompt, provenance=provenance, verdicts=verdicts
    )


def labelled_by(weights, count=200):
    """Subjects that are there by a logistic law with these weights."""
    rng = np.random.default_rng(0)
    labelled = []
    for i in range(count):
        rows = rng.normal(size=(2, 4))
        chance = probabilities(rows, weights)
        there = rng.random(2) < chance
        labels = dict(zip(("cube", "sphere"), map(bool, there), strict=True))
        labelled.append(Labelled(views_with(rows, f"{PROMPT} {i}"), labels))
    return labelled


def test_the_law_behind_labels_is_found():
    weights = (0.5, 2.0, 1.0, 0.0, 0.0)
    fitted = fit_verdicts(labelled_by(weights, 1000), early=False)
    assert fitted.coefficients == pytest.approx(weights, abs=0.3)
    assert fitted.area > 0.8 and fitted.missing + fitted.there == 2000
    assert all(abs(said - there) < 0.08 for said, there, _ in fitted.reliability)


def test_features_that_say_nothing_have_the_area_of_chance():
    fitted = fit_verdicts(labelled_by((0.5, 0.0, 0.0, 0.0, 0.0), 500), early=True)
    assert 0.4 < fitted.area < 0.6, "each prompt is judged by a fit to the others"


def test_separable_labels_end_in_finite_coefficients():
    x = np.r_[np.full((10, 1), -1.0), np.full((10, 1), 1.0)]
    w = logistic(x, np.r_[np.zeros(10), np.ones(10)])
    assert np.isfinite(w).all() and w[1] > 1


def test_too_few_of_either_are_refused():
    with pytest.raises(ValueError, match=f"are missing and .* there: label views until there are at least {FEWEST}"):
        fit_verdicts(labelled_by((20.0, 0.0, 0.0, 0.0, 0.0), 20), early=False)


def test_layers_are_chosen_by_what_they_know():
    areas = {1: {"a": 0.9, "b": 0.5}, 2: {"c": 0.97, "d": 0.93, "e": 0.6}}
    assert knowing_layers(areas) == (2, ("c", "d"))
    assert knowing_layers({2: {"c": 0.55, "d": 0.5}}) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def labels(model, tmp_path):
    """Labels of sampled views, half of whose spheres are said to be missing."""
    entries = []
    for seed in range(4):
        views = sample_views(model, "a cube, a big cube, a green sphere and a red sphere", seed=seed, steps=2)
        views.save(tmp_path / f"{seed}.safetensors")
        entries.append({"views": f"{seed}.safetensors", "missing": ["sphere", "sphere#2"]})
    (tmp_path / "labels.json").write_text(json.dumps(entries))
    return tmp_path / "labels.json"


def test_labels_give_a_recipe_that_the_model_takes(model, labels):
    labelled = read_labels(labels)
    assert [one.there for one in labelled] == [{"cube": True, "cube#2": True, "sphere": False, "sphere#2": False}] * 4
    areas = gate(model, labelled, 2)
    assert list(areas) == ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0",
                           "up_blocks.0.attentions.1"]  # fmt: skip
    assert all(0 <= area <= 1 for area in areas.values())
    recipe, lines = calibrate(model, labelled)
    Recipe.from_json(recipe, model.recipe)
    assert any("area" in line or "with other layers" in line or "no layer's" in line for line in lines)
    assert ("refocus" in recipe) != ("verdict" in recipe)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[", "not valid JSON"),
        ("{}", "must be a list such as"),
        ('[{"views": "0.safetensors"}]', "entry 1 of bad.json needs 'views'"),
        ('[{"views": "0.safetensors", "missing": ["teapot"]}]', "'teapot' is no subject of .*: its subjects are cube, cube#2"),
    ],
)
def test_what_are_no_labels_is_said(labels, entries, message):
    bad = labels.with_name("bad.json")
    bad.write_text(entries)
    with pytest.raises(ValueError, match=message):
        read_labels(bad)
