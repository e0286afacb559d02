"""Focus words: which words of a prompt must be seen, how strongly, and which adjectives belong to them.

Keyed by word and occurrence, never by token index, so that a focus outlives a change of tokenizer or of the words around it:

    {"v": 1, "focus": [{"word": "cube", "occurrence": 0, "weight": 1.2}]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .subjects import noun_phrases
from .words import Word, clean_text, prompt_words

FORMAT_VERSION = 1
MAX_WEIGHT = 3.0


@dataclass(frozen=True)
class FocusWord:
    """A word and how much its neglect counts.

    Attributes:
        word, occurrence: which word of the prompt; lower case, occurrences counted from 0.
        weight: 0 (leave it alone) to 3; 1 is the ordinary pull.
        tokens: its tokens, known once the focus is located in an encoded prompt.
        modifiers: the adjectives and parts of a compound bound to it, likewise.
        phrase: which phrase of the prompt it belongs to, likewise; None when it belongs to none.
    """

    word: str
    occurrence: int = 0
    weight: float = 1.0
    tokens: tuple[int, ...] = ()
    modifiers: tuple[Word, ...] = ()
    phrase: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and 0 <= self.weight <= MAX_WEIGHT):
            raise ValueError(f"focus word '{self.word}' has weight {self.weight}: weights go from 0 to {MAX_WEIGHT:g}")
        if self.occurrence < 0:
            raise ValueError(f"focus word '{self.word}' has occurrence {self.occurrence}: the first one is 0")

    @property
    def key(self) -> str:
        return Word(self.word, self.occurrence).key


@dataclass(frozen=True)
class Rival:
    """A word of the prompt that is no focus word: what a focus word may have to stand out against.

    Attributes:
        tokens, phrase: as of a `FocusWord`.
        subject: whether it is a subject of the prompt.
    """

    tokens: tuple[int, ...]
    phrase: int | None = None
    subject: bool = False


@dataclass(frozen=True)
class Focus:
    """The focus words of one prompt.

    Attributes:
        words: each word and occurrence at most once.
        end_token: index of the prompt's end token, known once located; attention to it and to the padding behind it does not
            count.
        rivals: the prompt's other words, known once located.
    """

    words: tuple[FocusWord, ...]
    end_token: int | None = None
    rivals: tuple[Rival, ...] = ()

    def __post_init__(self) -> None:
        keys = [word.key for word in self.words]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"focus word '{key}' is given twice: keep one of them")

    @property
    def active(self) -> tuple[FocusWord, ...]:
        """Words that pull at all."""
        return tuple(word for word in self.words if word.weight > 0)

    @classmethod
    def of_subjects(cls, prompt: str) -> Focus:
        """The default focus: every subject of the prompt at weight 1, its adjectives bound to it (see `subjects`)."""
        return cls(tuple(FocusWord(p.noun.text, p.noun.occurrence, modifiers=p.modifiers) for p in noun_phrases(prompt)))

    @classmethod
    def on_tokens(cls, tokens: Sequence[int | Sequence[int]], end_token: int, weights: Sequence[float] | None = None) -> Focus:
        """A focus straight on token indices (start token 0), for attention maps that come without a prompt."""
        groups = [(t,) if isinstance(t, int) else tuple(t) for t in tokens]
        weights = [1.0] * len(groups) if weights is None else weights
        words = (FocusWord(f"token {g[0]}", weight=w, tokens=g) for g, w in zip(groups, weights, strict=True))
        return cls(tuple(words), end_token)

    @classmethod
    def from_json(cls, text: str) -> Focus:
        """Read the JSON form. Raises ValueError that says what is wrong with it."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the focus is not valid JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("focus"), list):
            raise ValueError('the focus must look like {"v": 1, "focus": [{"word": "cube", "occurrence": 0, "weight": 1.0}]}')
        if data.get("v") != FORMAT_VERSION:
            raise ValueError(f"the focus has version {data.get('v')!r}, this release reads version {FORMAT_VERSION}")
        words = []
        for entry in data["focus"]:
            if not isinstance(entry, dict) or not isinstance(entry.get("word"), str) or not entry["word"].strip():
                raise ValueError(f"a focus entry needs a word, got {entry!r}")
            occurrence, weight = entry.get("occurrence", 0), entry.get("weight", 1.0)
            if not isinstance(occurrence, int) or isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ValueError(f"a focus entry needs a whole occurrence and a number as weight, got {entry!r}")
            words.append(FocusWord(clean_text(entry["word"]).lower(), occurrence, float(weight)))
        return cls(tuple(words))

    def to_json(self) -> str:
        entries = [{"word": w.word, "occurrence": w.occurrence, "weight": w.weight} for w in self.words]
        return json.dumps({"v": FORMAT_VERSION, "focus": entries})

    def locate(self, prompt: str, words: Sequence[Word], end_token: int) -> Focus:
        """The same focus with its tokens and bound adjectives in an encoded prompt.

        Args:
            words: the prompt's words with their tokens, `PromptEmbedding.words`.

        Raises:
            ValueError: for a focus word that is not in the prompt; it names the prompt's words.
        """
        tokens = {word.key: word.tokens for word in words}
        phrases = noun_phrases(prompt)
        modifiers = {phrase.noun.key: phrase.modifiers for phrase in phrases}
        membership = {word.key: i for i, phrase in enumerate(phrases) for word in (*phrase.modifiers, phrase.noun)}
        located = []
        for word in self.words:
            if word.key not in tokens:
                raise ValueError(_absent(word, prompt))
            bound = tuple(replace(m, tokens=tokens[m.key]) for m in modifiers.get(word.key, ()))
            located.append(replace(word, tokens=tokens[word.key], modifiers=bound, phrase=membership.get(word.key)))
        chosen = {word.key for word in self.words}
        rivals = (Rival(of, membership.get(key), key in modifiers) for key, of in tokens.items() if key not in chosen and of)
        return Focus(tuple(located), end_token, tuple(rivals))


def _absent(word: FocusWord, prompt: str) -> str:
    words = prompt_words(prompt)
    count = sum(w.text == word.word for w in words)
    if count:
        times = "once" if count == 1 else f"{count} times"
        return f"focus word '{word.word}' is in the prompt '{prompt}' only {times}: there is no occurrence {word.occurrence}"
    listed = ", ".join(dict.fromkeys(w.text for w in words))
    return f"focus word '{word.word}' is not in the prompt '{prompt}': its words are {listed}"
