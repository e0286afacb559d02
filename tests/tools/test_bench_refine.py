"""The benchmark of the refinement: its rows on another device, and its table of rows whose answer is known."""

from __future__ import annotations

import json
import random

import pytest
import torch

from gd_core.nerf import RadianceField
from gd_core.nerf.field import FieldConfig
from tests.pretended_device import pretended_device
from tests.random_models import random_mvdream
from tools.bench_refine import GATE_TIMESTEPS, NOVEL, VARIANTS, gate, make_views, measure, render, table
from tools.tiny.scenes import random_scene


@pytest.mark.parametrize("count", [1, 2])
def test_views_stand_at_a_right_angle(tmp_path, count):
    views = make_views(random_scene(random.Random(0), 2), 0, random_mvdream(tmp_path), count)
    x, y, z = views.cameras.positions.T
    assert len(views) == count and (z > 0).all()
    assert torch.rad2deg(torch.atan2(x, -y)).tolist() == pytest.approx([90.0, 180.0][:count], abs=1e-3)


def test_rows_on_another_device(tmp_path):
    scene, model = random_scene(random.Random(0), 2), random_mvdream(tmp_path, image_size=32)
    views, truth = make_views(scene, 0, model, 1), render(scene.solids, NOVEL, model.image_size)
    with pretended_device() as device:
        for part in (model.unet, model.vae, model.text_encoder):
            part.requires_grad_(False).to(device)
        field = RadianceField(FieldConfig(step=0.4), device)
        novel = field.render(NOVEL, model.image_size, model.image_size)
        assert measure(novel, field, views, scene, truth).keys() >= {"reference_psnr", "novel_psnr", "novel_iou"}
        errors = gate(model, "a red cube", novel.rgb, truth[0])
    assert errors.keys() == {"fit", *map(str, GATE_TIMESTEPS)} and min(errors.values()) > 0


def test_table_tells_numbers_of_views_apart(tmp_path):
    for index, views in ((0, 1), (2, 1), (0, 4)):
        folder = tmp_path / f"{index}-{views}"
        folder.mkdir()
        for place, variant in enumerate(VARIANTS):
            row = {"truth": True, "all_present": True, "right_views": 1.0, "reference_psnr": 30.0, "novel_psnr": 20.0 + place}
            row |= {"novel_iou": 0.9, "cpu_seconds": 0.0}
            if views == 1:
                row |= {"views": 1, "gate": {"fit": 0.5} | {str(t): 0.4 + index / 10 for t in GATE_TIMESTEPS}}
            (folder / f"{variant}.json").write_text(json.dumps(row if variant == "fit only" else row | {"gate": None}))
    text = table(tmp_path)
    assert text.index("2 scenes, 1 ground-truth view in:") < text.index("1 scenes, ground-truth views in:")
    assert text.count("Gate") == 1 and "the fit 0.500" in text and "t = 200 +0.000 ± 0.196, lower in 1/2" in text
    assert "novel PSNR, dB +3.000 ± 0.000" in text
