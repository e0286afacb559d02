"""What a verdict compares a prompt with: the same without one of its subjects, or with it exchanged for another."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .closed_words import AUXILIARIES, CONJUNCTIONS, DETERMINERS, PREPOSITIONS
from .subjects import NounPhrase
from .words import Word, clean_text, placed_words

_ARTICLE = re.compile(r"\ban? $")
_RELATIONS = {"next", "top", "front", "side", "left", "right", "back", "middle", "close", "far"}  # "next to", "on top of"
_JOINERS = PREPOSITIONS | CONJUNCTIONS | AUXILIARIES | DETERMINERS | _RELATIONS


def rival_prompt(prompt: str, phrases: Sequence[NounPhrase], index: int, ask: str) -> str:
    """What the `index`-th subject's verdict compares the prompt with, one of `settings.verdict.ASK`.

    "a red cube next to a blue sphere" for the cube: "a red sphere next to a blue sphere" with another's noun, "a blue sphere
    next to a blue sphere" with another's phrase. Where no other subject is called otherwise, the subject is left out.
    """
    own = phrases[index]
    others = [*phrases[index + 1 :], *phrases[:index]]
    if ask == "noun":
        other = next((o for o in others if o.noun.text != own.noun.text), None)
        if other is not None:
            return _exchanged(prompt, own.noun, own.noun, [other.noun.text])
    if ask != "left out":
        first = (*own.modifiers, own.noun)[0]
        other = next((o for o in others if _text(o) != _text(own)), None)
        if other is not None:
            return _exchanged(prompt, first, own.noun, _text(other))
    return without_subject(prompt, own)


def _text(phrase: NounPhrase) -> list[str]:
    return [word.text for word in (*phrase.modifiers, phrase.noun)]


def _exchanged(prompt: str, first: Word, last: Word, other: list[str]) -> str:
    text = clean_text(prompt)
    place = {word.key: (start, end) for word, start, end in placed_words(text)}
    start, end = place[first.key][0], place[last.key][1]
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
