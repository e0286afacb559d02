"""What each word of a prompt does: a small tagger for English noun phrases, made for prompts.

Every word may do what WordNet says that its form can do (`lexicon`), at a cost; every pair of neighbours costs what their roles
cost together: a noun that ends a phrase is seldom followed by "a", an adjective never by a preposition. The cheapest
reading of the whole prompt wins (Viterbi's algorithm). The costs are set by hand, as natural logarithms of how odd a thing is.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from functools import lru_cache

from .closed_words import (
    ARTICLES,
    AUXILIARIES,
    COLOURS,
    CONJUNCTIONS,
    COUNTS,
    DEGREES,
    DETERMINERS,
    HAVE,
    JOINED,
    OPEN_TOO,
    PREPOSITIONS,
    PRONOUNS,
    QUALITIES,
    SEVERAL,
    SINGULAR,
)
from .lexicon import Readings, is_name, readings

# Roles: determiner; adverb; adjective before its noun; noun before its noun; the noun that is meant; verb and participle
# behind a noun; auxiliary; adjective behind a verb or noun; preposition; conjunction; pronoun; punctuation.
DET, ADVERB, ADJECTIVE, PART, NOUN, VERB, AUX, PREDICATE, PREP, AND, PRONOUN, STOP, STYLE = (
    "DET", "R", "J", "M", "H", "V", "A", "Q", "P", "C", "O", "K", "STYLE",
)  # fmt: skip
_NEVER, _ODD = 9.0, 4.0
RARE_NOUN = 0.12  # "saw" and "rose" are mostly verbs in print, and mostly nouns in prompts

# From one role to the next, "^" and "$" being the prompt's ends; what is not listed is odd (4), "!" never happens (9).
_COSTS = """
    ^     DET 0    J 0.3  M 0.3  H 0.5  V 2.5  R 0.7  P 0.7  O 0.5  Q 0.8  A 2    K 0
    DET   DET 0.4  J 0    M 0    H 0    V !    R 0.4  P 1    A 6    K 3    C 3    $ 4
    R     DET 0.8  J 0.1  M 1.5  H 2.5  V 0.4  R 0.5  P 0.3  O 1    Q 0.2  A 1    K 0.3  C 0.5  $ 0.4
    J     DET !    J 0.2  M 0.2  H 0    V !    R 2    P 5    A 7    K 0.6  C 0.8  $ 6
    M     DET !    J 0.9  M 0.3  H 0    V !    R !    P !    A !    K !    C 3.5  $ !
    H     DET 5    J !    M !    H !    V 0.3  R 0.6  P 0    O 1    Q 1.4  A 0    K 0    C 0    $ 0
    V     DET 0    J 0.6  M 0.9  H 0.5  V 1.6  R 0.2  P 0    O 0.2  Q 0.9  A 4    K 0.4  C 0.3  $ 0.9
    A     DET 0.2  J 0.8  M 1.2  H 1.2  V 0    R 0.2  P 0.3  O 1    Q 0.2  A 0.3  K 2
    Q     J 6      M !    H !    V 2.5  R 0.6  P 0    Q 0.8  A 3    K 0.2  C 0.3  $ 0
    P     DET 0    J 0.3  M 0.3  H 0.4  V 1    R 0.8  P 0.4  O 0.2  Q 1.6  A 1    K 1    C 1.5  $ 0.8
    C     DET 0    J 0.4  M 0.4  H 0.5  V 0.6  R 0.6  P 0.6  O 0.5  Q 0.7  A 0.8  K 1    C 1
    K     DET 0    J 0.4  M 0.4  H 0.5  V 0.7  R 0.5  P 0.4  O 0.4  Q 0.6  A 1    K 0    C 0    $ 0
    O     DET 0.8  J 2    M 2    H 2    V 0.2  R 0.4  P 0.1  Q 1    A 0    K 0    C 0    $ 0
    STYLE DET 0    J 0    M 0    H 0
"""
_NEXT = {
    role: {after: _NEVER if cost == "!" else float(cost) for after, cost in zip(costs[::2], costs[1::2], strict=True)}
    for role, *costs in (line.split() for line in _COSTS.strip().splitlines())
}
_JOINED = [(re.compile(pattern + r"(?= |$)"), role) for pattern, role in JOINED]


def roles(pieces: Sequence[str]) -> list[str]:
    """The role of each lower-case word and sign of a prompt (`split_prompt`)."""
    fixed = _joined(pieces)
    # The cheapest way to each state, as (cost, (way before, role)). A state is a role and the number that the determiner of the
    # open phrase asks for: "" where none is open.
    best: dict[tuple[str, str], tuple[float, tuple | None]] = {("^", ""): (0.0, None)}
    for i in range(len(pieces)):
        following: dict[tuple[str, str], tuple[float, tuple | None]] = {}
        for role, cost in _possible(pieces[i], fixed[i]).items():
            for (last, opened), (before, way) in best.items():
                total = before + cost + _step(pieces, i, last, opened, role, fixed[i])
                state = (role, _open_phrase(pieces[i], role, last, opened, fixed[i]))
                if state not in following or total < following[state][0]:
                    following[state] = (total, (way, role))
        best = following
    ends = ((cost + _NEXT[last].get("$", _ODD), way) for (last, _), (cost, way) in best.items())
    _, way = min(ends, key=lambda end: end[0])
    found = []
    while way is not None:
        way, role = way
        found.append(role)
    return found[::-1]


def _open_phrase(piece: str, role: str, last: str, opened: str, joined: str | None) -> str:
    if role == DET:
        if joined is None and piece in SINGULAR:
            return "one"
        return "many" if joined is None and (piece in SEVERAL or (piece.isdigit() and piece != "1")) else "any"
    inside = role in (ADJECTIVE, PART)
    inside |= role == ADVERB and last in (DET, ADVERB)
    inside |= role in (STOP, AND) and last == ADJECTIVE
    return opened if inside else ""


def _joined(pieces: Sequence[str]) -> list[str | None]:
    """The role of words that work together ("in front of"), None for the others."""
    text = " ".join(pieces)
    fixed: list[str | None] = []
    start = 0
    while len(fixed) < len(pieces):
        found = next(((match, role) for pattern, role in _JOINED if (match := pattern.match(text, start))), None)
        count = found[0][0].count(" ") + 1 if found else 1
        # "left of" at the end of a prompt joins nothing.
        role = found[1] if found and (len(fixed) + count < len(pieces) or found[1] == ADVERB) else None
        start += sum(len(piece) + 1 for piece in pieces[len(fixed) : len(fixed) + count])
        fixed += [role] * count
    return fixed


def _step(pieces: Sequence[str], i: int, last: str, opened: str, role: str, joined: str | None) -> float:
    """What it costs that `role` follows `last` at piece `i`, by their kind and by the words themselves."""
    if joined is not None and last == role and i:  # inside of "in front of"
        return 0.0
    cost = _NEXT[last].get(role, _ODD)
    if i == 0 or joined is not None:
        return cost
    if role in (ADJECTIVE, PART, NOUN):
        cost += _in_a_phrase(pieces[i - 1], pieces[i], last, opened, role)
    if role == VERB:
        cost += _doing(pieces, i, last)
    ends = i + 1 == len(pieces) or not pieces[i + 1][0].isalnum()
    before = readings(pieces[i - 1])
    if last == STOP and ends and role == VERB:
        cost += 2.0  # "masterpiece, rose"
    if last == STOP and opened and role not in (ADJECTIVE, PART, NOUN, ADVERB, AND):
        cost += 3.0  # "a smooth, round stone"
    if last == ADVERB and opened and role not in (ADVERB, ADJECTIVE, PART, NOUN, DET):
        cost += 4.0  # "a well beside a mill"
    if last == DET and role == PREP and pieces[i - 1] in ARTICLES:
        cost += 4.0  # unlike "some of them"
    if last == ADJECTIVE and role in (STOP, AND) and before.adjective < 0.03 and "-" not in pieces[i - 1]:
        cost += 2.0  # "a saw and a hammer"
    if last == NOUN and role == STOP and before.adjective and _goes_on(pieces[i + 1 :]):
        cost += 1.5  # "a round, stone tower"
    return cost


def _in_a_phrase(before: str, word: str, last: str, opened: str, role: str) -> float:
    """What speaks against an adjective or noun behind `before`."""
    of_word, of_before = readings(word), readings(before)
    cost = 0.0
    named = last in (PART, ADJECTIVE) and is_name(before, word)
    if named:
        cost -= 1.5
    if last == PART and of_word.ing and of_before.kind == "a":
        cost += 3.0  # a living being before -ing does something
    if last == PART and role == ADJECTIVE and not (of_word.ing or of_word.past or "-" in word):
        cost += 2.0  # "chocolate covered", never "chocolate red"
    if last == PRONOUN and before in COUNTS:
        cost += 3.0  # "one cube" is no pronoun
    if last == VERB and of_before.past and not of_before.ing and not of_before.finite:
        cost += 2.0  # "covered snow"
    if role != NOUN:
        return cost
    if word in COLOURS:
        cost += 1.0
    if opened == "one" and of_word.plural > 3 * of_word.noun:
        cost += 3.0  # "a bee lands"
    if opened == "many" and of_word.noun > 3 * of_word.plural and of_word.kind != "a":
        cost += 2.0  # "two vinyl records rest"; yet "two fish"
    if last == VERB and of_word.noun > of_word.plural and of_word.kind in ("a", "o", "b"):
        cost += 1.0  # a single thing needs an article
    if last == PART and not named:
        if of_word.ing:
            cost += 0.3 + 1.2 * of_word.ing  # "a wristwatch ticking"
        if of_word.finite > 0.25 * of_word.plural:
            cost += 1.0  # "a ball of yarn rests"
    return cost


def _doing(pieces: Sequence[str], i: int, last: str) -> float:
    """What speaks for and against a verb at piece `i`."""
    of_word, of_before = readings(pieces[i]), readings(pieces[i - 1])
    cost = 0.0
    if of_word.ing and (last == AUX or (last == ADVERB and i > 1 and pieces[i - 2] in AUXILIARIES)):
        cost -= 1.5  # "is typing"
    if last in (NOUN, PRONOUN) and of_word.verb and not (of_word.finite or of_word.past or of_word.ing):
        if "and" in pieces[max(i - 5, 0) : i]:
            cost += 0.5  # "a violin and a bow rest"
        elif last == NOUN and of_before.plural <= of_before.noun:
            cost += 2.5  # "a dog stand"
        if i + 1 == len(pieces) or not pieces[i + 1][0].isalnum():
            cost += 1.5
    return cost


def _goes_on(following: Sequence[str]) -> bool:
    """Whether a phrase could go on behind a comma: neither another one begins there nor a list of qualities."""
    ending = (DETERMINERS | CONJUNCTIONS | PREPOSITIONS) - OPEN_TOO
    part = list(itertools.takewhile(lambda piece: piece[0].isalnum() and piece not in ending, following))
    return bool(part) and QUALITIES.isdisjoint(part)


def _possible(piece: str, joined: str | None) -> dict[str, float]:
    """Role -> cost of a piece on its own."""
    if joined is not None:
        return {ADJECTIVE: 0.0, VERB: 0.0, PREDICATE: 0.3} if joined == ADJECTIVE else {joined: 0.0}
    if not piece[0].isalnum() and piece not in CONJUNCTIONS:
        return {STOP: 0.0}
    if piece.isdigit():
        return {DET: 0.0, PART: 1.0, NOUN: 2.0}
    closed = _closed(piece)
    if closed and piece not in OPEN_TOO:
        return closed
    held_back = 0.4 if closed else 0.0
    return {role: cost + held_back for role, cost in _open(piece).items()} | closed


@lru_cache(maxsize=2048)
def _closed(word: str) -> dict[str, float]:
    found = {}
    for words, role in (
        (DETERMINERS, DET), (PREPOSITIONS, PREP), (CONJUNCTIONS, AND), (PRONOUNS, PRONOUN), (DEGREES, ADVERB),
    ):  # fmt: skip
        if word in words:
            found[role] = 0.0
    if word in AUXILIARIES:
        found[VERB if word in HAVE else AUX] = 0.0
        if word in HAVE:
            found[AUX] = 0.3
    if word in COUNTS:
        found[PRONOUN] = 0.7
    if word == "that":
        found[DET] = 0.3
    if word == "her":
        found[PRONOUN] = 0.8
    return found


@lru_cache(maxsize=4096)
def _open(word: str) -> dict[str, float]:
    if word.endswith(("'s", "s'")):
        return {PART: 0.0}
    r: Readings = readings(word)
    shares = {
        NOUN: max(r.noun + r.plural, RARE_NOUN * (r.noun + r.plural > 0)) + 0.02,
        PART: 0.75 * max(r.noun, RARE_NOUN * (r.noun > 0)) + 0.03 * r.plural + 0.004,
        ADJECTIVE: r.adjective + 0.7 * r.past + 0.5 * r.ing + 0.004,
        VERB: r.finite + r.past + r.ing + r.verb,
        ADVERB: r.adverb,
        PREDICATE: 0.8 * r.adjective + 0.25 * r.past,
    }
    return {role: -math.log(min(share, 1.0)) for role, share in shares.items() if share > 0.003}
