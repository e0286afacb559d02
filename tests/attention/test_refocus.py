"""Objectives, schedule, guard and the whole loop on a small random model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.attention import OBJECTIVES, Focus, FocusWord, RefocusConfig, Refocuser, refocus_loss, word_presence
from gd_core.attention.focus import Rival
from gd_core.attention.objectives import attribute_mismatch, can_be_neglected, view_imbalance
from gd_core.attention.record import AttentionRecord
from gd_core.attention.refocus import GUARD_NORM, guard, refocused_steps
from gd_core.attention.subjects import noun_phrases
from gd_core.attention.words import Word, prompt_words
from gd_core.cameras import orbit_cameras
from gd_core.diffusion import SAMPLERS, sample_objects, sample_views
from tests.random_models import random_mvdream

PROMPT = "a red cube and a blue sphere"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"))


def random_maps(seed=0, views=4, size=6, tokens=12):
    return (2 * torch.randn(views, size, size, tokens, generator=torch.Generator().manual_seed(seed))).softmax(-1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_attending_to_the_neglected_word_lowers_the_loss(objective):
    focus = Focus.on_tokens([2, 5], end_token=10)
    config = RefocusConfig(objective=objective)
    maps = torch.full((4, 6, 6, 12), 1 / 12)
    maps[:, 1, 1, 2] += 0.5
    lacking = refocus_loss(maps, focus, config)
    maps[:, 4, 4, 5] += 0.5
    assert refocus_loss(maps, focus, config) < lacking - 0.1


def test_objectives_differ_in_what_they_ask_of_the_views():
    maps = torch.full((4, 6, 6, 12), 1 / 12)
    maps[0, 3, 3, 2] += 0.5  # seen in one view only
    focus = Focus.on_tokens([2, 5], end_token=10, weights=[1.0, 0.0])
    losses = {o: float(refocus_loss(maps, focus, RefocusConfig(objective=o))) for o in OBJECTIVES}
    assert losses["concat_max"] < losses["per_view_mean"]
    assert losses["concat_max"] < losses["mean_views"]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from(OBJECTIVES), st.sampled_from([0.0, 0.02, 0.5]))
def test_loss_is_a_share_and_differentiable(seed, objective, temperature):
    maps = random_maps(seed).requires_grad_(True)
    focus = Focus.on_tokens([2, 5, (7, 8)], end_token=11)
    config = RefocusConfig(objective=objective, temperature=temperature)
    loss = refocus_loss(maps, focus, config)
    assert -1e-6 <= loss <= 1 + 1e-6
    (gradient,) = torch.autograd.grad(loss, maps)
    assert torch.isfinite(gradient).all()
    present = word_presence(maps, focus, config, focus.words)
    assert ((present >= 0) & (present <= 1 + 1e-6)).all()


def test_weights_scale_the_neglect_and_zero_leaves_a_word_alone():
    maps = random_maps()
    single = {
        token: refocus_loss(maps, Focus.on_tokens([token, 7 - token], 11, [1.0, 0.0]), RefocusConfig()) for token in (2, 5)
    }
    assert torch.isclose(refocus_loss(maps, Focus.on_tokens([2, 5], 11, [2.0, 0.0]), RefocusConfig()), 2 * single[2])
    assert torch.isclose(refocus_loss(maps, Focus.on_tokens([2, 5], 11, [0.0, 1.0]), RefocusConfig()), single[5])
    assert refocus_loss(maps, Focus.on_tokens([2, 5], 11, [0.0, 0.0]), RefocusConfig()) == 0


def test_soft_worst_lets_every_word_pull():
    maps = random_maps().requires_grad_(True)
    focus = Focus.on_tokens([2, 5], end_token=11)
    (gradient,) = torch.autograd.grad(refocus_loss(maps, focus, RefocusConfig(temperature=0.3)), maps)
    assert (gradient[..., [2, 5]].abs().amax((0, 1, 2)) > 1e-4).all()
    hard = refocus_loss(maps, focus, RefocusConfig(temperature=0.0))
    assert abs(refocus_loss(maps, focus, RefocusConfig(temperature=1e-3)) - hard) < 1e-3


WORDS = RefocusConfig(rivals="words", sharpening=100.0)


def test_padding_and_start_token_do_not_compete():
    maps, focus = random_maps(), Focus.on_tokens([2], end_token=6)
    loss = refocus_loss(maps, focus, WORDS)
    maps[..., 0] += 1
    maps[..., 6:] += 1
    assert refocus_loss(maps, focus, WORDS) == loss


def test_subjects_compete_with_subjects_alone():
    maps, focus = random_maps(), Focus.on_tokens([2, 4], end_token=11)
    loss = refocus_loss(maps, focus, RefocusConfig())
    maps[..., [1, 3, 5, 6]] += 1
    assert refocus_loss(maps, focus, RefocusConfig()) == loss
    assert refocus_loss(maps, replace(focus, rivals=(Rival((6,), subject=True),)), RefocusConfig()) > loss
    assert refocus_loss(maps, Focus.on_tokens([2], end_token=11), RefocusConfig()) == 0  # nobody to stand out against


def spelled(prompt, pieces, key_pieces=None):
    """The prompt's words with their tokens, each of `pieces` tokens unless `key_pieces` says otherwise, and the end token."""
    words, token = [], 1
    for word in prompt_words(prompt):
        count = (key_pieces or {}).get(word.key, pieces)
        words.append(replace(word, tokens=tuple(range(token, token + count))))
        token += count
    return words, token


@pytest.mark.parametrize("pieces", [(1, 5), (2, 3), (1, 2), (4, 1)])
@pytest.mark.parametrize("rivals", ["subjects", "words"])
def test_equal_attention_is_equal_presence_whatever_the_pieces(pieces, rivals):
    prompt = "cube and sphere"
    words, end = spelled(prompt, 1, dict(zip(("cube", "sphere"), pieces, strict=True)))
    focus = Focus.of_subjects(prompt).locate(prompt, words, end)
    maps = torch.full((4, 6, 6, end + 3), 0.05)
    config = RefocusConfig(rivals=rivals)
    present = word_presence(maps, focus, config, focus.words)
    assert torch.allclose(present[:, 0], present[:, 1])
    assert torch.allclose(present, torch.full_like(present, 1 / 2 if rivals == "subjects" else 1 / 3))
    record = AttentionRecord([words], [focus], config, 4)
    maps_of_words = record.attention(maps)[0]
    assert torch.allclose(maps_of_words["cube"], maps_of_words["sphere"])


@pytest.mark.parametrize("rivals", ["subjects", "words"])
def test_presence_does_not_depend_on_how_a_rival_is_spelled(rivals):
    prompt = "a red cube and a blue sphere"
    found = []
    for count in (1, 4):
        words, end = spelled(prompt, 1, {"sphere": count, "blue": count})
        focus = Focus.of_subjects(prompt).locate(prompt, words, end)
        maps = torch.full((4, 6, 6, end), 0.02)
        maps[..., list(focus.words[0].tokens)] = 0.04
        found.append(word_presence(maps, focus, RefocusConfig(rivals=rivals), focus.words))
    assert torch.allclose(*found)


def ideal(prompt, focus):
    """A focus in its prompt, and maps in which each phrase has a place of its own."""
    words, end = spelled(prompt, 1)
    focus = focus.locate(prompt, words, end)
    places = {}
    maps = torch.full((4, 9, 9, end), 0.01)
    for i, phrase in enumerate(noun_phrases(prompt)):
        for word in (*phrase.modifiers, phrase.noun):
            token = next(w.tokens[0] for w in words if w.key == word.key)
            places[word.key] = (token, 1 + 3 * i)
            maps[:, 1 + 3 * i, 4, token] = 0.06
    return maps.requires_grad_(True), focus, places


@pytest.mark.parametrize("rivals", ["subjects", "words"])
@pytest.mark.parametrize(
    ("prompt", "weights"),
    [
        (PROMPT, {"red": 3.0, "cube": 1.0, "sphere": 1.0}),
        (PROMPT, {"red": 1.0, "blue": 1.0}),
        ("a fire truck and an ice cream cone", {"fire": 1.0, "truck": 1.0, "cone": 2.0}),
        ("a big, red cube next to a small, blue sphere", {"big": 2.0, "small": 1.0}),
        ("a pirate's parrot on a half-open barrel", {"pirate's": 2.0, "half-open": 2.0, "parrot": 1.0}),
    ],
)
def test_a_word_never_fights_its_own_phrase(prompt, weights, rivals):
    maps, focus, places = ideal(prompt, Focus(tuple(FocusWord(word, weight=w) for word, w in weights.items())))
    (gradient,) = torch.autograd.grad(refocus_loss(maps, focus, RefocusConfig(rivals=rivals)), maps)
    for key, (token, row) in places.items():
        at_its_place = gradient[:, row - 1 : row + 2, 3:6, token]
        assert at_its_place.max() <= 0, key  # more attention there never costs
        if key in weights:
            assert at_its_place.min() < 0, key


def test_one_phrase_alone_has_no_rival():
    words, end = spelled("a big red cube", 1)
    focus = Focus((FocusWord("red", weight=3.0), FocusWord("cube"))).locate("a big red cube", words, end)
    assert not can_be_neglected(focus, RefocusConfig())
    assert can_be_neglected(focus, RefocusConfig(rivals="words"))


def test_attribute_and_consistency_terms():
    maps = torch.full((4, 6, 6, 12), 0.01)
    maps[:, 1, 1, 2] += 0.5
    maps[:, 4, 4, 1] += 0.5
    word = FocusWord("cube", tokens=(2,), modifiers=(Word("red", 0, (1,)),))
    apart = attribute_mismatch(maps, (word,))
    maps[:, 1, 1, 1] += 0.5
    assert attribute_mismatch(maps, (word,)) < apart
    assert attribute_mismatch(maps, (replace(word, tokens=(1,)),)) < 1e-6
    assert attribute_mismatch(maps, (replace(word, modifiers=()),)) == 0
    assert view_imbalance(maps, (word,)) < 1e-6
    maps[0, ..., 2] = 0.0
    assert view_imbalance(maps, (word,)) > 0.1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.05, 0.5, 2.0]), st.sampled_from([0.3, 1.0]))
def test_the_guard_keeps_the_noise_level(seed, strength, noise_level):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(4, 4, 8, 8, generator=generator)
    change = strength * torch.randn(start.shape, generator=generator)
    kept, acted = guard(start, start + change, noise_level)
    assert 1 - GUARD_NORM - 1e-4 <= kept.norm() / start.norm() <= 1 + GUARD_NORM + 1e-4
    assert acted == (strength >= 0.5)
    if not acted:
        assert torch.allclose(kept, start + change, atol=1e-6)


def test_schedule():
    assert [refocused_steps(RefocusConfig(share=s), 25) for s in (0.0, 0.01, 0.4, 1.0)] == [0, 1, 10, 25]
    assert refocused_steps(RefocusConfig(step_size=0.0), 25) == 0
    refocuser = Refocuser(None, None, [], RefocusConfig(thresholds=((0.0, 0.1), (0.4, 0.8))), num_views=4, steps=30)
    assert refocuser.thresholds == {0: 0.1, 12: 0.8}
    assert refocuser.step_sizes == sorted(refocuser.step_sizes, reverse=True)
    assert sum(refocuser.step_sizes[: refocuser.num_altered]) == pytest.approx(RefocusConfig().step_size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "sum"}, "no refocusing objective 'sum': choose one of mean_views"),
        ({"share": 1.5}, "share must be between 0 and 1"),
        ({"step_size": float("nan")}, "step_size must be between"),
        ({"thresholds": ((0.1, 2.0),)}, "thresholds are pairs"),
    ],
)
def test_bad_configurations_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RefocusConfig(**settings)


STRONG = RefocusConfig(step_size=1.0, share=0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_refocusing_raises_presence_with_every_sampler(model, sampler):
    focus = Focus((FocusWord("sphere"),))
    settings = {"seed": 1, "steps": 6, "sampler": sampler, "focus": focus}
    off = sample_views(model, PROMPT, **settings)
    on = sample_views(model, PROMPT, refocus=STRONG, **settings)
    report = on.provenance["refocus_report"]
    assert len(report["losses"]) == 3 and report["updates"] == [1, 1, 1] and report["stopped"] == ""
    assert on.provenance["presence"]["sphere"] > off.provenance["presence"]["sphere"]
    assert all(p.grad is None for p in model.unet.parameters())
    assert not (on.images.requires_grad or on.latents.requires_grad)


def test_attention_maps_of_every_word_with_and_without_refocusing(model):
    for refocus in (None, STRONG):
        views = sample_views(model, PROMPT, seed=0, refocus=refocus)
        assert list(views.attention) == ["cube", "sphere", "red", "blue"]
        assert all(m.shape == (4, 8, 8) and m.dtype == torch.float32 for m in views.attention.values())
        assert all(0 <= m.min() and m.max() <= 1 for m in views.attention.values())
        assert views.provenance["focus"]["focus"][0] == {"word": "cube", "occurrence": 0, "weight": 1.0}


def test_objects_of_a_batch_do_not_disturb_one_another(model):
    prompts = [PROMPT, "a green cube and a cube", "a teapot to the big cube"]
    alone = [sample_views(model, p, seed=i, refocus=STRONG) for i, p in enumerate(prompts)]
    together = sample_objects(model, prompts, seeds=[0, 1, 2], refocus=STRONG)
    for one, same in zip(alone, together, strict=True):
        assert torch.allclose(one.latents, same.latents, atol=2e-3)
        losses = [views.provenance["refocus_report"]["losses"] for views in (one, same)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_refinement_stops_at_the_threshold_or_the_cap(model):
    config = replace(STRONG, thresholds=((0.0, 1.0),), max_refinements=3)
    assert sample_views(model, PROMPT, seed=0, refocus=config).provenance["refocus_report"]["updates"] == [4, 1]
    config = replace(STRONG, thresholds=((0.0, 0.0),), max_refinements=3)
    assert sample_views(model, PROMPT, seed=0, refocus=config).provenance["refocus_report"]["updates"] == [1, 1]


def test_live_reports(model):
    reports = []
    config = replace(STRONG, thresholds=((0.25, 0.3),))
    views = sample_views(model, PROMPT, seed=0, steps=4, refocus=config, on_report=reports.append)
    assert [(r.object_index, r.step, r.total, r.threshold) for r in reports] == [
        (0, 1, 4, None), (0, 2, 4, 0.3), (0, 3, 4, None), (0, 4, 4, None)
    ]  # fmt: skip
    assert set(reports[0].presence) == {"cube", "sphere"}
    mean = torch.stack([r.attention["cube"] for r in reports]).mean(0)
    assert torch.allclose(mean, views.attention["cube"], atol=1e-6)


def test_focus_on_an_absent_word_is_refused_before_anything_runs(model):
    with pytest.raises(ValueError, match="'dog' is not in the prompt"):
        sample_views(model, PROMPT, seed=0, focus=Focus((FocusWord("dog"),)), refocus=STRONG)


def test_all_weights_zero_is_plain_sampling(model):
    focus = Focus((FocusWord("cube", weight=0.0), FocusWord("sphere", weight=0.0)))
    views = sample_views(model, PROMPT, seed=0, focus=focus, refocus=STRONG)
    assert torch.equal(views.images, sample_views(model, PROMPT, seed=0).images)
    assert "weight above 0" in views.provenance["refocus_report"]["stopped"]


@pytest.mark.parametrize("prompt", ["and", "a red cube"])
def test_fewer_than_two_subjects_is_plain_sampling(model, prompt):
    views = sample_views(model, prompt, seed=0, refocus=STRONG)
    assert torch.equal(views.images, sample_views(model, prompt, seed=0).images)
    assert views.provenance["refocus_report"]["stopped"]


def test_nan_loss_stops_refocusing_and_sampling_goes_on(model, caplog):
    """Broken text-key weights of the mid block's cross-attention in the gradient pass alone."""
    calls = []
    hook = model.unet.mid_block.register_forward_hook(
        lambda module, inputs, output: output * float("nan") if torch.is_grad_enabled() and not calls.append(1) else None
    )
    try:
        views = sample_views(model, PROMPT, seed=0, refocus=STRONG)
    finally:
        hook.remove()
    assert torch.equal(views.images, sample_views(model, PROMPT, seed=0).images)
    assert "not finite" in views.provenance["refocus_report"]["stopped"]
    assert "refocusing stopped" in caplog.text
    assert len(calls) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_few_views(model, count):
    views = sample_views(model, PROMPT, seed=0, steps=2, refocus=STRONG, cameras=orbit_cameras(count))
    assert len(views) == count and views.provenance["refocus_report"]["updates"] == [1]


def test_ten_subjects(model):
    prompt = " and ".join(["a cube"] * 10)
    views = sample_views(model, prompt, seed=0, steps=2, refocus=STRONG)
    assert len(views.provenance["presence"]) == 10
    assert "cube#10" in views.attention


def test_cancelling_inside_leaves_the_model_clean(model):
    class Cancelled(Exception):
        pass

    def cancel(report):
        raise Cancelled

    before = dict(model.unet.attn_processors)
    with pytest.raises(Cancelled):
        sample_views(model, PROMPT, seed=0, refocus=STRONG, on_report=cancel)
    assert all(model.unet.attn_processors[name] is processor for name, processor in before.items())


def test_checkpointing_changes_nothing(model):
    plain = sample_views(model, PROMPT, seed=0, refocus=STRONG)
    assert torch.allclose(
        sample_views(model, PROMPT, seed=0, refocus=replace(STRONG, checkpointing=True)).latents, plain.latents, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, tmp_path, dtype):
    half = random_mvdream(tmp_path)
    half.unet.to(dtype)
    expected = sample_views(model, PROMPT, seed=0, steps=2, refocus=STRONG).provenance["refocus_report"]["losses"]
    report = sample_views(half, PROMPT, seed=0, steps=2, refocus=STRONG).provenance["refocus_report"]
    assert report["stopped"] == "" and report["losses"] == pytest.approx(expected, abs=0.02)
