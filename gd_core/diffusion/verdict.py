"""A verdict for each subject of a prompt, from the model alone: no judge, no CLIP.

At a few steps of sampling the model is also asked for the views of a rival prompt for each subject: without it, or with another
subject's description on it. How much better the prompt itself explains what the views become is the subject's lift (after
CompLift, 2505.13740, which leaves out the whole prompt). With the attention that the subject's noun gets, a small logistic
regression turns it into a probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention import Focus, RefocusConfig
from ..attention.objectives import word_presence
from ..attention.rival_prompts import with_others_description, without_subject
from ..attention.subjects import noun_phrases
from ..settings.verdict import FEATURES, VerdictConfig
from ..subject_masks import named_subjects
from ..verdicts import DOUBTFUL, MISSING, THERE, SubjectVerdict
from .denoising import Pass, predicted_x0
from .model import MVDream
from .multiview import predict_noise
from .prompts import PromptEmbedding, encode_prompt


class Witness:
    """Asks for each subject's rival prompt at some steps of the sampling of B objects, and judges what became of the subjects.

    Args:
        prompts: encoded, one an object.
        conditioning: `[V, 16]`, the cameras'.
        steps: of the whole sampling run.
    """

    def __init__(
        self, model: MVDream, prompts: Sequence[PromptEmbedding], conditioning: Tensor, config: VerdictConfig, *, steps: int
    ):
        self.model, self.conditioning, self.config, self.num_views = model, conditioning, config, len(conditioning)
        self.subjects = [Subjects(model, prompt, config.ask) for prompt in prompts]
        self.at = {steps_of(share, steps) - 1 for share in config.at}
        self._seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in prompts]  # x0 for the prompt, and for each rival

    def __call__(self, seen: Pass) -> None:
        if seen.step not in self.at:
            return
        kind = self.model.scheduler.config.prediction_type
        whole = predicted_x0(seen.conditional, seen.latents, seen.alpha, kind).float().unflatten(0, (-1, self.num_views))
        for i, (subjects, latents) in enumerate(zip(self.subjects, seen.latents.split(self.num_views), strict=True)):
            rivals = []
            for context in subjects.rivals:  # one after the other: no more memory than a guided step needs
                out = predict_noise(self.model.unet, latents, seen.timestep, context, self.conditioning, self.num_views)
                rivals.append(predicted_x0(out, latents, seen.alpha, kind).float())
            if rivals:
                self._seen[i].append((whole[i], torch.stack(rivals)))

    def of(self, index: int) -> Witness:
        """What was seen of the `index`-th object alone."""
        alone = copy(self)
        alone.subjects, alone._seen = self.subjects[index : index + 1], [list(self._seen[index])]
        return alone

    def judge(
        self, clean: Float[Tensor, "BV 4 h w"], maps: Float[Tensor, "BV H W tokens"] | None, *, final: bool
    ) -> list[tuple[SubjectVerdict, ...]]:
        """For each object a verdict on each subject; none where nothing was asked.

        Args:
            clean: what the views are, or seem to become. maps: the attention so far, None for a model without.
            final: whether the views are done.
        """
        coefficients = self.config.final if final else self.config.early
        verdicts = []
        for i, z in enumerate(clean.float().split(self.num_views)):
            features, lifts = self.features(i, z, None if maps is None else maps.unflatten(0, (-1, self.num_views))[i])
            verdicts.append(
                tuple(
                    _verdict(subject, row, lift, coefficients if maps is not None else (), self.config)
                    for subject, row, lift in zip(self.subjects[i].named, features, lifts, strict=False)
                )
            )
        return verdicts

    def features(
        self, index: int, clean: Float[Tensor, "V 4 h w"], maps: Float[Tensor, "V H W tokens"] | None
    ) -> tuple[list[list[float]], list[list[float]]]:
        """Of each subject of an object `FEATURES`, and the lift in each view; nothing where nothing was asked."""
        if not self._seen[index]:
            return [], []
        lifts = []
        for whole, rivals in self._seen[index]:
            error = (whole - clean).square().sum((1, 2, 3))
            lifts.append(((rivals - clean).square().sum((2, 3, 4)) / error.clamp(min=1e-12)).log())
        lift = torch.stack(lifts).mean(0)  # [subjects, V]
        present = torch.zeros_like(lift) if maps is None else self.subjects[index].presence(maps).T.to(lift)
        rows = torch.stack((lift.mean(1), lift.amin(1), present.mean(1), present.amin(1)), dim=1)
        assert rows.shape[1] == len(FEATURES)
        return rows.tolist(), lift.tolist()


def steps_of(share: float, steps: int) -> int:
    """How many steps are done once this share of them is over: at least one."""
    return max(1, math.ceil(share * steps - 1e-9))


class Subjects:
    """The subjects of one prompt.

    Attributes:
        named: key and name of each, see `named_subjects`. rivals: `[1, 77, C]` of each, its rival prompt encoded.
    """

    def __init__(self, model: MVDream, prompt: PromptEmbedding, ask: str):
        phrases = noun_phrases(prompt.text)
        self.named = named_subjects([(p.noun.key, " ".join(w.text for w in (*p.modifiers, p.noun))) for p in phrases])
        self._model, self._prompt, self._phrases, self._ask = model, prompt, phrases, ask
        self._focus = Focus.of_subjects(prompt.text).locate(prompt.text, prompt.words, prompt.end_token)

    @cached_property
    def rivals(self) -> list[Tensor]:
        return [encode_prompt(self._model, self._rival(i)).embeddings for i in range(len(self._phrases))]

    def _rival(self, index: int) -> str:
        text, exchanged = self._prompt.text, None
        if self._ask == "exchanged":
            exchanged = with_others_description(text, self._phrases, index)
        return without_subject(text, self._phrases[index]) if exchanged is None else exchanged

    def presence(self, maps: Float[Tensor, "V h w tokens"]) -> Float[Tensor, "V n"]:
        """How present each subject is in the attention of each view, 0..1."""
        return word_presence(maps, self._focus, RefocusConfig(), self._focus.words)


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
