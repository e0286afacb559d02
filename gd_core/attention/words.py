"""Words of a prompt: how a text is cut, and which text-encoder tokens each word became."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

# A word is letters and digits, joined over inner hyphens and apostrophes; every other run of signs stands alone. CLIP's
# tokenizer cuts at the same places or finer, so tokens of one piece never cross into the next.
_PIECES = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|(?:[^\w\s]|_)+")


@dataclass(frozen=True)
class Word:
    """One word of a prompt.

    Attributes:
        text: lower case.
        occurrence: 0 for the first time that the word appears in the prompt, 1 for the second, and so on.
        tokens: indices of its word pieces among the encoder's tokens (the start token is 0); empty when not yet tokenised.
    """

    text: str
    occurrence: int = 0
    tokens: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """`"cube"` for the first occurrence, `"cube#2"` for the second: the key of `ViewSet.attention`."""
        return self.text if self.occurrence == 0 else f"{self.text}#{self.occurrence + 1}"


def split_prompt(text: str) -> list[str]:
    """Lower-case words and signs of a prompt, in order: `"A red cube, big"` -> `["a", "red", "cube", ",", "big"]`."""
    return [piece for piece, _ in split_with_starts(text)]


def split_with_starts(text: str) -> list[tuple[str, int]]:
    """`split_prompt` with the character that each piece starts at."""
    return [(match[0].lower(), match.start()) for match in _PIECES.finditer(text)]


def is_word(piece: str) -> bool:
    """Whether a piece of `split_prompt` is a word rather than punctuation."""
    return piece[0].isalnum()


def prompt_words(text: str) -> list[Word]:
    """The words of a prompt with their occurrences, without tokens; needs no model."""
    seen: Counter[str] = Counter()
    words = []
    for piece in filter(is_word, split_prompt(text)):
        words.append(Word(piece, seen[piece]))
        seen[piece] += 1
    return words
