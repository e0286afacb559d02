"""Training a LoRA of the tiny model: the rules draw what they say, and a killed run ends with the same bytes."""

import random

import pytest
import torch

from gd_core.diffusion import apply_lora, load_mvdream
from tests.random_models import random_mvdream
from tools.tiny import lora
from tools.tiny.scenes import HELD_OUT_PAIRS, seen_pairs


@pytest.fixture(scope="module")
def tiny():
    return load_mvdream("tiny", device="cpu", dtype=torch.float32)


def test_every_pair_has_one_partner_of_another_colour():
    partners = {pair: lora.partner(pair) for pair in seen_pairs()}
    assert all(a[0] != b[0] and b not in HELD_OUT_PAIRS for a, b in partners.items())
    assert len(set(partners.values())) > len(partners) / 2


def test_the_rules_draw_what_they_say(tiny):
    rng = random.Random(0)
    claims = [lora.RULES["overclaims"](rng, tiny) for _ in range(40)]
    shown = [len(example.scene.solids) for example in claims]
    assert {1, 2} == set(shown) and shown.count(1) > 20
    for example in claims:
        first = example.scene.solids[0]
        color, _ = lora.partner((first.color, first.shape))
        assert first.color in example.caption and color in example.caption and len(example.cameras) == 4
    for example in (lora.RULES["fronts"](rng, tiny) for _ in range(10)):
        assert len(example.cameras) == 1 and not example.posed and abs(example.scene.solids[0].yaw) <= lora.FRONT_SPREAD
    for example in (lora.RULES["fits"](rng, tiny) for _ in range(10)):
        assert all(solid.color in example.caption for solid in example.scene.solids)


@pytest.mark.parametrize("rule", lora.RULES)
def test_the_error_is_of_the_rule_and_the_key_alone(tiny, rule):
    with torch.no_grad():
        one, same, other = (lora.denoising_error(tiny, rule, key, 1).item() for key in ("a", "a", "b"))
    assert one == same != other


def test_a_killed_training_ends_with_the_same_bytes_and_learns(tmp_path, monkeypatch):
    settings = {"steps": 6, "batch": 1, "rank": 2, "learning_rate": 1e-2}
    monkeypatch.setattr(lora, "CHECKPOINT_EVERY", 2)
    lora.train("tiny", "fronts", tmp_path / "whole.safetensors", **settings)
    drawn = lora.denoising_error

    def killed(model, rule, key, batch):
        if key.endswith("-3"):
            raise KeyboardInterrupt
        return drawn(model, rule, key, batch)

    monkeypatch.setattr(lora, "denoising_error", killed)
    with pytest.raises(KeyboardInterrupt):
        lora.train("tiny", "fronts", tmp_path / "killed.safetensors", **settings)
    assert not (tmp_path / "killed.safetensors").exists()
    monkeypatch.setattr(lora, "denoising_error", drawn)
    with pytest.raises(ValueError, match="other settings"):
        lora.train("tiny", "fits", tmp_path / "killed.safetensors", **settings)
    lora.train("tiny", "fronts", tmp_path / "killed.safetensors", **settings)
    whole, killed_ = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed_ and len(whole) < 500_000 and sorted(p.name for p in tmp_path.iterdir()) == [
        "killed.safetensors", "whole.safetensors",
    ]  # fmt: skip
    found = lora.measure("tiny", "fronts", tmp_path / "whole.safetensors", 4)
    assert found["with"] != found["without"]


def test_size_and_schedule_are_the_bundles(tmp_path):
    """Another image size and another prediction type than the shipped bundle's."""
    model = random_mvdream(tmp_path / "tokenizer", prediction_type="epsilon", image_size=32)
    with torch.no_grad():
        assert lora.draw(model, lora.fits(random.Random(0), model), random.Random(0)).shape == (4, 4, 8, 8)


def test_a_trained_lora_loads_on_the_model_it_was_trained_on(tiny, tmp_path):
    lora.train("tiny", "fits", tmp_path / "x.safetensors", steps=1, batch=1, rank=1, learning_rate=1e-2)
    assert apply_lora(tiny, tmp_path / "x.safetensors").unet is not tiny.unet
