"""The default focus: which nouns of a prompt are its subjects, and what belongs to them."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gd_core.attention import Focus, prompt_words
from gd_core.attention.lexicon import is_name, readings
from gd_core.attention.subjects import noun_phrases
from gd_core.attention.tagging import roles
from gd_core.attention.vocabulary import nearest_word
from gd_core.attention.words import split_prompt
from gd_core.benchmark.prompt_sets import bundled_sets, load_prompts

CASES = json.loads((Path(__file__).parents[1] / "data" / "subjects.json").read_text())
NEUTRAL = set(CASES["neutral"])
PROMPT = "a red cube and a blue sphere"


def named(prompt: str) -> list[str]:
    return [phrase.noun.text for phrase in noun_phrases(prompt)]


def is_exact(case: dict) -> bool:
    return sorted(set(named(case["prompt"])) - NEUTRAL) == sorted(set(case["subjects"]) - NEUTRAL)


def by_kind() -> dict[str, list[dict]]:
    kinds = defaultdict(list)
    for case in CASES["prompts"]:
        kinds[case["kind"]].append(case)
    return kinds


@pytest.mark.parametrize("kind", by_kind())
def test_subjects_of_real_prompts(kind):
    cases = by_kind()[kind]
    wrong = {case["prompt"]: named(case["prompt"]) for case in cases if not is_exact(case)}
    assert len(cases) >= 2 and not wrong


@pytest.mark.parametrize(
    ("prompt", "subjects"),
    [
        (PROMPT, {"cube": ["red"], "sphere": ["blue"]}),
        ("a big red torus left of a small cone", {"torus": ["big", "red"], "cone": ["small"]}),
        ("a red cube and a red cube", {"cube": ["red"], "cube#2": ["red#2"]}),
        ("cube", {"cube": []}),
        ("red cubes, blue spheres", {"cubes": ["red"], "spheres": ["blue"]}),
        ("a big, red cube next to a small, blue sphere", {"cube": ["big", "red"], "sphere": ["small", "blue"]}),
        ("a black and white cow", {"cow": ["black", "white"]}),
        ("a fire truck and an ice cream cone", {"truck": ["fire"], "cone": ["ice", "cream"]}),
        ("a very red cube", {"cube": ["red"]}),
        ("a nice photo of a red cube and a wooden model", {"cube": ["red"], "model": ["wooden"]}),
        ("a well-worn boot beside the king's crown", {"boot": ["well-worn"], "crown": ["king's"]}),
        ("and , of", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_belongs_to_a_subject(prompt, subjects):
    assert {p.noun.key: [m.key for m in p.modifiers] for p in noun_phrases(prompt)} == subjects
    assert {w.key: w.weight for w in Focus.of_subjects(prompt).words} == dict.fromkeys(subjects, 1.0)


@pytest.mark.parametrize("name", bundled_sets())
def test_every_subject_of_our_own_prompt_sets_is_named(name):
    for prompt in load_prompts(name).prompts:
        found = set(named(prompt.text))
        assert not [subject for subject in prompt.subjects if found.isdisjoint(split_prompt(subject))], prompt.text


@given(
    st.lists(
        st.sampled_from([*CASES["prompts"][0]["prompt"].split(), *"a the red of 3 is can ' , . é _ top in riding".split()])
    )
)
def test_any_text_has_an_answer(pieces):
    """Also nonsense, and the answer is words of the prompt."""
    prompt = " ".join(pieces)
    known = {(w.text, w.occurrence) for w in prompt_words(prompt)}
    phrases = noun_phrases(prompt)
    places = [(w.text, w.occurrence) for p in phrases for w in (p.noun, *p.modifiers)]
    assert set(places) <= known and len(set(places)) == len(places)
    assert len(roles(split_prompt(prompt))) == len(split_prompt(prompt))


@given(st.text(max_size=80))
def test_any_characters_have_an_answer(text):
    assert all(phrase.noun.text for phrase in noun_phrases(text))


def test_capitals_and_quotes_change_nothing():
    assert named("A “Fat”, Orange CAT on a soft, blue cushion.") == ["cat", "cushion"]


def test_readings():
    assert readings("geese").plural > 0.9 and readings("geese").kind == "a"
    assert readings("rose").finite > readings("rose").past == 0.0  # "risen" is the participle
    assert readings("left").past > 0 and readings("left").adjective > 0
    assert readings("peeling").ing > 0 and readings("quietly").adverb == 1.0
    assert not readings("spheer").known and readings("spheer").noun == 1.0
    assert is_name("fishing", "rods") and not is_name("fishing", "cat")


VOCABULARY = "a red blue green cyan orange cube cone sphere cylinder ring".split()


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("spheer", "sphere"), ("cilinder", "cylinder"), ("blu", "blue"),  # slips
        ("cubes", "cube"), ("rings", "ring"), ("spheres", "sphere"),  # forms
        ("giraffe", None), ("can", None), ("bone", None), ("read", None), ("dragon", None), ("xyzzy", None),  # other words
    ],
)  # fmt: skip
def test_the_nearest_known_word_is_one_that_was_meant(word, nearest):
    assert nearest_word(word, VOCABULARY) == nearest
