"""The prompt without one of its subjects: what a verdict compares the whole prompt with."""

from __future__ import annotations

from .closed_words import AUXILIARIES, CONJUNCTIONS, DETERMINERS, PREPOSITIONS
from .subjects import NounPhrase
from .words import Word, clean_text, placed_words

_RELATIONS = {"next", "top", "front", "side", "left", "right", "back", "middle", "close", "far"}  # "next to", "on top of"
_JOINERS = PREPOSITIONS | CONJUNCTIONS | AUXILIARIES | DETERMINERS | _RELATIONS


def without_subject(prompt: str, phrase: NounPhrase) -> str:
    """`prompt` without the words of `phrase`, its determiners and, at either end of what is left, words that now join nothing.

    "a red cube next to a blue sphere" without the cube is "a blue sphere"; "" where nothing else is named.
    """
    text = clean_text(prompt)
    words = placed_words(text)
    gone = {word.key for word in (*phrase.modifiers, phrase.noun)}
    first, last = (f(i for i, (word, *_) in enumerate(words) if word.key in gone) for f in (min, max))
    while first > 0 and words[first - 1][0].text in DETERMINERS:
        first -= 1
    before, after = words[:first], words[last + 1 :]
    if not before or before[-1][0].text in _JOINERS:
        after = _from_content(after)
    if not after:
        before = list(reversed(_from_content(list(reversed(before)), ends=True)))
    kept = text[: before[-1][2]] if before else ""
    if after:
        whole = len(after) == len(words) - 1 - last  # then the signs before it stay
        kept += text[words[last][2] :] if before and whole else f" {text[after[0][1] :]}"
    return kept.strip(" ,.;")


def _from_content(words: list[tuple[Word, int, int]], ends: bool = False) -> list[tuple[Word, int, int]]:
    """Without the words at the start that join what follows to nothing; at an end determiners are such, too."""
    joiners = _JOINERS if ends else _JOINERS - DETERMINERS
    while words and words[0][0].text in joiners:
        words = words[1:]
    return words
