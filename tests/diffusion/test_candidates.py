"""Verdicts and candidates: the same seed is the same result however many go together, and what happens at the edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gd_core.attention import RefocusConfig
from gd_core.attention.rival_prompts import rival_prompt, without_subject
from gd_core.attention.subjects import noun_phrases
from gd_core.diffusion import SAMPLERS, sample_objects, sample_views
from gd_core.diffusion import sampling as sampling_module
from gd_core.diffusion.sampling import candidate_seeds
from gd_core.diffusion.verdict import of_all
from gd_core.settings.candidates import CandidateConfig
from gd_core.settings.verdict import VerdictConfig
from gd_core.verdicts import DOUBTFUL, MISSING, THERE, SubjectVerdict, missing_words
from gd_core.views import load_views
from tests.random_models import random_mvdream

PROMPT = "a red cube and a blue sphere"
CALIBRATED = VerdictConfig(early=(0.0, 40.0, 40.0, 1.0, 1.0), final=(0.0, 40.0, 40.0, 1.0, 1.0))
THREE = CandidateConfig(count=3, share=0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red cube next to a blue sphere", ["a blue sphere", "a red cube"]),
        ("one pink ball on top of the little orange cone.", ["the little orange cone", "one pink ball"]),
        ("a photo of the purple box and one red torus", ["a photo of one red torus", "a photo of the purple box"]),
        ("a corgi, a teapot and a kite", ["a teapot and a kite", "a corgi and a kite", "a corgi, a teapot"]),
        ("a cube and a cube", ["a cube", "a cube"]),
        ("a red cube", [""]),
    ],
)
def test_a_prompt_without_one_of_its_subjects(prompt, expected):
    assert [without_subject(prompt, phrase) for phrase in noun_phrases(prompt)] == expected


@pytest.mark.parametrize(
    ("prompt", "noun", "phrase"),
    [
        (
            "a red cube next to a blue ball",
            ["a red ball next to a blue ball", "a red cube next to a blue cube"],
            ["a blue ball next to a blue ball", "a red cube next to a red cube"],
        ),
        (
            "an orange toy and a ball",
            ["an orange ball and a ball", "an orange toy and a toy"],
            ["a ball and a ball", "an orange toy and an orange toy"],
        ),
        (
            "a red cube and a big cube",
            ["a big cube and a big cube", "a red cube and a red cube"],
            ["a big cube and a big cube", "a red cube and a red cube"],
        ),
        ("a cube and a cube", ["a cube", "a cube"], ["a cube", "a cube"]),
        ("a red cube", [""], [""]),
    ],
)
def test_rival_prompts(prompt, noun, phrase):
    phrases = noun_phrases(prompt)
    for ask, expected in (("noun", noun), ("phrase", phrase)):
        assert [rival_prompt(prompt, phrases, i, ask) for i in range(len(phrases))] == expected
    assert rival_prompt(prompt, phrases, 0, "left out") == without_subject(prompt, phrases[0])


def test_every_subject_has_a_verdict_that_is_saved_with_the_views(model, tmp_path):
    views = sample_views(model, PROMPT, seed=0)
    assert [(v.key, v.name) for v in views.verdicts] == [("cube", "red cube"), ("sphere", "blue sphere")]
    assert all(v.probability is None and v.word in (THERE, DOUBTFUL) and len(v.views) == 4 for v in views.verdicts)
    assert all(v.score == pytest.approx(sum(v.views) / 4, abs=1e-3) for v in views.verdicts), "without calibration the lift"
    views.save(tmp_path / "views.safetensors")
    assert load_views(tmp_path / "views.safetensors").verdicts == views.clone().verdicts == views.verdicts


def test_a_rival_that_is_longer_than_the_model_reads_leaves_the_subject_out(model):
    """The cube's rival has the sphere's 67 words twice: the prompt, which fits, gets its verdicts all the same."""
    assert len(sample_views(model, f"a cube and a {66 * 'red '}sphere", seed=0).verdicts) == 2


def test_coefficients_make_words_and_probabilities(model):
    for constant, word in ((9.0, THERE), (0.2, DOUBTFUL), (-9.0, MISSING)):
        config = replace(CALIBRATED, final=(constant, 0.0, 0.0, 0.0, 0.0))
        for verdict in sample_views(model, PROMPT, seed=0, verdict=config).verdicts:
            assert verdict.word == word and verdict.score == constant
    gone = sample_views(model, PROMPT, seed=0, verdict=config).verdicts
    assert missing_words(gone).startswith("'red cube' and 'blue sphere' are probably missing")


def test_one_rival_is_one_lift(model):
    verdicts = sample_views(model, "a cube and a cube", seed=0).verdicts
    assert [v.key for v in verdicts] == ["cube", "cube#2"] and [v.name for v in verdicts] == ["cube 1", "cube 2"]
    assert verdicts[0].views == pytest.approx(verdicts[1].views, abs=1e-4), "one prompt is left of either"


def test_verdicts_change_no_view_and_cost_a_pass_for_every_two_prompts(model):
    calls = []
    hook = model.unet.register_forward_hook(lambda *_: calls.append(1))
    plain = sample_views(model, PROMPT, seed=3, verdict=VerdictConfig(timesteps=()))
    without, calls[:] = len(calls), []
    views = sample_views(model, PROMPT, seed=3, verdict=VerdictConfig(timesteps=(850, 500)))
    hook.remove()
    assert plain.verdicts == () and torch.equal(plain.images, views.images)
    assert len(calls) == without + 2 * 2, "three prompts, two in a pass"
    assert all(torch.equal(plain.attention[word], views.attention[word]) for word in plain.attention)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_winner_is_what_its_seed_makes_alone(model, sampler):
    views = sample_views(model, PROMPT, seed=5, sampler=sampler, steps=6, candidates=THREE, verdict=CALIBRATED)
    tried = views.provenance["candidates"]["tried"]
    assert [c["seed"] for c in tried] == candidate_seeds(5, 3)
    assert views.seed == max(tried, key=lambda c: c["score"])["seed"]
    alone = sample_views(model, PROMPT, seed=views.seed, sampler=sampler, steps=6, verdict=CALIBRATED)
    assert torch.allclose(views.latents, alone.latents, atol=2e-3)
    for word, maps in alone.attention.items():
        assert torch.allclose(views.attention[word], maps, atol=1e-4)
    assert [v.score for v in views.verdicts] == pytest.approx([v.score for v in alone.verdicts], abs=0.05)


def test_whatever_goes_together_the_result_is_the_same(model, monkeypatch):
    settings = {"seed": 5, "candidates": replace(THREE, count=5), "verdict": CALIBRATED}
    together = sample_views(model, PROMPT, **settings)
    passes = []
    hook = model.unet.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    monkeypatch.setattr(sampling_module, "free_memory", lambda device: 0)
    one_by_one = sample_views(model, PROMPT, **settings)
    hook.remove()
    assert max(passes) == 8, "on a small device one candidate follows the other"
    assert one_by_one.seed == together.seed and torch.allclose(one_by_one.latents, together.latents, atol=2e-3)
    scores = [[c["score"] for c in v.provenance["candidates"]["tried"]] for v in (together, one_by_one)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_candidates_are_told_of_and_steps_counted(model):
    told, steps = [], []
    views = sample_views(
        model, PROMPT, seed=0, candidates=THREE, verdict=CALIBRATED,
        progress=lambda step, total, preview: steps.append((step, total, tuple(preview.shape))),
        on_candidates=lambda candidates, winner: told.append((candidates, winner)),
    )  # fmt: skip
    ((candidates, winner),) = told
    assert candidates[winner].seed == views.seed and candidates[winner].score == max(c.score for c in candidates)
    assert all(c.preview.shape == (64, 256, 3) and len(c.verdicts) == 2 for c in candidates)
    assert [s[:2] for s in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [s[2] for s in steps] == [(192, 256, 3)] * 2 + [(64, 256, 3)] * 2


def test_while_something_is_missing_the_next_best_is_finished(model):
    told = []
    lost = replace(CALIBRATED, final=(-9.0, 0.0, 0.0, 1e-3, 0.0))
    settings = {"seed": 0, "verdict": lost, "on_candidates": lambda candidates, winner: told.append(winner)}
    views = sample_views(model, PROMPT, candidates=replace(THREE, retries=1), **settings)
    made = views.provenance["candidates"]
    order = sorted(range(3), key=lambda i: -made["tried"][i]["score"])
    assert told == order[:2] and made["finished"] == [made["tried"][i]["seed"] for i in order[:2]]
    assert views.seed in made["finished"]
    fresh = sample_views(model, PROMPT, seed=0, verdict=lost, candidates=CandidateConfig(retries=2))
    assert fresh.provenance["candidates"]["finished"] == candidate_seeds(0, 3), "no candidates: fresh starts"
    again = sample_views(model, PROMPT, seed=fresh.seed, verdict=lost)
    assert torch.equal(fresh.latents, again.latents)
    found = replace(lost, final=(9.0, 0.0, 0.0, 0.0, 0.0))
    assert len(sample_views(model, PROMPT, seed=0, candidates=replace(THREE, retries=2), verdict=found)
               .provenance["candidates"]["finished"]) == 1  # fmt: skip


@pytest.mark.parametrize("prompt", ["and", "big"])
def test_no_subject_is_no_reason_to_try_twice(model, prompt, caplog):
    views = sample_views(model, prompt, seed=4, candidates=THREE)
    named = noun_phrases(prompt)
    assert len(views.provenance["candidates"]["tried"]) == (3 if named else 0) and len(views) == 4
    assert ("candidates rest" in caplog.text) == (not named) and bool(views.verdicts) == bool(named)


def test_one_subject_is_compared_with_no_prompt_at_all(model):
    views = sample_views(model, "a red cube", seed=4, candidates=THREE, verdict=CALIBRATED)
    assert len(views.provenance["candidates"]["tried"]) == 3 and [v.name for v in views.verdicts] == ["red cube"]


def test_a_model_without_attention_of_that_size_is_sampled_all_the_same(model, caplog):
    elsewhere = replace(model.recipe.refocus, downscale=4)
    blind = replace(model, recipe=replace(model.recipe, refocus=elsewhere))
    views = sample_views(blind, PROMPT, seed=0, refocus="auto", candidates=THREE, verdict=CALIBRATED)
    assert "no cross-attention at 1/4" in caplog.text and views.attention == {}
    assert [v.probability for v in views.verdicts] == [None, None] and views.provenance["refocus"] is None


def test_cancelling_between_candidates_leaves_the_model_clean(model):
    before = dict(model.unet.attn_processors)

    def cancel(candidates, winner):
        raise KeyError

    with pytest.raises(KeyError):
        sample_views(model, PROMPT, seed=0, candidates=THREE, on_candidates=cancel)
    assert all(model.unet.attn_processors[name] is processor for name, processor in before.items())
    assert sample_views(model, PROMPT, seed=0).verdicts


def test_refocusing_rests_where_nothing_is_in_doubt(model):
    strong = RefocusConfig(step_size=1.0, share=1.0, when="doubtful")
    plain = sample_views(model, PROMPT, seed=1, verdict=CALIBRATED)
    sure, unsure = (replace(CALIBRATED, early=(c, 0.0, 0.0, 0.0, 0.0)) for c in (9.0, -9.0))
    calm = sample_views(model, PROMPT, seed=1, refocus=strong, verdict=sure)
    assert torch.equal(calm.images, plain.images)
    assert calm.provenance["refocus_report"]["stopped"] == "no subject is in doubt"
    acted = sample_views(model, PROMPT, seed=1, refocus=strong, verdict=unsure)
    report = acted.provenance["refocus_report"]
    assert report["updates"] == [1, 1, 1] and not report["stopped"], "from the second of four steps on"
    objects = sample_objects(model, [PROMPT] * 2, seeds=[1, 2], refocus=strong, verdict=unsure)
    assert torch.allclose(objects[0].latents, acted.latents, atol=2e-3)


def test_scores_of_a_scene():
    def of(probability, score):
        return SubjectVerdict("cube", "cube", THERE, score, probability, (score,))

    assert of_all([of(0.9, 2.2), of(0.9, 2.2)]) > of_all([of(0.99, 4.6), of(0.5, 0.0)])
    assert of_all([of(None, 0.3), of(None, 0.1)]) == 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CandidateConfig(count=9), "candidates count must be between 1 and 8, got 9"),
        (lambda: CandidateConfig(count=0), "candidates count must be between"),
        (lambda: CandidateConfig(share=0.0), "candidates share must be between"),
        (lambda: VerdictConfig(early=(1.0, 2.0)), "no coefficients or 5"),
        (lambda: VerdictConfig(timesteps=(1000,)), "timesteps must be between 0 and 999"),
        (lambda: VerdictConfig(ask="nicely"), "ask must be one of noun, phrase, left out"),
        (lambda: VerdictConfig(missing=0.9), "must not be above there"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
