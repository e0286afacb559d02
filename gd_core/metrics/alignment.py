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

LanguageModel = Callable[[str], str]
"""A text to a language model's answer, at temperature 0."""

MERGE_INSTRUCTION = (
    "These captions describe one 3D object, each from another side. Make one short caption of them. Leave out the background, "
    "what the object stands on, and poses.\n{captions}\nThe caption:"
)
SCORE_INSTRUCTION = (
    "Score from 1 to 5, with 5 the best, how much of a prompt a caption contains. Judge recall only: what the caption adds "
    "costs nothing. Colours and features that are right raise the score. Answer with the number alone.\n"
    "Prompt: {prompt}\nCaption: {caption}"
)
"""What T3Bench asks, in our words: its own are in `run_caption.py` and `run_eval_alignment.py` of THU-LYJ-Lab/T3Bench."""


def two_step_judge(model: LanguageModel) -> CaptionJudge:
    """T3Bench's judge: a language model merges the captions into one, then scores that one; the score is rounded.

    The judge raises ValueError for an answer that is no number.
    """

    def judge(prompt: str, captions: list[str]) -> float:
        listed = "\n".join(f"view {number}: {caption}" for number, caption in enumerate(captions, 1))
        caption = model(MERGE_INSTRUCTION.format(captions=listed)).strip().rstrip(".").strip("\"'").rstrip(".")
        answer = model(SCORE_INSTRUCTION.format(prompt=prompt, caption=caption))
        try:
            return float(round(float(answer)))
        except ValueError:
            raise ValueError(f"the language model answered '{answer}' for '{prompt}': it must give a number, 1 to 5") from None

    return judge


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
