"""T3Bench-style alignment: caption the views, then let a judge score how much of the prompt the captions hold.

T3Bench (He et al. 2023, section 3.2) captions views of the asset with BLIP and has GPT-4 score 1 to 5 how well the captions
recall the prompt. Both are given by the user as plain callables, so nothing here calls a service and any local model serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Captioner = Callable[[Float[Tensor, "V H W 3"]], list[str]]
"""RGB views in 0..1 to one caption a view."""

CaptionJudge = Callable[[str, list[str]], float]
"""Prompt and captions to a score: 1 (nothing of the prompt) to 5 (all of it)."""

JUDGE_INSTRUCTION = (
    "You see captions of several views of one 3D object. Score from 1 to 5 how completely they contain what a prompt asks for: "
    "5 every subject with its attributes and relations, 4 slight omissions, 3 the main subjects only, 2 part of them, 1 none. "
    "Judge recall only: extra content costs nothing. Answer with the number. Prompt: {prompt}\nCaptions:\n{captions}"
)
"""A rubric in T3Bench's spirit and our words, for judges that are language models."""


@dataclass(frozen=True)
class Alignment:
    """A score, 1 to 5, and the captions that it was given for."""

    score: float
    captions: list[str]


def caption_alignment(
    images: Float[Tensor, "V H W 3"], prompt: str, captioner: Captioner, judge: CaptionJudge
) -> Alignment:
    """T3Bench's alignment of one asset's views with its prompt.

    Raises:
        ValueError: when the captioner does not give one caption a view, or the judge a number in 1..5.
    """
    captions = captioner(images)
    if len(captions) != len(images):
        raise ValueError(f"the captioner gave {len(captions)} captions for {len(images)} views: it must give one for each")
    score = float(judge(prompt, captions))
    if not 1 <= score <= 5:
        raise ValueError(f"the judge scored {score} for '{prompt}': scores run from 1 to 5")
    return Alignment(score, list(captions))
