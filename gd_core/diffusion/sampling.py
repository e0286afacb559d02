"""From prompts to `ViewSet`s: encode, denoise, compare candidates, decode, mask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .. import memory
from ..attention import Focus, RefocusConfig
from ..attention.capture import cross_attention_layers
from ..attention.subjects import noun_phrases
from ..cameras import Cameras
from ..devices import free_memory
from ..settings.candidates import CandidateConfig
from ..settings.verdict import VerdictConfig
from ..verdicts import MISSING, SubjectVerdict
from ..views import Progress, ViewSet
from .batch import Batch, Request, latent_preview
from .model import MVDream
from .prompts import PromptEmbedding, encode_prompt
from .verdict import of_all, steps_of

log = logging.getLogger(__name__)

MAX_SEED = 2**64 - 1
NEXT_CANDIDATE = 1_000_000  # from one candidate's seed to the next one's: far more than any batch counts up
USABLE_SHARE = 0.9  # of the free memory; the allocator's fragments need the rest


@dataclass(frozen=True)
class StepReport:
    """One object after one step, for live displays.

    Attributes:
        object_index: which of the objects in the batch.
        step, total: steps done, counted from 1, and in all.
        presence: focus word key -> how present the word is in its attention maps, 0..1 (`word_presence`).
        threshold: the presence that refocusing repeated its update for at this step, or None.
        attention: word key -> `[V, h, w]` float32 on the CPU, this step's maps.
    """

    object_index: int
    step: int
    total: int
    presence: dict[str, float]
    threshold: float | None
    attention: dict[str, Tensor]


@dataclass(frozen=True)
class Candidate:
    """One start of an object, after its share of the steps.

    Attributes:
        seed: which start. score: higher is better (`verdict.of_all`). verdicts: the early ones.
        preview: `[H, V*W, 3]` 0..1 on the CPU, the views that it seems to become.
    """

    seed: int
    score: float
    verdicts: tuple[SubjectVerdict, ...]
    preview: Tensor


def sample_views(model: MVDream, prompt: str, *, seed: int, focus: Focus | None = None, **settings) -> ViewSet:
    """Views of one object; `sample_objects` for one prompt, seed and focus, with the same keyword settings."""
    return sample_objects(model, [prompt], seeds=[seed], focuses=[focus], **settings)[0]


@torch.no_grad()
def sample_objects(
    model: MVDream,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    focuses: Sequence[Focus | None] | None = None,
    refocus: RefocusConfig | Literal["auto"] | None = None,
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    sampler: str | None = None,
    cameras: Cameras | None = None,
    candidates: CandidateConfig | None = None,
    verdict: VerdictConfig | None = None,
    progress: Progress | None = None,
    on_report: Callable[[StepReport], None] | None = None,
    on_candidates: Callable[[list[Candidate], int | None], None] | None = None,
) -> list[ViewSet]:
    """Views of several objects. Without candidates every UNet pass runs over all objects; with them one object follows the
    other, and a pass runs over as many of its candidates as fit into memory.

    Args:
        prompts, seeds: one of each for every object; seeds 0 to 2^64 - 1. Candidates have seeds of their own, the first one's
            is the one given; `ViewSet.seed` is the winner's, and given without candidates it makes the same views.
        focuses: one an object, None for the prompt's subjects at weight 1 (`Focus.of_subjects`).
        refocus: attention refocusing, "auto" as the model's recipe has it; None samples plainly. Attention maps are recorded
            either way.
        negative_prompt: shared by the objects; "" is MVDream's.
        steps, guidance_scale, guidance_rescale, sampler: see `SamplingConfig`; None takes the model's recipe.
        cameras: shared by the objects, one a view; None takes the orbit that the model was trained for.
        candidates, verdict: None takes the model's recipe.
        progress: called every step with a preview of x0, `[B*H, V*W, 3]`: one row of views an object or candidate.
        on_report: called every step and object with its words' presence and maps, once candidates have been compared. Like
            `progress` it may raise to cancel.
        on_candidates: called with an object's candidates once they are compared, and with the index of the one that goes on;
            again where a next best one is finished.

    Raises:
        ValueError: for an empty prompt, a prompt that the model cannot read, a focus word that is not in the prompt, a bad
            seed or setting.
    """
    if not prompts or len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts came with {len(seeds)} seeds: give one seed for each prompt")
    refuse_request(prompts, seeds)
    cameras = model.default_cameras() if cameras is None else cameras
    if len(cameras) == 0:
        raise ValueError("no cameras: give one for each view")
    given = {"steps": steps, "guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale, "sampler": sampler}
    sampling = replace(model.recipe.sampling, **{name: value for name, value in given.items() if value is not None})
    refocus = model.recipe.refocus if refocus == "auto" else refocus
    candidates = model.recipe.candidates if candidates is None else candidates
    embeddings = [encode_prompt(model, prompt) for prompt in prompts]
    focuses = [_located(focus, e) for focus, e in zip(focuses or [None] * len(prompts), embeddings, strict=True)]
    attention = _has_maps(model, refocus or model.recipe.refocus)
    request = Request(
        model=model,
        sampling=sampling,
        refocus=refocus if attention else None,
        verdict=model.recipe.verdict if verdict is None else verdict,
        attention=attention,
        negative_prompt=negative_prompt,
        negative=encode_prompt(model, negative_prompt, suffix=False).embeddings,
        cameras=cameras,
        conditioning=cameras.conditioning().to(model.device, model.dtype),
        early=steps_of(candidates.share, sampling.steps),
    )
    tell = _Telling(request, progress, on_report)
    if candidates.count == 1 and candidates.retries == 0:
        tell.begin(sampling.steps)
        return _finished(Batch(request, embeddings, seeds, focuses), tell).views()
    made = []
    for prompt, seed, focus in zip(embeddings, seeds, focuses, strict=True):
        made.append(_best(request, prompt, seed, focus, candidates, tell, on_candidates))
    return made


def _best(
    request: Request,
    prompt: PromptEmbedding,
    seed: int,
    focus: Focus,
    config: CandidateConfig,
    tell: _Telling,
    on_candidates: Callable[[list[Candidate], int | None], None] | None,
) -> ViewSet:
    """The views of one object, from the candidate that the early verdict, or after retries the final one, finds best. Retries
    finish the next best candidates, and then starts that nobody has tried."""
    seeds = candidate_seeds(seed, config.count + config.retries)
    if not request.verdict.timesteps or not noun_phrases(prompt.text):
        log.warning("candidates rest: '%s' names no subject by which they could be compared", prompt.text)
        seeds = seeds[:1]
    tried, fresh = seeds[: config.count], seeds[config.count :]
    at_once = _at_once(request, len(tried))
    steps = request.sampling.steps
    runs = []
    if len(tried) > 1:
        tell.begin(-(-len(tried) // at_once) * request.early + steps - request.early)
    for start in range(0, len(tried) if len(tried) > 1 else 0, at_once):
        chunk = tried[start : start + at_once]
        batch = Batch(request, [prompt] * len(chunk), chunk, [focus] * len(chunk))
        batch.go(request.early, tell.quietly)
        batch.look()
        runs += [batch.of(i) for i in range(len(chunk))]
    candidates = [Candidate(run.seeds[0], of_all(run.early[0]), run.early[0], tell.preview(run.x0)) for run in runs]
    order = sorted(range(len(runs)), key=lambda i: -candidates[i].score)
    best, finished = None, []
    for attempt in range(1 + (config.retries if len(seeds) > 1 else 0)):
        if attempt < len(order):
            run = runs[order[attempt]]
            if on_candidates is not None:
                on_candidates(candidates, order[attempt])
        else:
            run = Batch(request, [prompt], [[*tried, *fresh][attempt]], [focus])
        if attempt or len(tried) == 1:
            tell.begin(steps - run.step)
        (views,) = _finished(run, tell).views()
        finished.append(views.seed)
        if best is None or of_all(views.verdicts) > of_all(best.verdicts):
            best = views
        if not any(verdict.word == MISSING for verdict in views.verdicts):
            break
    best.provenance["candidates"] = {
        "share": config.share,
        "finished": finished,
        "tried": [
            {"seed": c.seed, "score": c.score, "verdicts": [v.to_plain() for v in c.verdicts]} for c in candidates
        ],
    }
    return best


def _finished(batch: Batch, tell: _Telling) -> Batch:
    """All steps of `batch`; where refocusing waits for doubt it is looked for on the way."""
    if batch.step < batch.request.early and batch.request.refocus is not None and batch.request.refocus.when == "doubtful":
        batch.go(batch.request.early, tell)
        batch.look()
    batch.go(None, tell)
    return batch


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of an object's candidates, its own first."""
    return [(seed + k * NEXT_CANDIDATE) % (MAX_SEED + 1) for k in range(count)]


def _at_once(request: Request, wanted: int) -> int:
    """How many candidates fit into the free memory together, at least one."""
    free = USABLE_SHARE * free_memory(request.model.device)
    guidance, refocus = request.sampling.guidance_scale > 1, request.refocus
    for count in range(wanted, 1, -1):
        sizes = {"num_objects": count, "num_views": request.num_views, "guidance": guidance, "refocus": refocus}
        if memory.sampling(request.model, **sizes).added <= free:
            return count
    return 1


def _has_maps(model: MVDream, config: RefocusConfig) -> bool:
    try:
        cross_attention_layers(model.unet, config.downscale, config.layers)
    except ValueError as error:
        log.warning("%s. Views are made without heat maps, refocusing and calibrated verdicts", error)
        return False
    return True


class _Telling:
    """Tells a run's callers of every step, whichever batch takes it."""

    def __init__(self, request: Request, progress: Progress | None, on_report: Callable[[StepReport], None] | None):
        self.request, self.progress, self.on_report = request, progress, on_report
        self.done = self.total = 0

    def begin(self, steps: int) -> None:
        """So many more steps are to come."""
        self.total += steps

    def preview(self, x0: Tensor) -> Tensor:
        return latent_preview(self.request.model, x0, self.request.num_views)

    def quietly(self, batch: Batch, x0: Tensor, maps: Tensor | None) -> None:
        """A step of candidates: no words are reported."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, self.preview(x0))

    def __call__(self, batch: Batch, x0: Tensor, maps: Tensor | None) -> None:
        step, record = batch.step, batch.record
        if self.on_report is not None and maps is not None:
            threshold = batch.refocuser.thresholds.get(step - 1) if batch.refocuser is not None else None
            for i, (presence, attention) in enumerate(zip(record.presence(maps), record.attention(maps), strict=True)):
                self.on_report(StepReport(i, step, self.request.sampling.steps, presence, threshold, attention))
        self.quietly(batch, x0, maps)


def refuse_request(prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """ValueError for an empty prompt or a seed out of range; needs no model."""
    for prompt in prompts:
        if not prompt.strip():
            raise ValueError("the prompt is empty: say what to make, for example 'a red cube and a blue sphere'")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed must be between 0 and {MAX_SEED}, got {seed}")


def _located(focus: Focus | None, prompt: PromptEmbedding) -> Focus:
    focus = Focus.of_subjects(prompt.text) if focus is None else focus
    return focus.locate(prompt.text, prompt.words, prompt.end_token)
