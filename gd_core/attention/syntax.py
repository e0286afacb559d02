"""ComfyUI's own prompt syntax, and what other programs' users write: what of it means something here.

`(word:1.05)`, which Ctrl+Up writes in any text box of ComfyUI, is a focus weight. It is read as ComfyUI reads it
(`comfy/sd1_clip.py`, `token_weights`): `(words)` alone is a factor of 1.1, parentheses nest, `\\(` and `\\)` are plain signs.
Everything else that is no English is left out of the text, and one sentence says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from .focus import MAX_WEIGHT, Focus, FocusWord
from .subjects import is_content_word, noun_phrases
from .words import Word, clean_text, placed_words

PARENTHESES_FACTOR = 1.1
# Stand for escaped parentheses while weights are read; private characters that no cleaning leaves in a prompt.
_OPEN, _CLOSE = "\ue000", "\ue001"

_SCHEDULED = (
    "'{0}' changes the prompt between steps, which this sampler does not: '{1}' stands from the first step to the last."
)
_NAME = r"[^\s,()\[\]{}<>:]+"
# Pattern, what takes its place, and what is said of it. `{0}` is what was written, `{1}` what is kept.
_FOREIGN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str], str], ...] = (
    (
        re.compile(rf"\(\s*embedding:{_NAME}(?::[^()]*)?\)|\bembedding:{_NAME}(?::\d*\.?\d+)?", re.IGNORECASE),
        lambda match: "",
        "'{0}' is left out: this text encoder takes no embeddings.",
    ),
    (
        re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE),
        lambda match: "",
        "'{0}' is left out: a LoRA is loaded beside the model, not in the prompt.",
    ),
    (
        re.compile(r"\bBREAK\b"),
        lambda match: ",",
        "'BREAK' is left out: the prompt is read as one piece.",
    ),
    (
        re.compile(r"__[\w/*-]+?__"),
        lambda match: "",
        "'{0}' is left out: wildcards are drawn by other nodes, whose text can be linked to the prompt.",
    ),
    (
        re.compile(r"\[([^\[\]:]*):([^\[\]:]*):\s*\d*\.?\d+\s*\]"),
        lambda match: match[1].strip() or match[2],
        _SCHEDULED,
    ),
    (
        re.compile(r"\[([^\[\]:]+):\s*\d*\.?\d+\s*\]"),
        lambda match: match[1],
        _SCHEDULED,
    ),
    (
        re.compile(r"\[([^\[\]|]*)\|[^\[\]]*\]"),
        lambda match: match[1],
        _SCHEDULED,
    ),
    (
        re.compile(r"\[([^\[\]]*)\]"),
        lambda match: match[1],
        "The brackets of '{0}' are left out: ComfyUI's way to lessen a word is (word:0.9).",
    ),
)
_SEAM = re.compile(r"\s*,(?:\s*,)+|^\s*,\s*|\s+(?=,)")  # commas that stood around what was left out
_CHOICE = re.compile(r"\{[^{}]*\|[^{}]*\}")


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as it is meant.

    Attributes:
        text: cleaned, without syntax.
        weights: word key -> the focus weight that the text gives it, 0 to 3.
        notes: a sentence for each thing that was left out or changed.
    """

    text: str
    weights: dict[str, float]
    notes: tuple[str, ...]

    def automatic_focus(self) -> dict[str, float]:
        """Word key -> weight of the default focus: the subjects, at 1 or the weight of the text, and what else that weighs."""
        subjects = {phrase.noun.key: 1.0 for phrase in noun_phrases(self.text)}
        order = [word.key for word, _, _ in placed_words(self.text)]
        return dict(sorted((subjects | self.weights).items(), key=lambda item: order.index(item[0])))

    def focus(self, chosen: Focus | None) -> tuple[Focus | None, list[str]]:
        """The focus that counts, and a sentence for each word of `chosen` that is not in the prompt (any more).

        Args:
            chosen: the user's own choice, or None for the automatic one.

        Returns:
            None for the prompt's subjects at weight 1.
        """
        words = {word.key: word for word, _, _ in placed_words(self.text)}
        notes = []
        if chosen is not None:
            kept = {entry.key: entry for entry in chosen.words if entry.key in words}
            notes = [stale_note(entry, words.values()) for entry in chosen.words if entry.key not in words]
            if kept or not chosen.words:
                added = {key: _focus_word(words[key], weight) for key, weight in self.weights.items() if key not in kept}
                return Focus((*kept.values(), *added.values())), notes
            notes.append("None of the focus words is in the prompt: its subjects are focused instead.")
        if not self.weights:
            return None, notes
        return Focus(tuple(_focus_word(words[key], weight) for key, weight in self.automatic_focus().items())), notes


def read_prompt(text: str) -> ReadPrompt:
    """Clean a prompt and read its syntax."""
    text = clean_text(text)
    notes: list[str] = []
    for pattern, meaning, sentence in _FOREIGN:
        text = _replaced(text, pattern, meaning, sentence, notes)
    if notes:
        text = _SEAM.sub(lambda seam: "," if seam.start() and "," in seam[0] else "", text)
    text = text.replace("\\(", _OPEN).replace("\\)", _CLOSE)
    pieces = _weighted(text, None)
    # White space at the seams of what was left out: characters and the weights that they carry are cleaned together.
    characters = [(c, weight) for piece, weight in pieces for c in piece.replace(_OPEN, "(").replace(_CLOSE, ")")]
    kept = [
        (c, weight)
        for i, (c, weight) in enumerate(characters)
        if c != " " or (i and characters[i - 1][0] != " " and any(later != " " for later, _ in characters[i:]))
    ]
    plain = "".join(c for c, _ in kept)
    weights = _word_weights(plain, [weight for _, weight in kept], notes)
    return ReadPrompt(plain, weights, tuple(notes))


def unresolved_choice(text: str) -> str | None:
    """A sentence about the first `{a|b}` of a text that reached Python as it was typed: core resolves it on the page."""
    match = _CHOICE.search(text)
    if not match:
        return None
    return f"'{match[0]}' is read as it stands: ComfyUI draws from {{a|b}} only where it is typed, at the node's own prompt."


def stale_note(word: FocusWord, words) -> str:
    """One sentence on a focus word that is not in the prompt."""
    count = sum(other.text == word.word for other in words)
    if not count:
        return f"Focus word '{word.word}' is not in the prompt: it is left out."
    times = "once" if count == 1 else f"{count} times"
    return f"Focus word '{word.key}' is left out: '{word.word}' is in the prompt only {times}."


@dataclass(frozen=True)
class _Weight:
    """One pair of parentheses: which words share it is told by its identity."""

    value: float
    written: bool  # as a number


def _replaced(text: str, pattern: re.Pattern[str], meaning, sentence: str, notes: list[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        kept = meaning(match)
        notes.append(sentence.format(match[0], kept))
        return kept

    return pattern.sub(replace, text)


def _weighted(text: str, weight: _Weight | None) -> list[tuple[str, _Weight | None]]:
    """Core's `token_weights`: pieces of the text with the parentheses that they stand in. Unmatched ones are plain signs."""
    pieces: list[tuple[str, _Weight | None]] = []
    start = 0
    for left, right in _pairs(text):
        pieces.append((text[start:left], weight))
        inside = text[left + 1 : right]
        value = (1.0 if weight is None else weight.value) * PARENTHESES_FACTOR
        before, _, number = inside.rpartition(":")
        written = bool(before) and _is_number(number)
        if written:
            value, inside = float(number), before
        pieces += _weighted(inside, _Weight(round(value, 4), written))
        start = right + 1
    return [*pieces, (text[start:], weight)]


def _pairs(text: str) -> list[tuple[int, int]]:
    """Outermost pairs of parentheses."""
    pairs, open_at = [], []
    for i, c in enumerate(text):
        if c == "(":
            open_at.append(i)
        elif c == ")" and open_at:
            left = open_at.pop()
            pairs = [pair for pair in pairs if pair[0] < left] + [(left, i)]
    return pairs


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _word_weights(text: str, of_characters: list[_Weight | None], notes: list[str]) -> dict[str, float]:
    """A pair of parentheses weighs its subjects; if it has none, the words in it that describe one, or with a number all that
    say something."""
    phrases = noun_phrases(text)
    subjects = {phrase.noun.key for phrase in phrases}
    described = {word.key for phrase in phrases for word in phrase.modifiers}
    groups: dict[int, tuple[_Weight, list[Word]]] = {}
    for word, start, _ in placed_words(text):
        weight = of_characters[start]
        if weight is not None:
            groups.setdefault(id(weight), (weight, []))[1].append(word)
    weights = {}
    for weight, words in groups.values():
        value = min(max(weight.value, 0.0), MAX_WEIGHT)
        named = [word for word in words if word.key in subjects]
        others = [word for word in words if word.key in described or (weight.written and is_content_word(word.text))]
        listed = " ".join(word.text for word in named or others)
        if value != weight.value and listed:
            notes.append(f"'{listed}' gets focus weight {value:g}, not {weight.value:g}: weights go from 0 to {MAX_WEIGHT:g}.")
        if named:
            weights |= {word.key: value for word in named}
        elif value > 1:
            weights |= {word.key: value for word in others}
        elif others and value < 1:
            notes.append(f"'{listed}' is no focus word, so a weight of {value:g} changes nothing.")
    return weights


def _focus_word(word: Word, weight: float) -> FocusWord:
    return FocusWord(word.text, word.occurrence, weight)
