"""The recipe: MVDream's own, a bundle's, one from an older release, and what is not one."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gd_core.cameras import orbit_cameras
from gd_core.diffusion import sample_views
from gd_core.diffusion.bundle import load_bundle, save_bundle
from gd_core.distillation import refine
from gd_core.mesh import extract_mesh
from gd_core.nerf import fit_views, load_field
from gd_core.recipe import Recipe, chosen
from gd_core.settings.fit import FitConfig
from gd_core.settings.reading import RUN, to_plain
from gd_core.settings.refocus import RefocusConfig, refocusing
from gd_core.settings.sampling import SamplingConfig
from gd_core.settings.schedule import Ramp, TimestepSchedule
from gd_core.views import ViewSet, load_views
from tests.random_models import QUICK_RECIPE, TINY_RECIPE, random_mvdream

MVDREAM = Recipe()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    save_bundle(random_mvdream(tmp_path_factory.mktemp("tokenizer")), folder)
    return folder


def with_card(bundle, tmp_path, **changes):
    """A folder like `bundle` with another card; a change to None takes the entry away."""
    folder = tmp_path / "model"
    folder.mkdir()
    for part in bundle.iterdir():
        if part.is_dir():
            (folder / part.name).symlink_to(part)
    card = json.loads((bundle / "mvdream.json").read_text()) | changes
    (folder / "mvdream.json").write_text(json.dumps({k: v for k, v in card.items() if v is not None}))
    return folder


def test_mvdreams_settings_are_its_authors():
    """MVDream's t2i.py, and MVDream-threestudio's mvdream-sd21.yaml from the step on where a fitted field joins in."""
    assert (MVDREAM.sampling.steps, MVDREAM.sampling.guidance_scale, MVDREAM.sampling.sampler) == (50, 10, "ddim")
    refine = MVDREAM.refine
    assert refine.guidance_scale == 50 and refine.std_rescale == 0.5 and refine.form == "recon" and not refine.suffix
    assert refine.elevation_deg == (0, 30) and refine.fov_y_deg == (15, 60) and refine.relative_distance == (0.8, 1.0)
    joined = 10_000 - refine.steps
    for share in (0.0, 0.3, 0.625, 1.0):
        step = joined + share * refine.steps
        fallen = min(step / 8000, 1)
        expected = (980 - 960 * fallen, 980 - 480 * fallen)
        assert refine.timesteps.bounds(share) == pytest.approx(expected, abs=1.5)
    assert joined + refine.milestones[1][0] * refine.steps == pytest.approx(5000, abs=1)
    assert MVDREAM.refocus == RefocusConfig.attend_and_excite()


@pytest.mark.parametrize("recipe", [MVDREAM, TINY_RECIPE, QUICK_RECIPE], ids=["mvdream", "tiny", "quick"])
def test_json_and_back(recipe):
    assert Recipe.from_json(recipe.to_json()) == Recipe.from_json(json.loads(recipe.to_json())) == recipe
    assert "seed" not in recipe.to_json() and "preset" not in recipe.to_json()


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["sampling", "refine", "fit", "steps", "timesteps", "coarse", "field", "seed"]), x)))  # fmt: skip
def test_whatever_is_there_it_is_a_recipe_or_a_sentence(data):
    try:
        Recipe.from_json(json.dumps(data))
    except ValueError as error:
        assert str(error).startswith("recipe")


BAD = {
    "unknown stage": ({"bake": {}}, "entry 'bake' that there is not"),
    "unknown setting": ({"refine": {"stepz": 3}}, "recipe.refine has an entry 'stepz'"),
    "of a run": ({"fit": {"seed": 3}}, "recipe.fit has an entry 'seed'"),
    "absurd steps": ({"sampling": {"steps": 10**9}}, "recipe.sampling: sampling steps must be between 1 and 1000"),
    "negative rate": ({"refine": {"shape_lr": -1.0}}, "shape_lr must be between"),
    "not a number": ({"refine": {"guidance_scale": float("nan")}}, "guidance_scale must be a finite number"),
    "infinite": ({"fit": {"bending": float("inf")}}, "bending must be a finite number"),
    "another type": ({"fit": {"steps": "many"}}, "recipe.fit.steps must be a whole number, got 'many'"),
    "a truth for a number": ({"fit": {"steps": True}}, "recipe.fit.steps must be a whole number"),
    "a huge grid": ({"fit": {"field": {"shape": {"resolutions": [100000]}}}}, "at most 1024"),
    "a huge mesh": ({"mesh": {"resolution": 4096}}, "mesh resolution must be"),
    "half a ramp": ({"refine": {"sds_weight": {"start": "x"}}}, "recipe.refine.sds_weight.start must be a finite number"),
    "no names": ({"refocus": {"layers": [3]}}, "recipe.refocus.layers[0] must be text"),
    "no list": ({"refocus": {"thresholds": 3}}, "recipe.refocus.thresholds must be a list"),
    "no object": ({"mesh": [1]}, "recipe.mesh must be an object of settings"),
    "not even that": ("[", "not valid JSON"),
    "a flood": ("[" * 50_000, "recipe"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_what_is_no_recipe_is_refused_by_name(data, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        Recipe.from_json(data)


@pytest.mark.parametrize("name", ["unknown setting", "absurd steps", "not a number", "a huge grid"])
def test_a_bundle_with_such_a_recipe_names_its_card(bundle, tmp_path, name):
    data, _ = BAD[name]
    with pytest.raises(ValueError, match=r"the recipe in .*mvdream\.json"):
        load_bundle(with_card(bundle, tmp_path, recipe=data), torch.float32)


def test_a_bundle_keeps_its_models_recipe(bundle):
    assert load_bundle(bundle, torch.float32).recipe == QUICK_RECIPE


def test_a_bundle_of_the_previous_release_gets_the_recipe_that_suits_it(bundle, tmp_path):
    """A converted MVDream had the sampler's settings that nobody chose; a toy with a vocabulary its own."""
    old = {"version": 1, "recipe": None}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    converted = with_card(bundle, tmp_path / "a", **old, steps=30, guidance_scale=7.5)
    assert load_bundle(converted, torch.float32).recipe == MVDREAM
    toy = with_card(bundle, tmp_path / "b", **old, steps=25, guidance_scale=2.0, vocabulary=["a", "red", "cube"])
    assert load_bundle(toy, torch.float32).recipe == TINY_RECIPE.for_other_weights()
    chosen_steps = with_card(bundle, tmp_path / "c", **old, steps=12, guidance_scale=7.5)
    sampling = replace(MVDREAM.sampling, steps=12, guidance_scale=7.5)
    assert load_bundle(chosen_steps, torch.float32).recipe == replace(MVDREAM, sampling=sampling)


def test_views_carry_the_recipe_into_their_file_and_back(tmp_path):
    views = ViewSet(torch.ones(4, 16, 16, 3), torch.zeros(4, 16, 16), orbit_cameras(), recipe=TINY_RECIPE)
    views.save(tmp_path / "views.safetensors")
    assert load_views(tmp_path / "views.safetensors").recipe == views.clone().recipe == TINY_RECIPE


def test_changes_are_made_to_the_recipe_and_to_nothing_else():
    assert chosen(TINY_RECIPE.fit, {}, "the fit") == TINY_RECIPE.fit
    assert chosen(TINY_RECIPE.fit, {"steps": 7, "seed": 3}, "the fit") == replace(TINY_RECIPE.fit, steps=7, seed=3)
    whole = FitConfig(steps=9)
    assert chosen(TINY_RECIPE.fit, whole, "the fit") is whole
    with pytest.raises(ValueError, match=r"the fit\.steps"):
        chosen(TINY_RECIPE.fit, {"steps": 1.5}, "the fit")


def test_the_paper_and_per_view_are_one_choice():
    base = replace(MVDREAM.refocus, downscale=4, layers=("mid_block.attentions.0",), checkpointing=True)
    assert chosen(base, refocusing(), "refocusing") == base
    per_view = chosen(base, refocusing("per view", "none", share=0.3), "refocusing")
    of_weights = {"downscale": 4, "layers": base.layers, "checkpointing": True}
    assert per_view == replace(RefocusConfig(), **of_weights, share=0.3)
    paper = chosen(per_view, refocusing("paper", strength=0.6), "refocusing")
    assert paper.objective == "mean_views" and paper.step_size == 0.6 and paper.normalise and paper.thresholds
    assert refocusing(thresholds="0:0.05, 0.2:0.5")["thresholds"] == ((0, 0.05), (0.2, 0.5))
    for bad in ("half", "1:2:3", "0.1", ":"):
        with pytest.raises(ValueError, match="pairs of a share"):
            refocusing(thresholds=bad)


def test_settings_are_plain_json():
    assert to_plain(SamplingConfig()) == {"steps": 50, "guidance_scale": 10.0, "guidance_rescale": 0.0, "sampler": "ddim"}


def test_mvdreams_recipe_runs_from_prompt_to_mesh_on_a_small_model_of_its_classes(tmp_path):
    """Its objective, cameras, schedule and milestones, with fewer steps; and every stage hands the recipe on."""
    recipe = replace(
        MVDREAM,
        sampling=replace(MVDREAM.sampling, steps=2),
        fit=replace(MVDREAM.fit, steps=20, rays_per_step=128),
        refine=replace(MVDREAM.refine, steps=2, reference_rays=64, reference_weight=0.0),
        mesh=replace(MVDREAM.mesh, resolution=32, target_faces=200, texture_size=64, density_threshold=0.1),
    )
    model = random_mvdream(tmp_path, prediction_type="epsilon", image_size=32, recipe=recipe)
    views = sample_views(model, "a red cube and a blue sphere", seed=0, refocus="auto")
    assert views.provenance["steps"] == 2 and views.provenance["guidance_scale"] == 10
    assert views.provenance["refocus"]["objective"] == "mean_views" and views.provenance["refocus_report"]["updates"]
    views.masks[:, 8:24, 8:24] = 1.0  # a random model draws noise: some of it is the object
    fitted = fit_views(views, device="cpu")
    assert fitted.provenance["fit"]["config"]["rays_per_step"] == 128
    refined = refine(fitted, views, model)
    settings = refined.provenance["refine"]["config"]
    assert settings["guidance_scale"] == 50 and settings["relative_distance"] == (0.8, 1.0) and not settings["suffix"]
    assert views.recipe == fitted.recipe == refined.recipe == recipe
    refined.save(tmp_path / "field.safetensors")
    loaded = load_field(tmp_path / "field.safetensors", "cpu")
    assert loaded.recipe == recipe and extract_mesh(loaded).report["resolution"] == 32


def names(settings):
    """Every setting of a recipe by its name, those of nested settings too."""
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if entry.metadata != RUN:
            yield entry.name
        if is_dataclass(value) and not isinstance(value, (Ramp, TimestepSchedule)):
            yield from names(value)


def test_every_setting_has_its_source_in_the_table():
    table = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = "".join(line for line in table.splitlines() if line.startswith("|"))
    listed = {name.split(".")[-1] for name in re.findall("`([^`]+)`", rows)}
    missing = set(names(MVDREAM)) - listed - {f.name for f in fields(MVDREAM)} - {"field", "encoding", "shape"}
    assert not missing, f"docs/recipes.md says nothing of {sorted(missing)}"
