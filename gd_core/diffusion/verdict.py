"""A verdict for each subject of a prompt, from the model alone: no judge, no CLIP.

What the views are is noised afresh, and the model denoises it by the prompt and by a rival prompt for each subject, in which
the subject is exchanged for another one or left out. How much better the prompt itself explains the views is the subject's
lift (after CompLift, 2505.13740, whose rival is no prompt at all). With the attention that the subject's noun gets, a small
logistic regression turns it into a probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention import Focus, RefocusConfig
from ..attention.objectives import word_presence
from ..attention.rival_prompts import rival_prompt, without_subject
from ..attention.subjects import noun_phrases
from ..settings.verdict import VerdictConfig
from ..subject_masks import named_subjects
from ..verdicts import DOUBTFUL, MISSING, THERE, SubjectVerdict
from .denoising import predicted_x0
from .model import MVDream
from .multiview import predict_noise
from .prompts import PromptEmbedding, encode_prompt

TOGETHER = 2  # prompts in a pass: as many as a guided step has


class Witness:
    """Says of the subjects of one prompt whether they are in views of it.

    Args:
        conditioning: `[V, 16]`, the cameras'.

    Attributes:
        named: key and name of each subject, see `named_subjects`.
    """

    def __init__(self, model: MVDream, prompt: PromptEmbedding, conditioning: Tensor, config: VerdictConfig):
        self.model, self.prompt, self.conditioning, self.config = model, prompt, conditioning, config
        self.phrases = noun_phrases(prompt.text)
        self.named = named_subjects([(p.noun.key, " ".join(w.text for w in (*p.modifiers, p.noun))) for p in self.phrases])
        self._focus = Focus.of_subjects(prompt.text).locate(prompt.text, prompt.words, prompt.end_token)

    @cached_property
    def contexts(self) -> Float[Tensor, "prompts tokens C"]:
        """The prompt, and a rival of it for each subject."""
        return torch.cat([self.prompt.embeddings, *map(self._rival, range(len(self.phrases)))])

    def _rival(self, index: int) -> Float[Tensor, "1 tokens C"]:
        try:
            return encode_prompt(self.model, rival_prompt(self.prompt.text, self.phrases, index, self.config.ask)).embeddings
        except ValueError:  # another's phrase may be longer than what the model still reads; without the subject none is
            return encode_prompt(self.model, without_subject(self.prompt.text, self.phrases[index])).embeddings

    def judge(
        self, clean: Float[Tensor, "V 4 h w"], maps: Float[Tensor, "V H W tokens"] | None, *, final: bool
    ) -> tuple[SubjectVerdict, ...]:
        """A verdict on each subject; none without timesteps to ask at.

        Args:
            clean: latents of what the views are, or seem to become. maps: the attention so far, None for a model without.
            final: whether the views are done.
        """
        if not self.config.timesteps or not self.phrases:
            return ()
        lift = self.lift(clean)
        present = torch.zeros_like(lift)
        if maps is not None:
            present = word_presence(maps, self._focus, RefocusConfig(), self._focus.words).T.to(lift)
        rows = torch.stack((lift.mean(1), lift.amin(1), present.mean(1), present.amin(1)), dim=1)  # `FEATURES`
        coefficients = self.config.final if final else self.config.early
        return tuple(
            _verdict(subject, row, of_views, coefficients if maps is not None else (), self.config)
            for subject, row, of_views in zip(self.named, rows.tolist(), lift.tolist(), strict=True)
        )

    @torch.no_grad()
    def lift(self, clean: Float[Tensor, "V 4 h w"]) -> Float[Tensor, "subjects V"]:
        """Logarithm of the squared error of the rival prompts over that of the prompt, the mean over the timesteps. The noise
        is always the same, so that the same views get the same verdict."""
        unet, schedule, views = self.model.unet, self.model.scheduler, len(self.conditioning)
        clean, lifts = clean.float(), []
        for timestep in self.config.timesteps:
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(timestep)).to(clean)
            alpha = float(schedule.alphas_cumprod[timestep])
            noisy = (alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise).to(unet.dtype)
            errors = []
            for contexts in self.contexts.split(TOGETHER):
                many = noisy.repeat(len(contexts), 1, 1, 1)
                cameras = self.conditioning.repeat(len(contexts), 1)
                out = predict_noise(unet, many, timestep, contexts, cameras, views)
                x0 = predicted_x0(out.float(), many.float(), alpha, schedule.config.prediction_type)
                errors.append((x0.unflatten(0, (-1, views)) - clean).square().sum((2, 3, 4)))
            error = torch.cat(errors).clamp(min=1e-12)
            lifts.append((error[1:] / error[0]).log())
        return torch.stack(lifts).mean(0)


def _verdict(
    subject: dict[str, str], features: list[float], lift: list[float], coefficients: Sequence[float], config: VerdictConfig
) -> SubjectVerdict:
    known = {"views": tuple(round(value, 4) for value in lift), "features": tuple(features)}
    if not coefficients:
        score = features[0]
        word = THERE if score > 0 else DOUBTFUL
        return SubjectVerdict(subject["key"], subject["name"], word, round(score, 4), None, **known)
    score = coefficients[0] + sum(c * f for c, f in zip(coefficients[1:], features, strict=True))
    probability = 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))
    word = THERE if probability >= config.there else MISSING if probability < config.missing else DOUBTFUL
    return SubjectVerdict(subject["key"], subject["name"], word, round(score, 4), round(probability, 4), **known)


def of_all(verdicts: Sequence[SubjectVerdict]) -> float:
    """How sure it is that every subject is there: the log-probability, or without calibration the lowest score."""
    if any(verdict.probability is None for verdict in verdicts):
        return min(verdict.score for verdict in verdicts)
    return -sum(math.log1p(math.exp(-max(-30.0, verdict.score))) for verdict in verdicts)


def steps_of(share: float, steps: int) -> int:
    """How many steps are done once this share of them is over: at least one."""
    return max(1, math.ceil(share * steps - 1e-9))
