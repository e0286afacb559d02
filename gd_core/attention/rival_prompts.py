"""What a verdict compares a prompt with: the same without one of its subjects, or with another one's description on it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .closed_words import AUXILIARIES, CONJUNCTIONS, DETERMINERS, PREPOSITIONS
from .subjects import NounPhrase
from .words import Word, clean_text, placed_words

_ARTICLE = re.compile(r"\ban? $")
_RELATIONS = {"next", "top", "front", "side", "left", "right", "back", "middle", "close", "far"}  # "next to", "on top of"
_JOINERS = PREPOSITIONS | CONJUNCTIONS | AUXILIARIES | DETERMINERS | _RELATIONS


def with_others_description(prompt: str, phrases: Sequence[NounPhrase], index: int) -> str | None:
    """`prompt` with the adjectives of another subject, the next one that has different ones, in place of the `index`-th
    subject's own: "a blue cube next to a blue sphere". None where there are none to exchange."""
    own = phrases[index]
    others = [*phrases[index + 1 :], *phrases[:index]]
    texts = [[word.text for word in other.modifiers] for other in others]
    other = next((text for text in texts if text and text != [word.text for word in own.modifiers]), None)
    if other is None or not own.modifiers:
        return None
    text = clean_text(prompt)
    place = {word.key: (start, end) for word, start, end in placed_words(text)}
    start, end = place[own.modifiers[0].key][0], place[own.modifiers[-1].key][1]
    before = _ARTICLE.sub("an " if other[0][0] in "aeiou" else "a ", text[:start])
    return before + " ".join(other) + text[end:]


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
