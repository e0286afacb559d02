"""`web/focus_state.mjs`: reading and writing the state, merging it with a prompt, and the same words as `gd_core`."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gd_core.attention import closed_words
from gd_core.attention.words import prompt_words

RULE = [word for name, words in vars(closed_words).items() if isinstance(words, frozenset) for word in sorted(words)]
WORDS = (
    "red cube blue sphere dog café t-shirt child's \u732b 3d \u0130stanbul wearing riding singing 7 \u0663 of of of a a".split()
)
SIGNS = [" ", "  ", ", ", ". ", " - ", "\n", "_", " \U0001f642 ", "'", "’", "--"]


def random_prompt(rng: random.Random) -> str:
    """Mostly ordinary words, mixed with those that the tagger knows by name."""
    return "".join(rng.choice(rng.choice((WORDS, RULE))) + rng.choice(SIGNS) for _ in range(rng.randrange(12)))


@pytest.fixture
def js(modules):
    """Evaluate an expression over `state`, the module under test, and `arg`."""
    return lambda expression, arg=None: modules.evaluate(f"arg => {{ return {expression} }}", arg)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=20))
def test_any_text_is_cut_into_the_words_that_the_server_finds(js, texts):
    # Assigned letters of the newest Unicode differ between Python and the browser: keep to those that both know.
    texts = [text for text in texts if all(ord(char) < 0x2000 or 0x3040 <= ord(char) < 0x9FFF for char in text)]
    found = js("arg.map(text => state.promptWords(text).map(w => [w.word, w.occurrence, w.key]))", texts)
    assert found == [[[word.text, word.occurrence, word.key] for word in prompt_words(text)] for text in texts]


def test_random_prompts_have_the_words_that_the_server_finds(js):
    rng = random.Random(0)
    texts = [random_prompt(rng) for _ in range(1500)]
    found = js("arg.map(text => state.promptWords(text).map(w => [w.word, w.occurrence, w.key]))", texts)
    assert found == [[[word.text, word.occurrence, word.key] for word in prompt_words(text)] for text in texts]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red cube next to a blue sphere", ["cube", "sphere"]),
        ("a bulldog wearing a black pirate hat", ["bulldog", "hat"]),
        ("a bear on top of a wooden box, masterpiece, best quality", ["bear", "box"]),
        ("red cube and blue sphere", ["cube", "sphere"]),
        ("", []),
        ("of the and", []),
    ],
)
def test_default_subjects(js, prompt, expected):
    assert js("state.promptWords(arg).filter(w => w.subject).map(w => w.word)", prompt) == expected


def test_labels_are_as_typed_and_keys_are_lower_case(js):
    words = js("state.promptWords('A CUBE, a Cube')")
    assert [word["label"] for word in words] == ["A", "CUBE", "a", "Cube"]
    assert [word["key"] for word in words] == ["a", "cube", "a#2", "cube#2"]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_no_state_is_automatic(js, text):
    assert js("state.parseState(arg)", text) == {"mode": "auto", "entries": []}


def test_missing_fields_have_their_defaults(js):
    found = js("state.parseState(arg)", '{"v":1,"focus":[{"word":" Cube "}]}')
    assert found == {"mode": "explicit", "entries": [{"word": "cube", "occurrence": 0, "weight": 1}]}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "null",
        "[]",
        "1",
        '"text"',
        "{}",
        '{"v":2,"focus":[]}',
        '{"v":1}',
        '{"v":1,"focus":{}}',
        '{"v":1,"focus":[null]}',
        '{"v":1,"focus":["cube"]}',
        '{"v":1,"focus":[{"word":""}]}',
        '{"v":1,"focus":[{"word":7}]}',
        '{"v":1,"focus":[{"word":"cube","occurrence":-1}]}',
        '{"v":1,"focus":[{"word":"cube","occurrence":0.5}]}',
        '{"v":1,"focus":[{"word":"cube","occurrence":null}]}',
        '{"v":1,"focus":[{"word":"cube","weight":"1"}]}',
        '{"v":1,"focus":[{"word":"cube","weight":3.5}]}',
        '{"v":1,"focus":[{"word":"cube","weight":-1}]}',
        '{"v":1,"focus":[{"word":"cube","weight":null}]}',
        '{"v":1,"focus":[{"word":"cube","weight":1e999}]}',
    ],
)
def test_malformed_states_are_named(js, text):
    found = js("state.parseState(arg)", text)
    assert found["mode"] == "broken"
    assert found["problem"]


def test_arrays_and_numbers_are_not_states(js):
    assert js("[null, 1, [], {}].map(value => state.parseState(value).mode)") == ["broken"] * 4


def test_weights_lie_on_the_grid(js):
    rng = random.Random(1)
    weights = [rng.uniform(-1, 5) for _ in range(300)]
    for weight, snapped in zip(weights, js("arg.map(state.snapWeight)", weights), strict=True):
        assert 0 <= snapped <= 3
        assert snapped == round(snapped, 2)
        assert abs(snapped - min(3, max(0, weight))) <= 0.025 + 1e-9


def test_writing_and_reading_is_the_identity(js):
    rng = random.Random(2)
    cases = []
    for _ in range(100):
        chosen = {(rng.choice(["cube", "\u732b", 'a"b', "\\", "child's"]), rng.randrange(3)) for _ in range(rng.randrange(6))}
        cases.append([{"word": word, "occurrence": nth, "weight": rng.randrange(61) / 20} for word, nth in sorted(chosen)])
    texts = js("arg.map(state.serializeState)", cases)
    assert [json.loads(text) for text in texts] == [{"v": 1, "focus": entries} for entries in cases]
    assert js("arg.map(state.parseState)", texts) == [{"mode": "explicit", "entries": entries} for entries in cases]
    assert js("arg.map(text => state.serializeState(state.parseState(text).entries))", texts) == texts


def test_editing_the_prompt_keeps_every_weight(js):
    """Whatever the prompt becomes: no entry is lost, each is on its word or a stale chip, and every word has one chip."""
    rng = random.Random(3)
    cases = [
        {
            "before": random_prompt(rng),
            "after": random_prompt(rng),
            "steps": [[rng.randrange(12), rng.choice([None, rng.uniform(-1, 4)])] for _ in range(6)],
        }
        for _ in range(300)
    ]
    results = js(
        """arg.map(({before, after, steps}) => {
            const words = state.promptWords(before);
            let text = "";
            for (const [index, weight] of steps) {
              if (words.length) text = state.withWeight(words, state.parseState(text), words[index % words.length].key, weight);
            }
            const parsed = state.parseState(text);
            const edited = state.promptWords(after);
            return {parsed, edited, chips: state.mergeChips(edited, parsed), back: state.mergeChips(words, parsed)};
        })""",
        cases,
    )
    for result in results:
        entries = {(entry["word"], entry["occurrence"]): entry["weight"] for entry in result["parsed"]["entries"]}
        chips = result["chips"]
        keys = [chip["key"] for chip in chips]
        assert len(keys) == len(set(keys))
        assert [chip["key"] for chip in chips if not chip["stale"]] == [word["key"] for word in result["edited"]]
        if result["parsed"]["mode"] == "explicit":
            assert {(c["word"], c["occurrence"]): c["weight"] for c in chips if c["focused"]} == entries
            in_prompt = {(word["word"], word["occurrence"]) for word in result["edited"]}
            assert {(c["word"], c["occurrence"]) for c in chips if c["stale"]} == set(entries) - in_prompt
        assert not any(chip["stale"] for chip in result["back"])


def test_the_first_touch_writes_the_subjects_down(js):
    text = js("state.withWeight(state.promptWords('a red cube and a blue sphere'), state.parseState(''), 'red', 0.5)")
    assert json.loads(text)["focus"] == [
        {"word": "red", "occurrence": 0, "weight": 0.5},
        {"word": "cube", "occurrence": 0, "weight": 1},
        {"word": "sphere", "occurrence": 0, "weight": 1},
    ]


def test_a_stale_word_can_be_removed_and_an_unknown_one_not_added(js):
    stale = '{"v":1,"focus":[{"word":"dog"},{"word":"cube"}]}'
    text = js("state.withWeight(state.promptWords('a cube'), state.parseState(arg), 'dog', null)", stale)
    assert text == '{"v":1,"focus":[{"word":"cube","occurrence":0,"weight":1}]}'
    text = js("state.withWeight(state.promptWords('a cube'), state.parseState(''), 'dog', 1)")
    assert text == '{"v":1,"focus":[{"word":"cube","occurrence":0,"weight":1}]}'


def test_a_very_long_prompt_is_cut_whole(js):
    words = js("state.promptWords(arg)", "a red cube, " * 1000)
    assert len(words) == 3000 and words[-1]["occurrence"] == 999


def test_attention_payloads_are_checked(modules):
    junk = [None, 1, {}, {"v": 2, "run": "r", "words": []}, {"v": 1, "run": 7, "words": []}, {"v": 1, "run": "r"}]
    assert modules.evaluate("junk => junk.map(item => strip.decodeAttention(item))", junk) == [None] * len(junk)
    kept = modules.evaluate(
        """() => {
            const run = strip.decodeAttention(host.examplePayload({
              views: ["https://evil.test/a.png", "javascript:alert(1)", null, "data:image/jpeg;base64,AA=="],
              words: [{word: "cube", map: "%%%"}, {word: "sphere", map: btoa("abc")}, {},
                      {word: "red", occurrence: 1, attention: "x"}],
            }));
            return {views: run.views, words: [...run.words].map(([key, word]) => [key, word.map, word.attention])};
        }"""
    )
    assert kept["views"] == [None, None, None, "data:image/jpeg;base64,AA=="]
    assert kept["words"] == [["cube", None, None], ["sphere", None, None], ["red#2", None, None]]


def test_steps_keep_the_maps_that_they_leave_out(modules):
    assert modules.evaluate(
        """() => {
            const first = strip.decodeAttention(host.examplePayload());
            const later = {...host.examplePayload(), step: 10, views: null, map_size: null};
            for (const word of later.words) delete word.map;
            const next = strip.decodeAttention(later, first);
            const other = strip.decodeAttention({...later, run: "r2"}, first);
            return [next.words.get("cube").map === first.words.get("cube").map, next.views === first.views,
                    other.words.get("cube").map, other.views.length];
        }"""
    ) == [True, True, None, 0]


def test_words_are_ranked_by_their_share(modules):
    ranked = modules.evaluate(
        """() => strip.rankWords({size: [1, 2], words: new Map([
            ["cube", {map: Uint8Array.of(255, 0, 51, 0), scale: 0.1}], ["sky", {map: null, scale: 1}],
            ["sphere", {map: Uint8Array.of(255, 0, 255, 0), scale: 0.3}]])}, 0, 0, 0)"""
    )
    assert [item["key"] for item in ranked] == ["sphere", "cube"]
    assert [item["share"] for item in ranked] == pytest.approx([0.75, 0.25])


def test_heat_reaches_from_cold_to_hot_over_all_views(modules):
    pixels = modules.evaluate("() => [...strip.heatPixels(Uint8Array.of(10, 20, 30, 40), 2, 4)]")
    coldest = modules.evaluate("() => [...strip.heatPixels(Uint8Array.of(10, 20, 30, 40), 0, 1)]")
    assert coldest[:3] == [0, 0, 4]
    assert pixels[4:7] == [252, 255, 164]
    assert modules.evaluate("() => [...strip.heatPixels(Uint8Array.of(7, 7), 0, 1)]")[:3] == [0, 0, 4]
