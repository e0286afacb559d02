"""Prompts are cleaned and cut as open_clip does, which MVDream's text encoder was trained with: in words as in tokens."""

import itertools
import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gd_core.attention.words import clean_text
from gd_core.diffusion.prompts import _tokenize
from gd_core.diffusion.tokenizer import clip_tokenizer

# What people paste: typography, markup, other scripts, broken encodings, invisible characters.
ODD = json.loads((Path(__file__).parents[1] / "data" / "odd_prompts.json").read_text())
PATTERNS = ["{}", "a {} cube", "a red cube{}", "{}a red cube", "  {} , {}  "]
PROMPTS = [pattern.format(odd, odd) for pattern, odd in itertools.product(PATTERNS, ODD)]


@pytest.fixture(scope="module")
def reference():
    """open_clip_torch's own tokenizer, without its package, which imports every model there is."""
    spec = find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip_torch, the reference of this test, is not installed")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "open_clip"}
    package = types.ModuleType("open_clip")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["open_clip"] = package
    from open_clip.tokenizer import SimpleTokenizer  # noqa: PLC0415

    yield SimpleTokenizer()
    for name in [name for name in sys.modules if name.split(".")[0] == "open_clip"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(scope="module")
def ours():
    model = SimpleNamespace(tokenizer=clip_tokenizer())

    def tokenize(text):
        text = clean_text(text)
        return _tokenize(model, text, len(text))

    return tokenize


def spelled(reference, tokens):
    spelling = "".join(reference.decoder[token] for token in tokens).replace("</w>", "")
    return bytearray(reference.byte_decoder[c] for c in spelling).decode("utf-8", "replace")


def compare(reference, ours, prompt):
    words, ids, _ = ours(prompt)
    assert clean_text(prompt).lower() == reference.clean_fn(prompt), prompt
    assert ids == reference.encode(prompt), prompt
    for word in words:
        of_word = spelled(reference, [ids[token - 1] for token in word.tokens])
        assert of_word in (word.text, f"'{word.text}"), prompt  # CLIP reads the "'t" of "'tis" as one piece
    said = [token for word in words for token in word.tokens]
    assert len(set(said)) == len(said)
    unsaid = set(range(1, 1 + len(ids))) - set(said)
    assert not any(c.isalnum() for token in unsaid for c in spelled(reference, [ids[token - 1]]) if c != "\ufffd"), prompt


def test_odd_prompts(reference, ours):
    assert len(PROMPTS) >= 500
    for prompt in PROMPTS:
        compare(reference, ours, prompt)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([*ODD, "a", "red", "cube", " ", ", "]), min_size=1, max_size=6).map("".join))
def test_mixtures_of_odd_pieces(reference, ours, prompt):
    compare(reference, ours, prompt)


@pytest.mark.parametrize(
    ("typed", "clean"),
    [
        ("a child’s  “red”\ncube", 'a child\'s "red" cube'),
        ("\ufb01sh &amp; chips", "fish & chips"),
        ("\uff32\uff45\uff44 cafÃ©", "Red café"),
        ("a red cube", "a red cube"),
        (" \ufeff ", ""),
    ],
)
def test_cleaned_text_keeps_its_capitals(typed, clean):
    assert clean_text(typed) == clean
