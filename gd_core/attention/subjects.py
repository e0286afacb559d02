"""The subjects of a prompt: the nouns that its noun phrases are about, with the words that belong to them.

`tagging` says what each word does; a phrase is a noun with the adjectives and nouns before it, lists such as "big, red"
included: "a big, red cube on a paper plane" -> cube (big, red), plane (paper). Phrases that name no thing in the picture are
left out: the picture itself ("a photo of"), its qualities ("highly detailed, studio light"), what something is made of ("made
of glass"), what is not there ("without a hat"), colours, times, and the parts of a body ("on its head").

It is a default to start from: the focus widget shows what it found, and any word can be added or taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .closed_words import (
    AUXILIARIES,
    BODY_PARTS,
    CAMERA,
    COLOURS,
    CONJUNCTIONS,
    DEGREES,
    DETERMINERS,
    MANNERS,
    NOT_THERE,
    PICTURES,
    POSSESSIVES,
    PREPOSITIONS,
    PRONOUNS,
    QUALITIES,
    SEEN_TOO,
    STUFFS,
    TIMES,
)
from .lexicon import readings
from .tagging import ADJECTIVE, ADVERB, AND, DET, NOUN, PART, PREP, STOP, STYLE, VERB, roles
from .words import Word, is_word, prompt_words, split_prompt

_JOINING = DETERMINERS | PREPOSITIONS | CONJUNCTIONS | AUXILIARIES | PRONOUNS | DEGREES


@dataclass(frozen=True)
class NounPhrase:
    """A subject and the words bound to it, adjectives and parts of a compound, all as words of the prompt."""

    noun: Word
    modifiers: tuple[Word, ...]


@dataclass(frozen=True)
class _Chunk:
    """Pieces of a phrase by their index: its words, the last of them its noun, and the determiners before them."""

    words: tuple[int, ...]
    determiners: tuple[int, ...]

    @property
    def noun(self) -> int:
        return self.words[-1]

    @property
    def start(self) -> int:
        return min(*self.words, *self.determiners, self.words[0])


def is_content_word(text: str) -> bool:
    """Whether a word names or describes something, rather than joining words that do."""
    return text not in _JOINING


def noun_phrases(prompt: str) -> list[NounPhrase]:
    """The subjects of `prompt` in order. Words carry no tokens."""
    pieces = [piece for piece in split_prompt(prompt) if piece not in ("'", '"')]
    words = iter(prompt_words(prompt))
    of_piece = [next(words) if is_word(piece) else None for piece in pieces]
    tags = roles(pieces)
    chunks = _chunks(tags)
    kept = [chunk for chunk in chunks if _is_subject(chunk, pieces, tags, chunks)] or chunks
    kept = _without_qualities(kept, pieces, tags)
    return [NounPhrase(of_piece[c.noun], tuple(of_piece[i] for i in c.words[:-1])) for c in kept]


def _chunks(tags: Sequence[str]) -> list[_Chunk]:
    chunks, words, determiners = [], [], []
    for i, tag in enumerate(tags):
        if tag in (ADJECTIVE, PART, NOUN):
            words.append(i)
            if tag == NOUN:
                chunks.append(_Chunk(tuple(words), tuple(determiners)))
                words, determiners = [], []
        elif tag == DET:
            words, determiners = [], [*determiners, i]
        elif tag == ADVERB or (tag in (STOP, AND) and words and tags[words[-1]] == ADJECTIVE):
            continue  # "very big", "big, red", "black and white"
        else:
            words, determiners = [], []
    return chunks


def _is_subject(chunk: _Chunk, pieces: Sequence[str], tags: Sequence[str], chunks: Sequence[_Chunk]) -> bool:
    noun = pieces[chunk.noun]
    before = chunk.start - 1
    lead = pieces[before] if before >= 0 else ""
    bare = not chunk.determiners
    if noun.isdigit() or (len(noun) == 1 and noun.isascii()) or noun in MANNERS or (before >= 0 and tags[before] == STYLE):
        return False
    if lead in NOT_THERE or any(pieces[i] in NOT_THERE for i in chunk.determiners):
        return False
    if _names_the_picture(chunk, pieces, tags) or (lead == "in" and noun in PICTURES):
        return False
    if bare and len(chunk.words) == 1 and noun in COLOURS and before >= 0:
        return False
    if bare and before >= 0 and tags[before] == PREP and _is_stuff(noun):
        if lead != "with" or (before > 0 and tags[before - 1] == VERB):
            return False  # "made of glass", "sealed with wax"
    own = any(pieces[i] in POSSESSIVES or pieces[i].endswith(("'s", "s'")) for i in (*chunk.determiners, *chunk.words[:-1]))
    seen = any(readings(pieces[other.noun]).kind in ("a", "o") for other in chunks if other != chunk)
    if seen and noun in TIMES and lead in ("in", "on", "at", "during", "by"):
        return False
    dependent = own or (bare and before >= 0 and tags[before] in (PREP, VERB))
    if seen and dependent and readings(noun).kind == "x" and noun not in SEEN_TOO:
        return False  # "sealed with love", "awaiting its turn"
    of_a_body = noun in BODY_PARTS or (own and readings(noun).kind == "b")
    return not (of_a_body and (own or lead in ("with", "has", "on", "in", "by")) and len(chunks) > 1)


def _is_stuff(noun: str) -> bool:
    found = readings(noun)
    return noun in STUFFS or (found.kind == "m" and found.noun > found.plural)


def _names_the_picture(chunk: _Chunk, pieces: Sequence[str], tags: Sequence[str]) -> bool:
    """A picture at the head of the prompt or of a part of it ("a wide angle zoomed out photo of"), or a word before that."""
    start = max((i + 1 for i in range(chunk.start) if tags[i] == STOP), default=0)
    for i in range(chunk.noun, len(pieces) - 1):
        if tags[i] == STOP:
            return False
        if pieces[i] in PICTURES and pieces[i + 1] == "of":
            return all(
                pieces[j] in CAMERA | DETERMINERS or tags[j] in (ADJECTIVE, ADVERB, STOP) or readings(pieces[j]).adjective > 0
                for j in range(start, i)
            )
    return False


def _without_qualities(chunks: Sequence[_Chunk], pieces: Sequence[str], tags: Sequence[str]) -> list[_Chunk]:
    """Leave out what lists of qualities name: parts between commas without a determiner that have a word of `QUALITIES`."""
    stops = [i for i, tag in enumerate(tags) if tag == STOP]
    kept = []
    for chunk in chunks:
        start = max((i + 1 for i in stops if i < chunk.start), default=0)
        end = min((i for i in stops if i > chunk.noun), default=len(pieces))
        part = range(start, end)
        if not stops or any(tags[i] == DET for i in part):
            kept.append(chunk)
            continue
        of_quality = [i for i in part if pieces[i] in QUALITIES]
        doing = any(tags[i] == VERB for i in part)
        if of_quality and (not doing or part[0] in of_quality or part[-1] in of_quality):
            continue
        if pieces[part[0]] == "by":  # whose manner
            continue
        kept.append(chunk)
    return kept or list(chunks)
