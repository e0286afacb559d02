"""What an English word can be, from WordNet (`data/english.txt.gz`, made by `tools/lexicon.py`; licence in `data/LICENSE`).

Nothing is downloaded, and the file is read when the first word is looked up: some tens of milliseconds.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

_FILE = Path(__file__).parent / "data" / "english.txt.gz"
_VOWELS = "aeiou"
# What a word in none of the lists most probably is, by its end.
_ADJECTIVES = ("like", "shaped", "less", "ful", "ous", "ish", "able", "ible", "ical", "esque", "style", "themed", "free")


# How a lemma's uses spread over its forms, roughly; "cut" is its own past.
_SINGULAR, _PLURAL, _BASE, _THIRD, _PAST, _ING = 0.75, 0.25, 0.35, 0.15, 0.35, 0.15
_UNCHANGED = frozenset("cut put set hit hurt shut split spread let cast burst quit shed slit thrust knit".split())


@dataclass(frozen=True)
class Readings:
    """How probably a word form, out of any context, is what; these sum to 1.

    Attributes:
        noun, plural: a singular or mass noun; a plural one.
        verb, finite, past, ing: a base form; "hugs", "rose"; "hugged" and other participles; "hugging".
        adjective, adverb: comparatives too.
        kind: what its noun names: "a" a living being, "b" a part of a body, "m" a stuff, "o" another thing that can be seen,
            "p" a place, a group or what else may be seen, "x" nothing that can be seen; "" for no noun.
        known: whether WordNet has it.
    """

    noun: float = 0.0
    plural: float = 0.0
    verb: float = 0.0
    finite: float = 0.0
    past: float = 0.0
    ing: float = 0.0
    adjective: float = 0.0
    adverb: float = 0.0
    kind: str = ""
    known: bool = True


def is_english(word: str) -> bool:
    """Whether WordNet has the word in any form."""
    return readings(word).known


def lemmas(word: str) -> list[str]:
    """What a word form can be a form of, whether or not WordNet has it: "cubes" -> cube, "redder" -> red."""
    irregular = [lemma for _, lemma in _tables()[1].get(word, ())]
    return [*irregular, *_singulars(word), *(stem for suffix in ("ed", "ing", "er", "est") for stem in _stems(word, suffix))]


def is_name(first: str, second: str) -> bool:
    """Whether two words, one of which looks like a verb, are one name: "watering can", "fly fishing"."""
    names = _tables()[2]
    return any(f"{first} {lemma}" in names for lemma in (second, *_singulars(second)))


@lru_cache(maxsize=4096)
def readings(word: str) -> Readings:
    """The readings of a lower-case word form."""
    known, irregular, _ = _tables()
    found = dict.fromkeys(("noun", "plural", "verb", "finite", "past", "ing", "adjective", "adverb"), 0.0)
    kinds: list[tuple[float, str]] = []

    def add(form: str, lemma: str, pos: str, share: float) -> None:
        if line := known.get(lemma):  # four shares, the size, the kind
            times = int(line["nvar".index(pos)]) * 2 ** int(line[4], 36) * share
            found[form] = max(found[form], times)
            if pos == "n" and times:
                kinds.append((times, line[5]))

    add("noun", word, "n", _SINGULAR)
    add("verb", word, "v", _BASE)
    add("adjective", word, "a", 1.0)
    add("adverb", word, "r", 1.0)
    if word in _UNCHANGED:
        add("past", word, "v", _PAST)
    for pos, lemma in irregular.get(word, ()):
        form = {"n": "plural", "a": "adjective", "f": "finite"}.get(pos) or ("ing" if word.endswith("ing") else "past")
        share = {"plural": _PLURAL, "ing": _ING, "past": _PAST, "finite": _PAST}.get(form, 0.3)
        add(form, lemma, "v" if pos == "f" else pos, share)
    for lemma in _singulars(word):
        add("plural", lemma, "n", _PLURAL)
        add("finite", lemma, "v", _THIRD)
    for suffix, form, pos, share in (("ed", "past", "v", _PAST), ("ing", "ing", "v", _ING), ("er", "adjective", "a", 0.02),
                                     ("est", "adjective", "a", 0.02)):  # fmt: skip
        for lemma in _stems(word, suffix):
            add(form, lemma, pos, share)
    whole = sum(found.values())
    if not whole:
        return _guess(word)
    return Readings(**{form: times / whole for form, times in found.items()}, kind=max(kinds)[1] if kinds else "")


def _guess(word: str) -> Readings:
    """Of a word that WordNet lacks."""
    head, _, last = word.rpartition("-")
    if head:
        of_last = readings(last) if last else Readings()
        if of_last.past or of_last.ing or of_last.adjective > of_last.noun or last.endswith(_ADJECTIVES):
            return Readings(adjective=1.0, kind="x", known=of_last.known)
        return Readings(
            noun=0.6, plural=0.6 * bool(of_last.plural), adjective=0.5, kind=of_last.kind or "o", known=of_last.known
        )
    if word.endswith(_ADJECTIVES) and len(word) > 6:
        return Readings(noun=0.2, adjective=0.8, kind="o", known=False)
    if word.endswith("ly") and len(word) > 4:
        return Readings(adverb=0.9, adjective=0.2, known=any(stem in _tables()[0] for stem in (word[:-2], f"{word[:-3]}y")))
    if word.endswith("ing") and len(word) > 5:
        return Readings(noun=0.3, ing=0.7, kind="x", known=False)
    if word.endswith("ed") and len(word) > 4:
        return Readings(past=0.6, adjective=0.5, known=False)
    if word.endswith("s") and word[-2:] not in ("ss", "us", "is") and len(word) > 3:
        return Readings(noun=0.3, plural=0.7, kind="o", known=False)
    return Readings(noun=1.0, kind="o", known=False)


def _singulars(word: str) -> tuple[str, ...]:
    """What a word in -s could be the plural, or the third person, of."""
    if not word.endswith("s") or word.endswith("ss") or len(word) < 3:
        return ()
    found = [word[:-1]]
    if word.endswith("ies"):
        found.append(f"{word[:-3]}y")
    elif word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found.append(word[:-2])
    elif word.endswith("ves"):
        found += [f"{word[:-3]}f", f"{word[:-3]}fe"]
    return tuple(found)


def _stems(word: str, suffix: str) -> tuple[str, ...]:
    """What a word could be a form with this suffix of."""
    if not word.endswith(suffix) or len(word) < len(suffix) + 2:
        return ()
    stem = word[: -len(suffix)]
    found = [stem, f"{stem}e"]
    if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in _VOWELS:
        found.append(stem[:-1])
    if stem.endswith("i"):
        found.append(f"{stem[:-1]}y")
    return tuple(found)


@cache
def _tables() -> tuple[dict[str, str], dict[str, list[tuple[str, str]]], frozenset[str]]:
    """Lemmas as they are written in the file; irregular forms with part of speech and lemma; names of two words."""
    lemmas, forms, names = gzip.decompress(_FILE.read_bytes()).decode().split("\n\n")
    irregular: dict[str, list[tuple[str, str]]] = {}
    for line in forms.split("\n"):
        form, _, rest = line.partition(" ")
        irregular.setdefault(form, []).append((rest[0], rest[1:]))
    return dict(line.split(" ") for line in lemmas.split("\n")), irregular, frozenset(names.split("\n"))
