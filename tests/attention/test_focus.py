"""Focus words: JSON, and finding them in a prompt."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gd_core.attention import Focus, FocusWord, prompt_words

PROMPT = "a red cube and a blue sphere"


entries = st.lists(
    st.tuples(st.sampled_from(["cube", "sphere", "dog"]), st.integers(0, 3), st.floats(0, 3)),
    unique_by=lambda entry: entry[:2],
)


@given(entries)
def test_json_round_trip(chosen):
    focus = Focus(tuple(FocusWord(*entry) for entry in chosen))
    assert Focus.from_json(focus.to_json()) == focus


def test_json_is_the_documented_form():
    text = '{"v":1,"focus":[{"word":"Cube","occurrence":0,"weight":1.2}]}'
    focus = Focus.from_json(text)
    assert focus == Focus((FocusWord("cube", 0, 1.2),))
    assert json.loads(focus.to_json()) == json.loads(text.lower())
    assert Focus.from_json('{"v":1,"focus":[{"word":"cube"}]}') == Focus((FocusWord("cube"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must look like"),
        ('{"v":1}', "must look like"),
        ('{"v":2,"focus":[]}', "version 2"),
        ('{"v":1,"focus":[{"weight":1}]}', "needs a word"),
        ('{"v":1,"focus":[{"word":"cube","weight":"big"}]}', "number as weight"),
        ('{"v":1,"focus":[{"word":"cube","weight":3.5}]}', "weights go from 0 to 3"),
        ('{"v":1,"focus":[{"word":"cube","weight":NaN}]}', "weights go from 0 to 3"),
        ('{"v":1,"focus":[{"word":"cube","occurrence":-1}]}', "the first one is 0"),
        ('{"v":1,"focus":[{"word":"cube"},{"word":"cube","weight":2}]}', "given twice"),
    ],
)
def test_bad_json_is_explained(text, message):
    with pytest.raises(ValueError, match=message):
        Focus.from_json(text)


def located(prompt, focus):
    words = [type(w)(w.text, w.occurrence, (i + 1,)) for i, w in enumerate(prompt_words(prompt))]
    return focus.locate(prompt, words, len(words) + 1)


def test_locating_fills_in_tokens_and_bound_adjectives():
    focus = located(PROMPT, Focus((FocusWord("sphere", weight=2.0),)))
    assert focus.words[0].tokens == (7,) and focus.words[0].weight == 2.0
    assert [(m.key, m.tokens) for m in focus.words[0].modifiers] == [("blue", (6,))]
    assert focus.end_token == 8


def test_absent_words_name_the_prompts_words():
    with pytest.raises(ValueError, match=f"'dog' is not in the prompt '{PROMPT}': its words are a, red, cube, and"):
        located(PROMPT, Focus((FocusWord("dog"),)))
    with pytest.raises(ValueError, match="'cube' is in the prompt .* only once: there is no occurrence 1"):
        located(PROMPT, Focus((FocusWord("cube", 1),)))
