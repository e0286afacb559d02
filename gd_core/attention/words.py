"""Words of a prompt: how a text is cleaned and cut, and which text-encoder tokens each word became.

The cleaning is open_clip's, which MVDream's text encoder was trained with (`open_clip.tokenizer`, `_clean_lower`): `ftfy`,
HTML entities twice, white space, lower case. Words are lower case; the text itself keeps its letters for display.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass

# A word is letters and digits, joined over inner hyphens and apostrophes; every other run of signs stands alone.
_PIECES = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|(?:[^\w\s]|_)+")
# What no step of the cleaning changes but for white space: printable ASCII without the start of an HTML entity.
_CLEAN = re.compile(r"[ -%'-~\t\n\r\f]*")


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


def clean_text(text: str) -> str:
    """`text` as open_clip cleans it, its capitals kept: typographic quotes straight, ligatures, full-width letters and broken
    encodings mended, HTML entities read, control characters dropped, one space where there was any white space."""
    if not _CLEAN.fullmatch(text):
        from ftfy import fix_text  # noqa: PLC0415  # a third of a second, which most prompts need not wait for

        text = html.unescape(html.unescape(fix_text(text)))
    return " ".join(text.split())


def split_prompt(text: str) -> list[str]:
    """Lower-case words and signs of a prompt, cleaned, in order: `"A red cube, big"` -> `["a", "red", "cube", ",", "big"]`."""
    return [piece for piece, _ in split_with_starts(clean_text(text))]


def split_with_starts(text: str) -> list[tuple[str, int]]:
    """Lower-case words and signs of a text that is clean already, each with the character that it starts at."""
    return [(match[0].lower(), match.start()) for match in _PIECES.finditer(text)]


def is_word(piece: str) -> bool:
    """Whether a piece of `split_prompt` is a word rather than punctuation."""
    return piece[0].isalnum()


def prompt_words(text: str) -> list[Word]:
    """The words of a prompt with their occurrences, without tokens; needs no model."""
    return [word for word, _, _ in placed_words(clean_text(text))]


def placed_words(text: str) -> list[tuple[Word, int, int]]:
    """The words of a text that is clean already, each with the characters that it starts and ends at."""
    seen: Counter[str] = Counter()
    words = []
    for match in _PIECES.finditer(text):
        piece = match[0].lower()
        if is_word(piece):
            words.append((Word(piece, seen[piece]), match.start(), match.end()))
            seen[piece] += 1
    return words
