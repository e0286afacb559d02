"""Prompt encoding: cleaned text, its embeddings, and the words that the tokens came from.

MVDream (`t2i.py`): the suffix ", 3d asset" goes behind the prompt, the text encoder's last hidden state after the final layer
norm is the context of every view, and a negative prompt carries no suffix.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.vocabulary import refuse_unknown_words
from ..attention.words import Word, clean_text, placed_words
from .model import MVDream

# Where CLIP's tokenizer cuts before it looks for byte pairs: contractions, runs of letters, single digits, runs of signs.
_CLIP_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W_]+|(?:[^\w\s]|_)+", re.IGNORECASE)


@dataclass(frozen=True)
class PromptEmbedding:
    """One encoded prompt.

    Attributes:
        text: the prompt as given, without the suffix.
        embeddings: `[1, 77, C]` on the model's device, in its dtype.
        words: the prompt's words in order, each with its token indices; the suffix's words are not among them.
        suffix_tokens: token indices of the model's prompt suffix.
        end_token: index of the end token; what follows it is padding.
    """

    text: str
    embeddings: Float[Tensor, "1 tokens C"]
    words: tuple[Word, ...]
    suffix_tokens: tuple[int, ...]
    end_token: int


@torch.no_grad()
def encode_prompt(model: MVDream, text: str, *, suffix: bool = True) -> PromptEmbedding:
    """Encode one prompt; an empty one is the unconditional context.

    Args:
        text: the prompt. The model's suffix follows it unless it is empty.
        suffix: False for negative prompts; errors then speak of the negative prompt.

    Raises:
        ValueError: when the prompt is longer than the text encoder reads (nothing is cut off silently), or, for a model
            with a closed vocabulary, holds a word that the model does not know.
    """
    given, text = text.strip(), clean_text(text)
    what = "prompt" if suffix else "negative prompt"
    if model.config.vocabulary is not None:
        refuse_unknown_words(model.config.vocabulary, text, model.config.name, what)
    whole = text + model.config.prompt_suffix if text and suffix else text
    words, ids, suffix_start = _tokenize(model, whole, len(text))

    tokenizer = model.tokenizer
    length = model.text_encoder.config.max_position_embeddings
    count, room, in_suffix = len(ids), length - 2, len(ids) + 1 - suffix_start
    if count > room:
        raise ValueError(
            f"the {what} has {count} tokens{f', {in_suffix} of them the suffix' if in_suffix else ''}, but {model.config.name} "
            f"reads {room}: shorten it by {count - room} tokens (a common word is one token)"
        )
    end_token = 1 + count
    padding = [tokenizer.pad_token_id] * (length - count - 2)
    ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]
    embeddings = model.text_encoder(torch.tensor([ids], device=model.text_encoder.device))[0]
    embeddings = embeddings.to(model.device, model.dtype)
    if model.config.text_padding == "start":
        embeddings[:, end_token + 1 :] = embeddings[:, :1]
    return PromptEmbedding(given, embeddings, tuple(words), tuple(range(suffix_start, end_token)), end_token)


def _tokenize(model: MVDream, text: str, prompt_length: int) -> tuple[list[Word], list[int], int]:
    """Words of the first `prompt_length` characters with their token indices (counted from the start token, which is 0), the
    ids of all tokens of `text`, which is clean, and the index of the first token behind the prompt.

    CLIP's byte-pair encoding never crosses the pieces that its tokenizer cuts first, so each is encoded alone: that tells which
    tokens are whose, with slow and fast tokenizers alike.
    """
    ids: list[int] = []
    at: dict[int, list[int]] = {}  # character of `text` -> tokens of the piece that it is in
    num_prompt_tokens = 0
    for piece, start in clip_pieces(text):
        piece_ids = model.tokenizer(piece.lower(), add_special_tokens=False)["input_ids"]
        tokens = list(range(1 + len(ids), 1 + len(ids) + len(piece_ids)))
        at |= dict.fromkeys(range(start, start + len(piece)), tokens)
        ids += piece_ids
        if start < prompt_length:
            num_prompt_tokens = len(ids)
    words = [
        replace(word, tokens=tuple(dict.fromkeys(token for i in range(start, end) for token in at.get(i, ()))))
        for word, start, end in placed_words(text)
        if start < prompt_length
    ]
    return words, ids, 1 + num_prompt_tokens


def clip_pieces(text: str) -> Iterator[tuple[str, int]]:
    """Where CLIP's tokenizer cuts a text that is clean: each piece with the character that it starts at."""
    for match in _CLIP_PIECES.finditer(text):
        start = match.start()
        if not match[0][0].isalnum():
            yield match[0], start
            continue
        for i, character in enumerate(match[0]):
            if unicodedata.category(character).startswith("N"):
                if start < match.start() + i:
                    yield text[start : match.start() + i], start
                yield character, match.start() + i
                start = match.start() + i + 1
        if start < match.end():
            yield text[start : match.end()], start
