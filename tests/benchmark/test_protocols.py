import json
import math

import pytest
import torch
import torch.nn.functional as F
import trimesh

from gd_core.benchmark.prompt_sets import load_prompts
from gd_core.benchmark.protocols import (
    PROTOCOLS,
    attend_excite_numbers,
    finds_its_prompt,
    halves,
    imagenet_templates,
    protocol_pictures,
)
from gd_core.benchmark.runner import Plan, items_of, run_benchmark
from gd_core.benchmark.scoring import Scorers, score_run
from gd_core.benchmark.workers import run_here
from gd_core.cameras import orbit_cameras
from gd_core.metrics import load_clip
from gd_core.metrics.alignment import two_step_judge
from gd_core.views import ViewSet
from tests.benchmark.test_cli import MAKER, evaluate

VIEWS = ViewSet(torch.ones(4, 8, 8, 3), torch.zeros(4, 8, 8), orbit_cameras(4), prompt="a red cube", seed=0)


def test_t3bench_looks_from_an_icosahedrons_corners():
    cameras = PROTOCOLS["t3bench"].cameras()
    corners = trimesh.creation.icosphere(subdivisions=0).vertices * 2.2 * 2.2
    distance = torch.cdist(cameras.positions.double(), torch.tensor(corners))
    assert sorted(distance.argmin(1).tolist()) == list(range(12)) and distance.amin(1).max() < 1e-5
    assert cameras.fov_y_deg.tolist() == [60.0] * 12
    for coordinate in cameras.project(torch.zeros(1, 3), 512, 512)[:2]:
        torch.testing.assert_close(coordinate, torch.full((12, 1), 256.0))


def test_dream_fields_looks_from_above_with_nerfs_focal_length():
    (camera,) = PROTOCOLS["dreamfields"].cameras().c2w
    position = camera[:3, 3]
    assert position.norm() == pytest.approx(4, abs=1e-5) and position[2] == pytest.approx(4 * math.sin(math.radians(45)))
    focal = 400 / math.tan(math.radians(float(PROTOCOLS["dreamfields"].cameras().fov_y_deg) / 2))
    assert focal == pytest.approx(1111.1111, rel=1e-5)


def test_t3bench_centres_and_scales_the_mesh_before_black(tmp_path):
    pictures = []
    for name, size, move in (("near", 1.0, (0, 0, 0)), ("far", 3.0, (5, -2, 1))):
        box = trimesh.creation.box((2 * size, size, size))
        box.apply_translation(move)
        box.export(tmp_path / f"{name}.glb")
        pictures.append(protocol_pictures("t3bench", VIEWS, None, tmp_path / f"{name}.glb", VIEWS.cameras))
    one, other = pictures
    assert one.images.shape == (12, 512, 512, 3) and one.images[one.masks == 0].max() == 0
    assert (one.masks != other.masks).float().mean() < 1e-4
    assert 0.02 < one.masks.mean() < 0.2, "a box of size 2 at a distance of 4.84"


def test_every_template_is_asked_in_both_articles():
    made = imagenet_templates()
    assert len(set(made)) == len(made) == 80 and all(one.count("{}") == 1 for one in made)
    assert {"a photo of a hard to see {}.", "the {} in a video game.", "a origami {}.", "itap of my {}."} <= set(made)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat and a dog", ("a cat", "a dog")),
        ("a cat with a hat", ("a cat", "a hat")),
        ("a cat with a hat and a dog", ("a cat with a hat", "a dog")),
        ("a cat", None),
    ],
)
def test_prompts_are_taken_apart_as_there(prompt, parts):
    assert halves(prompt) == parts


def test_attend_and_excites_minimum_is_of_each_picture(clip_folder):
    clip = load_clip(clip_folder)
    seen = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    phrases = ("a red cube and a blue sphere", "a red cube", "a blue sphere")
    texts = []
    for phrase in phrases:
        asked = [one.format(phrase).replace("a a", "a").replace("the a", "a") for one in imagenet_templates()]
        texts.append(F.normalize(clip.embed_texts(asked).mean(0), dim=0))
    cosine = seen @ torch.stack(texts).T
    numbers = attend_excite_numbers(clip, seen, phrases[0])
    assert numbers["attend_excite_full_prompt"] == pytest.approx(float(cosine[:, 0].mean()), abs=1e-6)
    assert numbers["attend_excite_minimum_object"] == pytest.approx(float(cosine[:, 1:].min(1).values.mean()), abs=1e-6)
    assert attend_excite_numbers(clip, seen, "a cube") == {}


def test_a_prompt_that_is_not_in_the_pool_is_added_to_it():
    pool, own = torch.eye(4)[:3], torch.eye(4)[3]
    seen = torch.tensor([[0.0, 0.0, 0.1, 0.9], [0.9, 0.0, 0.0, 0.1]])
    assert finds_its_prompt(seen, pool, ["a", "b", "c"], "d", own).tolist() == [True, False]
    assert finds_its_prompt(seen, pool, ["a", "b", "c"], "a", pool[0]).tolist() == [False, True]


def test_captions_are_merged_and_then_scored():
    asked = []

    def model(text):
        asked.append(text)
        return '"A cube.".' if len(asked) == 1 else "3.6"

    assert two_step_judge(model)("a red cube", ["a box", "a square"]) == 4
    assert "view 1: a box\nview 2: a square" in asked[0] and "Prompt: a red cube\nCaption: A cube" in asked[1]
    with pytest.raises(ValueError, match="answered 'well' for 'a red cube'"):
        two_step_judge(lambda text: "well")("a red cube", ["a box"])


def test_numbers_carry_their_protocol_and_own_ones_stay_away(tmp_path, clip_folder):
    more = ("--clip", str(clip_folder), "--protocol", "attend-excite", "--small", str(tmp_path / "kept" / "ae"))
    assert evaluate(tmp_path / "run", *more) == 0
    summary = json.loads((tmp_path / "run" / "report.json").read_text())["runs"][0]["summary"]
    assert "attend_excite_minimum_object" in summary and not {"clip_score", "clip_r_precision"} & set(summary)
    page, kept = (tmp_path / "run" / "report.html").read_text(), (tmp_path / "kept" / "ae.md").read_text()
    for text in (page, kept):
        assert "Minimum-object CLIP, protocol attend-excite" in text and "ViT-B/16 in the original" in text
    assert "--protocol attend-excite" in kept and "<b>attend-excite</b>" in page


def test_items_with_too_few_pictures_are_refused_and_a_pool_is_counted(tmp_path, clip_folder):
    items = items_of(load_prompts("tiny").head(3), [0])
    run_benchmark(Plan(MAKER, "any"), items, tmp_path, run_here)
    clip = load_clip(clip_folder)
    with pytest.raises(ValueError, match="t3bench looks at 12 renders of the mesh, item .*__0 has 4"):
        score_run(tmp_path, items, Scorers(protocol="t3bench", captioner=lambda images: [], caption_judge=lambda p, c: 1))
    scores = score_run(tmp_path, items, Scorers(clip=clip, protocol="paper", pool=["a cone", "a cube"]))
    assert scores.whole["r_precision_pool"] == 2 and "paper_r_precision" in scores.summary()
