"""`web/focus_state.mjs`: reading the server's answer, reading and writing the state, merging both."""

from __future__ import annotations

import json
import random

import pytest

from gd_core.attention import Focus, read_prompt
from tests.web.server_words import answer

WORDS = "red cube blue sphere dog café t-shirt child's \u732b 3d \u0130stanbul wearing riding 7 of of a a".split()
WORDS += ["(red:1.2)", "(cube:0.5)"]
SIGNS = [" ", "  ", ", ", ". ", " - ", "\n", "_", " \U0001f642 ", "'", "’", "--"]


def random_prompt(rng: random.Random) -> str:
    return "".join(rng.choice(WORDS) + rng.choice(SIGNS) for _ in range(rng.randrange(12)))


@pytest.fixture
def js(modules):
    """Evaluate an expression over `state`, the module under test, and `arg`."""
    return lambda expression, arg=None: modules.evaluate(f"arg => {{ return {expression} }}", arg)


@pytest.fixture
def said(tmp_path_factory):
    """`said(prompt)`: what the server says of a prompt."""
    base = tmp_path_factory.getbasetemp()
    return lambda prompt, **more: answer(base, {"text": prompt, **more})


def test_the_servers_answer_is_read_as_it_is(js, said):
    prompts = ["A CUBE, a Cube", "a (red:1.2) cube", "", "of the and", "Ein Café – naïve \U0001f642 dogs"]
    for prompt in prompts:
        told = said(prompt)
        read = js("state.readAnswer(arg)", told)
        assert [(w["word"], w["label"], w["weight"], w["focus"]) for w in read["words"]] == [
            (w["word"], w["label"], w["weight"], w["focus"]) for w in told["words"]
        ]
        assert read["clean"] == told["text_clean"]
    assert [w["key"] for w in js("state.readAnswer(arg).words", said("A CUBE, a Cube"))] == ["a", "cube", "a#2", "cube#2"]
    unknown = js("[...state.readAnswer(arg).unknown]", said("a red giraffe and a spheer", model="tiny (bundled)"))
    assert unknown == [["giraffe", None], ["spheer", "sphere"]]


@pytest.mark.parametrize("junk", [None, {}, {"words": 7}, {"error": "no"}, {"words": [7, {}, {"word": 3}], "unknown": [1]}])
def test_junk_is_no_answer(js, junk):
    assert js("state.readAnswer(arg).words", junk) == []


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


def test_editing_the_prompt_keeps_every_weight(js, said):
    """Whatever the prompt becomes: no entry is lost, each is on its word or a stale chip, and every word has one chip."""
    rng = random.Random(3)
    cases = [
        {
            "before": said(random_prompt(rng)),
            "after": said(random_prompt(rng)),
            "steps": [[rng.randrange(12), rng.choice([None, rng.uniform(-1, 4)])] for _ in range(6)],
        }
        for _ in range(120)
    ]
    results = js(
        """arg.map(({before, after, steps}) => {
            const {words} = state.readAnswer(before);
            let text = "";
            for (const [index, weight] of steps) {
              if (words.length) text = state.withWeight(words, state.parseState(text), words[index % words.length].key, weight);
            }
            const parsed = state.parseState(text);
            const edited = state.readAnswer(after).words;
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
            shown = {(c["word"], c["occurrence"]): c["weight"] for c in chips if c["focused"] and not c["written"]}
            assert entries.items() <= shown.items()
            in_prompt = {(word["word"], word["occurrence"]) for word in result["edited"]}
            assert {(c["word"], c["occurrence"]) for c in chips if c["stale"]} == set(entries) - in_prompt
        assert not any(chip["stale"] for chip in result["back"])


def test_the_chips_weigh_what_python_weighs(js, said):
    """In both modes, with weights in the text and entries that are stale: the widget shows what the run does."""
    rng = random.Random(4)
    cases = []
    for _ in range(150):
        prompt = random_prompt(rng)
        told = said(prompt)
        words = [w["word"] for w in told["words"]] + ["dog", "nowhere"]
        entries = {(rng.choice(words), 0): rng.randrange(61) / 20 for _ in range(rng.randrange(4))}
        state = [{"word": word, "occurrence": nth, "weight": weight} for (word, nth), weight in entries.items()]
        text = rng.choice(["", json.dumps({"v": 1, "focus": state})])
        focus = read_prompt(prompt).focus(None if not text else Focus.from_json(text))[0]
        cases.append((prompt, told, text, focus))
    found = js(
        "arg.map(([answer, text]) => [...state.effectiveWeights(state.readAnswer(answer).words, state.parseState(text))])",
        [[told, text] for _, told, text, _ in cases],
    )
    for (prompt, told, text, focus), weights in zip(cases, found, strict=True):
        if focus is None:  # the prompt's default subjects
            expected = {w["word"]: w["focus"] for w in told["words"] if w["focus"] is not None and not w["occurrence"]}
        else:
            expected = {word.word: word.weight for word in focus.words if not word.occurrence}
        assert {key: weight for key, weight in weights if "#" not in key} == pytest.approx(expected), (prompt, text)


def test_the_first_touch_writes_the_subjects_down(js, said):
    words = said("a red cube and a blue sphere")
    text = js("state.withWeight(state.readAnswer(arg).words, state.parseState(''), 'red', 0.5)", words)
    assert json.loads(text)["focus"] == [
        {"word": "red", "occurrence": 0, "weight": 0.5},
        {"word": "cube", "occurrence": 0, "weight": 1},
        {"word": "sphere", "occurrence": 0, "weight": 1},
    ]


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [
        ("a red cube and a blue sphere", [("red", 1), ("red", None)]),
        ("a red cube and a blue sphere", [("cube", None), ("cube", 1)]),
        ("a red cube and a blue sphere", [("sphere", 2.5), ("red", 0.3), ("red", None), ("sphere", 1)]),
        ("a (red:1.2) cube", [("cube", 2), ("cube", 1)]),
        ("a (red:1.2) cube", [("red", None), ("red", 1.2)]),
    ],
)
def test_a_choice_that_automatic_would_make_is_automatic(js, said, prompt, steps):
    text = js(
        """arg.steps.reduce((text, [key, weight]) =>
             state.withWeight(state.readAnswer(arg.answer).words, state.parseState(text), key, weight), "")""",
        {"answer": said(prompt), "steps": steps},
    )
    assert text == ""


def test_a_word_that_the_text_weighs_is_taken_out_by_an_entry(js, said):
    told = said("a (red:1.2) cube")
    text = js("state.withWeight(state.readAnswer(arg).words, state.parseState(''), 'red', null)", told)
    assert {e["word"]: e["weight"] for e in json.loads(text)["focus"]} == {"red": 0, "cube": 1}
    chips = js("state.mergeChips(state.readAnswer(arg).words, state.parseState(''))", told)
    assert [(c["word"], c["weight"], c["written"]) for c in chips if c["focused"]] == [("red", 1.2, True), ("cube", 1, False)]


def test_a_stale_word_can_be_removed_and_an_unknown_one_not_added(js, said):
    stale = '{"v":1,"focus":[{"word":"dog"},{"word":"cube","weight":2}]}'
    arg = {"answer": said("a cube"), "stale": stale}
    text = js("state.withWeight(state.readAnswer(arg.answer).words, state.parseState(arg.stale), 'dog', null)", arg)
    assert text == '{"v":1,"focus":[{"word":"cube","occurrence":0,"weight":2}]}'
    assert js("state.withWeight(state.readAnswer(arg.answer).words, state.parseState(''), 'dog', 1)", arg) == ""


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
