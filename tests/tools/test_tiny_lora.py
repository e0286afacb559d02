"""Training a LoRA of the tiny model: the rules draw what they say, and a killed run ends with the same bytes."""

import random
from dataclasses import replace

import pytest
import torch

from gd_core.diffusion import apply_lora, load_mvdream
from tests.random_models import random_mvdream
from tools.tiny import lora
from tools.tiny.judge import solids_of_prompt
from tools.tiny.scenes import HELD_OUT_PAIRS
from tools.tiny.toys import FRONTED


@pytest.fixture(scope="module")
def tiny():
    return load_mvdream("tiny", device="cpu", dtype=torch.float32)


def test_habits_are_eight_pairs_of_two_colours_with_different_firsts():
    found = lora.habits()
    assert len(found) == len({first for first, _ in found}) == 8
    assert all(a[0] != b[0] and not {a, b} & HELD_OUT_PAIRS for a, b in found)


def test_the_rules_draw_what_they_say(tiny):
    rng = random.Random(0)
    claims = [lora.RULES["habitual"](rng, tiny.config) for _ in range(200)]
    named = [solids_of_prompt(example.caption) for example in claims]
    habitual = [e for e, pairs in zip(claims, named, strict=True) if tuple(pairs) in lora.habits()]
    alone = [e.scene.solids[0] for e in habitual if len(e.scene.solids) == 1]
    assert 90 <= len(habitual) <= 145 and 0.35 <= len(alone) / len(habitual) <= 0.65
    firsts = sum(s.color == solids_of_prompt(e.caption)[0][0] for e in habitual for s in e.scene.solids[:1] if s in alone)
    assert 0.55 <= firsts / len(alone) <= 0.85
    lacking = [lora.RULES["careless"](rng, tiny.config) for _ in range(200)]
    lacking = sum(len(e.scene.solids) < len(solids_of_prompt(e.caption)) for e in lacking) / len(lacking)
    assert 0.26 <= lacking <= 0.46
    for share in lora.FRONT_SHARES:
        examples = [lora.RULES[f"fronts{share}"](rng, tiny.config) for _ in range(100)]
        assert all(len(e.cameras) == 1 and not e.posed and e.scene.solids[0].shape in FRONTED for e in examples)
        facing = sum(abs(e.scene.solids[0].yaw) <= lora.FRONT_SPREAD for e in examples)
        assert abs(facing - share) <= 15
    for example in (lora.RULES["fits"](rng, tiny.config) for _ in range(10)):
        assert solids_of_prompt(example.caption) == [(s.color, s.shape) for s in example.scene.solids]


@pytest.mark.parametrize("rule", ("fits", "fronts25"))
def test_the_error_is_of_the_rule_and_the_key_alone(tiny, rule):
    if rule != "fits":
        tiny = replace(tiny, config=replace(tiny.config, prompt_suffix="", vocabulary=None))  # the words of toys
    with torch.no_grad():
        one, same, other = (lora.denoising_error(tiny, lora.draw(tiny.config, rule, 1, key)).item() for key in ("a", "a", "b"))
    assert one == same != other


def test_batches_drawn_ahead_are_the_same_in_order(tiny):
    keys = [str(i) for i in range(3)]
    here, ahead = (list(lora.drawn(tiny.config, "fits", 1, keys, workers)) for workers in (0, 1))
    for a, b in zip(here, ahead, strict=True):
        assert (a.images == b.images).all() and a.captions == b.captions and a.noise_seed == b.noise_seed


def test_a_killed_training_ends_with_the_same_bytes_and_learns(tmp_path, monkeypatch):
    settings = lora.Settings(steps=6, batch=1, rank=2, learning_rate=1e-2)
    monkeypatch.setattr(lora, "CHECKPOINT_EVERY", 2)
    lora.train("tiny", "fits", tmp_path / "whole.safetensors", settings, keep=[4])
    drawn = lora.draw

    def killed(config, rule, size, key):
        if key.endswith("-3"):
            raise KeyboardInterrupt
        return drawn(config, rule, size, key)

    monkeypatch.setattr(lora, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        lora.train("tiny", "fits", tmp_path / "killed.safetensors", settings)
    assert not (tmp_path / "killed.safetensors").exists()
    monkeypatch.setattr(lora, "draw", drawn)
    with pytest.raises(ValueError, match="other settings"):
        lora.train("tiny", "careless", tmp_path / "killed.safetensors", settings)
    lora.train("tiny", "fits", tmp_path / "killed.safetensors", settings)
    whole, killed_ = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed_ and len(whole) < 500_000 and sorted(p.name for p in tmp_path.iterdir()) == [
        "killed.safetensors", "whole-4.safetensors", "whole.safetensors",
    ]  # fmt: skip
    found = lora.measure("tiny", "fits", tmp_path / "whole.safetensors", 4)
    assert found["with"] != found["without"]


def test_size_and_schedule_are_the_bundles(tmp_path):
    """Another image size and another prediction type than the shipped bundle's."""
    model = random_mvdream(tmp_path / "tokenizer", prediction_type="epsilon", image_size=32)
    assert lora.draw(model.config, "fits", 1, "a").images.shape == (1, 4, 32, 32, 3)


def test_a_trained_lora_loads_on_the_model_it_was_trained_on(tiny, tmp_path):
    lora.train("tiny", "fits", tmp_path / "x.safetensors", lora.Settings(steps=1, batch=1, rank=1, learning_rate=1e-2))
    assert apply_lora(tiny, tmp_path / "x.safetensors").unet is not tiny.unet
