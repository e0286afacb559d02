"""Prompt encoding: text embeddings together with the words that the tokens came from.

MVDream (`t2i.py`): the suffix ", 3d asset" goes behind the prompt, the text encoder's last hidden state after the final layer
norm is the context of every view, and a negative prompt carries no suffix.
"""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.words import Word, is_word, split_prompt, split_with_starts
from .model import MVDream


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
        suffix: False for negative prompts.

    Raises:
        ValueError: when the prompt is longer than the text encoder reads (nothing is cut off silently), or, for a model
            with a closed vocabulary, holds a word that the model does not know.
    """
    text = text.strip()
    if model.config.vocabulary is not None:
        _refuse_unknown_words(model, text)
    whole = text + model.config.prompt_suffix if text and suffix else text
    words, ids, suffix_start = _tokenize(model, whole, len(text))

    tokenizer = model.tokenizer
    length = model.text_encoder.config.max_position_embeddings
    count, room, in_suffix = len(ids), length - 2, len(ids) + 1 - suffix_start
    if count > room:
        raise ValueError(
            f"the prompt has {count} tokens{f', {in_suffix} of them the suffix' if in_suffix else ''}, but {model.config.name} "
            f"reads {room}: shorten it by {count - room} tokens (a common word is one token)"
        )
    end_token = 1 + count
    padding = [tokenizer.pad_token_id] * (length - count - 2)
    ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]
    embeddings = model.text_encoder(torch.tensor([ids], device=model.text_encoder.device))[0]
    embeddings = embeddings.to(model.device, model.dtype)
    if model.config.text_padding == "start":
        embeddings[:, end_token + 1 :] = embeddings[:, :1]
    return PromptEmbedding(text, embeddings, tuple(words), tuple(range(suffix_start, end_token)), end_token)


def _tokenize(model: MVDream, text: str, prompt_length: int) -> tuple[list[Word], list[int], int]:
    """Words of the first `prompt_length` characters with their token indices (counted from the start token, which is 0), the
    ids of all tokens of `text`, and the index of the first token behind the prompt.

    CLIP's byte-pair encoding never crosses the pieces of `split_with_starts`, so each is encoded alone: that tells which tokens
    are whose, with slow and fast tokenizers alike.
    """
    words: list[Word] = []
    ids: list[int] = []
    seen: Counter[str] = Counter()
    num_prompt_tokens = 0
    for piece, start in split_with_starts(text):
        piece_ids = model.tokenizer(piece, add_special_tokens=False)["input_ids"]
        if is_word(piece) and start < prompt_length:
            tokens = tuple(range(1 + len(ids), 1 + len(ids) + len(piece_ids)))
            words.append(Word(piece, seen[piece], tokens))
            seen[piece] += 1
        ids += piece_ids
        if start < prompt_length:
            num_prompt_tokens = len(ids)
    return words, ids, 1 + num_prompt_tokens


def _refuse_unknown_words(model: MVDream, text: str) -> None:
    known = model.config.vocabulary
    for piece in split_prompt(text):
        if piece in known:
            continue
        if is_word(piece):
            nearest = difflib.get_close_matches(piece, known, n=1, cutoff=0.0)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            raise ValueError(
                f"{model.config.name} does not know the word '{piece}'.{hint} It is a small model that knows only these words: "
                f"{', '.join(known)}. Use them, or load a full-size MVDream for free text."
            )
        if model.tokenizer.unk_token_id in model.tokenizer(piece, add_special_tokens=False)["input_ids"]:
            raise ValueError(f"{model.config.name} does not know the sign '{piece}': leave it out of the prompt")
