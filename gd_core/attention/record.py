"""Attention maps word by word, from the passes that sampling makes anyway."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from jaxtyping import Float
from torch import Tensor

from .focus import Focus
from .objectives import RefocusConfig, word_map, word_presence
from .subjects import is_content_word
from .words import Word


class AttentionRecord:
    """Collects the conditional cross-attention maps of B objects over the steps.

    Args:
        words: of each object's prompt, with their tokens.
        focuses: one located focus for each object.
        config: whose `objective` says what presence means.
        num_views: V.
    """

    def __init__(self, words: Sequence[Sequence[Word]], focuses: Sequence[Focus], config: RefocusConfig, num_views: int):
        self.focuses, self.config, self.num_views = focuses, config, num_views
        self.num_tokens = max(focus.end_token for focus in focuses)
        self._words = [_in_order(of_prompt, focus) for of_prompt, focus in zip(words, focuses, strict=True)]
        self._sum: Tensor | float = 0.0
        self._steps = 0

    def add(self, maps: Float[Tensor, "BV h w tokens"]) -> None:
        self._sum = self._sum + maps
        self._steps += 1

    def mean(self) -> Float[Tensor, "BV h w tokens"]:
        """Over the steps so far."""
        return self._sum / self._steps

    def of(self, index: int) -> AttentionRecord:
        """The record of the `index`-th object alone."""
        alone = copy(self)
        alone.focuses, alone._words = self.focuses[index : index + 1], self._words[index : index + 1]
        if self._steps:
            alone._sum = self._sum[index * self.num_views : (index + 1) * self.num_views]
        return alone

    def attention(self, maps: Float[Tensor, "BV h w tokens"]) -> list[dict[str, Tensor]]:
        """For each object: word key -> `[V, h, w]` on the CPU, 0..1, the mean over the word's pieces. Focus words come first,
        then the prompt's other words that name or describe something."""
        maps = maps.cpu().unflatten(0, (-1, self.num_views))
        return [
            {word.key: word_map(of_object, word.tokens) for word in words}
            for of_object, words in zip(maps, self._words, strict=True)
        ]

    def presence(self, maps: Float[Tensor, "BV h w tokens"]) -> list[dict[str, float]]:
        """For each object: focus word key -> presence 0..1, the mean over the views for `per_view_mean`."""
        result = []
        for of_object, focus in zip(maps.unflatten(0, (-1, self.num_views)), self.focuses, strict=True):
            present = word_presence(of_object, focus, self.config, focus.words).mean(0).tolist() if focus.words else []
            result.append({word.key: round(value, 4) for word, value in zip(focus.words, present, strict=True)})
        return result


def _in_order(words: Sequence[Word], focus: Focus) -> list[Word]:
    focused = {word.key for word in focus.words}
    kept = [word for word in words if word.key in focused or is_content_word(word.text)]
    return sorted(kept, key=lambda word: word.key not in focused)
