"""What refocusing minimises: the neglect of focus words in cross-attention maps.

Attend-and-Excite (Chefer et al. 2301.13826, equations 1 and 2; yuval-alaluf/Attend-and-Excite @163efdf): drop the start token
and what lies behind the last word, sharpen by 100 and softmax over the tokens again, smooth, and take the highest pixel as the
word's presence m. Its neglect is max(0, 1 - m), the loss that of the most neglected word.

Two things differ where a prompt is more than single tokens. A word of several pieces has the mean of their maps, and competes
as one: the sum made rare words look present. And words of one phrase, an adjective or a compound's part and their noun, never
compete: they are to be looked at in the same place.

Grounded-Dreamer averages the maps of the four views before that. `per_view_mean` asks for the word in every view, `concat_max`
in at least one. A focus weight multiplies its word's neglect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..settings.refocus import OBJECTIVES as OBJECTIVES
from ..settings.refocus import RefocusConfig as RefocusConfig
from .focus import Focus, FocusWord, Rival


def refocus_loss(maps: Float[Tensor, "V h w T"], focus: Focus, config: RefocusConfig) -> Tensor:
    """The loss of one object, a scalar that is differentiable in its maps; 0 without an active focus word.

    Args:
        maps: cross-attention probabilities of each view over the text tokens, the start token first.
        focus: located in the prompt (`Focus.locate`), or from `Focus.on_tokens`.
    """
    words = focus.active
    if not words:
        return maps.sum() * 0
    present = word_presence(maps, focus, config, words)  # [rows, n]
    weights = torch.tensor([word.weight for word in words], device=maps.device)
    neglect = (1 - present).clamp(min=0) * weights
    if config.temperature == 0:
        loss = neglect.amax(-1).mean()
    else:
        t = config.temperature
        loss = t * ((neglect / t).logsumexp(-1) - torch.log(torch.tensor(float(len(words))))).mean()
    if config.binding:
        loss = loss + config.binding * attribute_mismatch(maps, words)
    if config.consistency:
        loss = loss + config.consistency * view_imbalance(maps, words)
    return loss


def can_be_neglected(focus: Focus, config: RefocusConfig) -> bool:
    """False where the loss could only be 0: without a rival outside of its phrase a word wins every pixel."""
    if config.rivals == "words" or config.binding > 0 or config.consistency > 0:
        return True
    rivals = _competitors(focus, config)
    return any(_compete(word, other) for word in focus.active for other in rivals)


def word_presence(
    maps: Float[Tensor, "V h w T"], focus: Focus, config: RefocusConfig, words: tuple[FocusWord, ...]
) -> Float[Tensor, "rows n"]:
    """m of each word in 0..1: one row for `mean_views` and `concat_max`, one for each view for `per_view_mean`."""
    if config.objective == "mean_views":
        maps = maps.mean(0, keepdim=True)
    present = smooth(word_shares(maps, focus, config, words)).flatten(2).amax(-1)
    return present.amax(0, keepdim=True) if config.objective == "concat_max" else present


def word_shares(
    maps: Float[Tensor, "V h w T"], focus: Focus, config: RefocusConfig, words: tuple[FocusWord, ...]
) -> Float[Tensor, "V n h w"]:
    """Which share of each pixel's attention a word wins from its rivals, after sharpening.

    The start token, the end token and padding take no part: they hold most of the attention and say nothing of the words.
    """
    everyone = _competitors(focus, config)
    attention = torch.stack([word_map(maps, other.tokens) for other in everyone], dim=1).float() * config.sharpening
    shares = []
    for word in words:
        own = next(i for i, other in enumerate(everyone) if other is word)
        rivals = [i for i, other in enumerate(everyone) if _compete(word, other)]
        shares.append(attention[:, [own, *rivals]].softmax(1)[:, 0])
    return torch.stack(shares, dim=1)


def word_map(maps: Float[Tensor, "V h w T"], tokens: Sequence[int]) -> Float[Tensor, "V h w"]:
    """The attention that a word gets: the mean over its pieces, so that a rare word of many is not looked at more."""
    return maps[..., list(tokens)].mean(-1)


def _competitors(focus: Focus, config: RefocusConfig) -> list[FocusWord | Rival]:
    """Whatever competes for a pixel, the focus words first."""
    if config.rivals == "subjects":
        return [*focus.words, *(rival for rival in focus.rivals if rival.subject)]
    everyone = [*focus.words, *focus.rivals]
    grouped = {token for other in everyone for token in other.tokens}
    return [*everyone, *(Rival((token,)) for token in range(1, focus.end_token) if token not in grouped)]


def _compete(word: FocusWord, other: FocusWord | Rival) -> bool:
    return other is not word and (word.phrase is None or other.phrase != word.phrase)


def smooth(images: Float[Tensor, "rows n h w"]) -> Float[Tensor, "rows n h w"]:
    """Attend-and-Excite's 3x3 Gaussian with reflected borders.

    Its code writes exp(-(d / (2 sigma))^2) for sigma 0.5: a standard deviation of 0.707, kept for parity.
    """
    line = torch.tensor([-1.0, 0.0, 1.0], device=images.device).square().neg().exp()
    line = line / line.sum()
    rows, n = images.shape[:2]
    padded = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, (line[:, None] * line)[None, None]).unflatten(0, (rows, n))[:, :, 0]


def attribute_mismatch(maps: Float[Tensor, "V h w T"], words: tuple[FocusWord, ...]) -> Tensor:
    """1 - overlap of each bound adjective's map with its noun's, both scaled to sum 1; mean over the pairs, weighted."""
    terms, total = [], 0.0
    for word in words:
        noun = _distribution(maps, word.tokens)
        for modifier in word.modifiers:
            overlap = torch.minimum(noun, _distribution(maps, modifier.tokens)).sum()
            terms.append(word.weight * (1 - overlap))
            total += word.weight
    return torch.stack(terms).sum() / total if terms else maps.sum() * 0


def view_imbalance(maps: Float[Tensor, "V h w T"], words: tuple[FocusWord, ...]) -> Tensor:
    """Variance over the views of a word's highest attention, relative to its mean squared; mean over the words."""
    highest = torch.stack([word_map(maps, word.tokens).flatten(1).amax(-1) for word in words])  # [n, V]
    return (highest.var(1, unbiased=False) / highest.mean(1).square().clamp(min=1e-12)).mean()


def _distribution(maps: Float[Tensor, "V h w T"], tokens: tuple[int, ...]) -> Float[Tensor, " V*h*w"]:
    flat = word_map(maps, tokens).flatten()
    return flat / flat.sum().clamp(min=1e-12)
