"""The subjects of a prompt by a small rule, without a language model.

The rule: determiners, prepositions, conjunctions, verbs and punctuation cut the prompt into phrases. The last word of a phrase
is its noun, the words before it are the adjectives bound to it: "a big red cube on a table" -> cube (big, red), table. Three
exceptions:

* A word in -ing is a verb when a noun may already stand before it ("a corgi riding a bike"), unless it is a common noun
  ("a tall building").
* If some phrase begins with a determiner or a number, then phrases that stand behind a comma without one are style, not
  subjects ("a dog and a cat, highly detailed").
* A noun that names the picture rather than what is in it is no subject before "of" ("a photo of a cube").

It is a default to start from: the focus widget shows what it found, and any word can be added or taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

from .words import Word, is_word, prompt_words, split_prompt

DETERMINERS = frozenset(
    """a an the this that these those some any each every another his her its their my your our one two three four five six
    seven eight nine ten several many few both no""".split()
)
# Conjunctions and prepositions; auxiliaries and verbs that often join subjects.
_SEPARATORS = frozenset(
    """and or but nor with without on in at of to from by for into onto over under above below beneath beside besides
    between behind near inside outside around against along across through next as while like atop upon off up down left
    right than is are was were be been being has have had do does did can will it they he she who which there sits sit
    stands stand holds hold rides ride wears wear carries carry eats eat plays play looks look lies lie rests rest leans
    lean hangs hang runs run flies fly touches touch covers cover contains contain made""".split()
)
_DEGREES = frozenset("very really highly extremely slightly quite too also not just".split())
# "on top of", "in front of": parts of a preposition, though "a top hat" has a top.
_BEFORE_OF = frozenset("top front back side middle center centre inside outside left right".split())
_PICTURES = frozenset(
    "photo photograph picture image render rendering painting drawing sketch illustration model close-up closeup view".split()
)
_NOUNS_IN_ING = frozenset(
    """building ring king string wing painting ceiling spring thing swing sling earring pudding dumpling wedding clothing
    lightning duckling sibling viking railing drawing carving stocking herring plaything being""".split()
)


@dataclass(frozen=True)
class NounPhrase:
    """A subject and the adjectives bound to it, both as words of the prompt."""

    noun: Word
    modifiers: tuple[Word, ...]


def is_content_word(text: str) -> bool:
    """Whether a word names or describes something, rather than joining words that do."""
    return text not in DETERMINERS | _SEPARATORS | _DEGREES


def noun_phrases(prompt: str) -> list[NounPhrase]:
    """The subjects of `prompt` in order, by the rule above. Words carry no tokens."""
    words = iter(prompt_words(prompt))
    pieces = [(piece, next(words) if is_word(piece) else None) for piece in split_prompt(prompt)]
    phrases: list[tuple[list[Word], bool, bool]] = []  # words, has a determiner, stands behind a comma
    current: list[Word] = []
    determined = behind_comma = False

    def close() -> None:
        nonlocal current, determined, behind_comma
        if current:
            phrases.append((current, determined, behind_comma))
        current, determined, behind_comma = [], False, False

    for i, (piece, word) in enumerate(pieces):
        following = pieces[i + 1][0] if i + 1 < len(pieces) else ""
        if word is None:
            close()
            behind_comma = "," in piece or ";" in piece
        elif piece in _DEGREES:
            continue
        elif piece in DETERMINERS or piece.isdigit():
            close()
            determined = True
        elif piece in _PICTURES and following == "of":
            current, determined, behind_comma = [], False, False
        elif piece in _SEPARATORS or (piece in _BEFORE_OF and following == "of") or _is_verb(piece, current):
            close()
        else:
            current.append(word)
    close()

    any_determined = any(determined for _, determined, _ in phrases)
    return [
        NounPhrase(words[-1], tuple(words[:-1]))
        for words, determined, behind_comma in phrases
        if determined or not (any_determined and behind_comma)
    ]


def _is_verb(piece: str, before: list[Word]) -> bool:
    return len(piece) > 4 and piece.endswith("ing") and piece not in _NOUNS_IN_ING and bool(before)
