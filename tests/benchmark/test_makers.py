import pytest
import torch

from gd_core.benchmark import Prompt
from gd_core.benchmark.items import load_item, save_item
from gd_core.benchmark.makers import asset_maker, views_maker
from gd_core.diffusion.bundle import save_bundle
from tests.random_models import random_mvdream
from tools.ablations import ABLATIONS, merged

PROMPT = Prompt("pair-001", "a red cube and a blue sphere", ("red cube", "blue sphere"), "pairs")
ASSET = {
    "steps": 2,
    "refocus": None,
    "fit": {
        "field": {"encoding": {"resolution": 24, "channels": 4}, "occupancy_resolution": 32, "step": 0.06},
        "steps": 40,
        "rays_per_step": 256,
    },
    "refinement": {"steps": 2, "evaluate_every": 2, "milestones": [[0.0, 0.25]], "reference_weight": 0.0},
    "mesh": {"resolution": 32, "target_faces": 500, "texture_size": 64, "density_threshold": 0.3},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_bundle(random_mvdream(folder / "tokenizer", image_size=32), folder / "bundle")
    return str(folder / "bundle")


def test_views_are_refocused_unless_told_otherwise(bundle):
    plain = views_maker(bundle, {"steps": 2, "refocus": None})(PROMPT, 3)
    assert len(plain.views) == 4 and plain.renders is None and plain.numbers["seconds_views"] > 0
    again = views_maker(bundle, {"steps": 2, "refocus": None})(PROMPT, 3)
    assert torch.equal(plain.views.images, again.views.images)
    assert "refocus_report" not in plain.views.provenance
    assert "refocus_report" in views_maker(bundle, {"steps": 2})(PROMPT, 3).views.provenance


def test_an_asset_is_seen_from_eight_new_sides_and_saved(bundle, tmp_path):
    made = asset_maker(bundle, ASSET)(PROMPT, 0)
    assert len(made.views) == 4 and len(made.renders) == 8 and made.points.shape == (2048, 3)
    nearest = torch.cdist(made.renders.cameras.positions, made.views.cameras.positions).min()
    assert nearest > 0.5, "no reference view is scored"
    torch.testing.assert_close(
        made.renders.cameras.positions.norm(dim=1), made.views.cameras.positions.norm(dim=1).repeat(2), rtol=1e-4, atol=1e-4
    )
    assert {"psnr", "ssim", "mask_iou", "mesh_faces", "mesh_watertight", "seconds_fit", "seconds_refine"} <= set(made.numbers)
    save_item(made, PROMPT, 0, {"seconds": 1.0}, tmp_path)
    item = load_item(tmp_path)
    assert item.images.shape == (8, 32, 32, 3) and item.views.shape == (4, 32, 32, 3)
    assert torch.equal(item.points, made.points) and item.record["numbers"]["psnr"] == made.numbers["psnr"]
    assert (item.images.float() / 255 - made.renders.images).abs().max() <= 0.5 / 255 + 1e-6


def test_a_protocol_decides_what_is_looked_at(bundle):
    made = asset_maker(bundle, ASSET | {"protocol": "dreamfields"})(PROMPT, 0)
    assert made.renders.images.shape == (1, 224, 224, 3)
    assert (made.renders.images[made.renders.masks < 1e-3] > 0.99).all(), "before white"


@pytest.mark.parametrize(
    ("factory", "settings", "message"),
    [
        (views_maker, {"fit": {}}, "unknown setting 'fit': this maker takes negative_prompt, steps"),
        (views_maker, {"refocus": {"strength": 1}}, "setting 'refocus' has an entry 'strength' that there is not"),
        (asset_maker, {"refinement": {"multiview": False}}, "setting 'refinement' has an entry 'multiview' that there is not"),
        (views_maker, {"refocus": 5}, "setting 'refocus' must be an object of settings"),
        (asset_maker, {"candidates": None}, "setting 'candidates' must be an object of settings"),
    ],
)
def test_settings_are_checked_before_the_model_is_loaded(factory, settings, message):
    with pytest.raises(ValueError, match=message):
        factory("nowhere", settings)


def test_the_ablations_settings_are_real_ones():
    for title, maker, variants in ABLATIONS.values():
        assert title.startswith("Ablation: ") and len(variants) > 1
        for settings in variants.values():
            complete = merged({"steps": 2, "refinement": {"steps": 9}}, settings)
            with pytest.raises(FileNotFoundError, match="no model at 'nowhere'"):  # so every setting before it was taken
                (views_maker if maker == "views" else asset_maker)(
                    "nowhere", complete if maker == "asset" else {k: v for k, v in complete.items() if k != "refinement"}
                )
    assert merged({"refinement": {"steps": 9}}, {"refinement": {"multi_view": False}})["refinement"] == {
        "steps": 9,
        "multi_view": False,
    }
    assert merged({"refocus": {"steps": 3}}, {"refocus": None})["refocus"] is None
