"""Prompt encoding: tokens, words, suffix, padding, and prompts that are refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gd_core.diffusion.prompts import encode_prompt
from tests.random_models import MERGED_WORDS, random_mvdream

VOCABULARY = ["a", "red", "blue", "cube", "sphere", "and", "asset", ","]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    return random_mvdream(tmp_path_factory.mktemp("tokenizer"), vocabulary=VOCABULARY, text_padding="start")


def test_words_keep_their_tokens_and_the_suffix_stands_apart(model):
    prompt = encode_prompt(model, "A red cube and a teapot")
    assert [word.text for word in prompt.words] == ["a", "red", "cube", "and", "a", "teapot"]
    assert [word.occurrence for word in prompt.words] == [0, 0, 0, 0, 1, 0]
    assert [word.tokens for word in prompt.words[:5]] == [(1,), (2,), (3,), (4,), (5,)]
    assert prompt.words[5].tokens == tuple(range(6, 12))  # t-e-a-p-o-t: this tokenizer has no merge for it
    assert prompt.suffix_tokens == (12, 13, 14, 15)  # , 3 d asset
    assert prompt.end_token == 16
    assert prompt.embeddings.shape == (1, 77, 32)


def test_tokens_are_those_of_the_whole_text(model):
    """Piece by piece or at once, the text encoder must read the same ids: the embedding is the reference's."""
    for text in ("A red cube", "the big, blue t-shirt; asset's cube!", "two 3d cubes (10)"):
        ids = model.tokenizer(text + ", 3d asset", padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = model.text_encoder(ids)[0]
        assert torch.equal(encode_prompt(model, text).embeddings, expected)


@given(st.lists(st.sampled_from([*MERGED_WORDS, "tea", "t-shirt", ",", "!"]), min_size=1, max_size=8))
def test_every_token_belongs_to_one_place(model, pieces):
    prompt = encode_prompt(model, " ".join(pieces))
    indices = [i for word in prompt.words for i in word.tokens] + list(prompt.suffix_tokens)
    assert len(set(indices)) == len(indices)
    assert all(1 <= i < prompt.end_token for i in indices)
    assert len({(word.text, word.occurrence) for word in prompt.words}) == len(prompt.words)


def test_empty_prompt_has_no_suffix(model):
    prompt = encode_prompt(model, "  ")
    assert prompt.end_token == 1 and prompt.words == () and prompt.suffix_tokens == ()


def test_negative_prompt_has_no_suffix(model):
    assert encode_prompt(model, "red", suffix=False).end_token == 2


def test_start_padding_says_nothing(closed):
    prompt = encode_prompt(closed, "red cube")
    embeddings = prompt.embeddings[0]
    assert torch.equal(embeddings[prompt.end_token + 1 :], embeddings[:1].expand(77 - prompt.end_token - 1, -1))
    assert not torch.equal(embeddings[prompt.end_token], embeddings[0])


def test_long_prompts_are_refused_with_the_count(model):
    fits = "red " * 71
    assert encode_prompt(model, fits).end_token == 76
    with pytest.raises(ValueError, match=r"80 tokens, 4 of them the suffix.* reads 75.* by 5 tokens"):
        encode_prompt(model, fits + "red " * 5)


def test_closed_vocabulary_names_its_words_and_the_nearest(closed):
    encode_prompt(closed, "A Red cube and a blue sphere,")
    with pytest.raises(ValueError, match=r"'spheer'.*'sphere'.*a, red, blue, cube"):
        encode_prompt(closed, "a red spheer")
    with pytest.raises(ValueError, match="'giraffe' of the negative prompt. It is"):
        encode_prompt(closed, "giraffe", suffix=False)
    with pytest.raises(ValueError, match="sign '\u2603'"):
        encode_prompt(closed, "a red cube \u2603")
