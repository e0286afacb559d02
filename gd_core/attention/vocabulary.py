"""Models with a closed vocabulary: which words of a prompt they do not know, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from .lexicon import is_english, lemmas
from .words import is_word, split_prompt

ALIKE = 0.76  # of difflib: one letter of five wrong ("spheer"), not two words that share letters ("giraffe", "orange")


def unknown_words(vocabulary: Sequence[str], text: str) -> list[tuple[str, str | None]]:
    """The words of `text` that `vocabulary` lacks, each once, with the word that was probably meant or None."""
    pieces = dict.fromkeys(piece for piece in split_prompt(text) if is_word(piece) and piece not in vocabulary)
    return [(piece, nearest_word(piece, vocabulary)) for piece in pieces]


def nearest_word(word: str, vocabulary: Sequence[str]) -> str | None:
    """The word of `vocabulary` that `word` is a form or a slip of, or None when it is simply another English word."""
    known = [piece for piece in vocabulary if is_word(piece)]
    for lemma in lemmas(word):
        if lemma in known:
            return lemma
    if is_english(word):  # "giraffe" is no misspelt "green", nor "can" a misspelt "cyan"
        return None
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=ALIKE)
    return nearest[0] if nearest else None


def refuse_unknown_words(vocabulary: Sequence[str], text: str, model: str, what: str = "prompt") -> None:
    """Raises ValueError for the first word or sign of `text`, the `what`, that the model of this name does not know."""
    for word, nearest in unknown_words(vocabulary, text):
        hint = f" Did you mean '{nearest}'?" if nearest else ""
        known = ", ".join(piece for piece in vocabulary if is_word(piece))
        raise ValueError(
            f"{model} does not know the word '{word}' of the {what}.{hint} It is a small model that knows only these words: "
            f"{known}. Use them, or load a full-size MVDream for free text."
        )
    for piece in split_prompt(text):
        if not is_word(piece) and not set(piece) <= set(vocabulary):
            raise ValueError(f"{model} does not know the sign '{piece}': leave it out of the {what}")
