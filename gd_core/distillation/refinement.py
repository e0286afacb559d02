"""`refine`: hybrid refinement of a fitted field by multi-view score distillation and the reference views."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..attention.refocus import frozen
from ..devices import release_memory
from ..diffusion.model import MVDream
from ..files import fingerprint
from ..nerf.field import RadianceField
from ..nerf.fit import make_optimizer
from ..nerf.match import match_with_views
from ..settings.refine import RefineConfig
from ..views import USEFUL_PIXELS, Progress, ViewSet
from .checkpoint import RefineState, Snapshot, load_state, save_state
from .guidance import Guidance, image_guidance, multiview_guidance
from .memory import choose_preset, is_out_of_memory, offloaded, preset_named, smaller_preset
from .objective import HybridObjective, reference_rays

if TYPE_CHECKING:  # its import brings in every image processor of transformers
    from diffusers import StableDiffusionPipeline

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 10.0
OCCUPANCY_EVERY = 16  # nerfacc's and MVDream-threestudio's interval
VISIBLE_PSNR = 30.0  # decibels of reference PSNR; what a fit has above is not seen, so the guard does not hold it
MIN_MASK_IOU = 0.5  # of a field's own views; views that disagree still leave 0.7


class TermNotFinite(ArithmeticError):
    """A term of the loss, or its gradient, is NaN or infinite."""


def refine(
    field: RadianceField,
    views: ViewSet,
    model: MVDream | StableDiffusionPipeline,
    config: RefineConfig | None = None,
    progress: Progress | None = None,
    resume: str | Path | None = None,
) -> RadianceField:
    """Refine a copy of `field`, on the model's device.

    What comes back is as good as new on the reference views, to `config.max_psnr_drop` decibels.

    Args:
        field: fitted to `views`; left as it is.
        views: the reference views, with the prompt that they show.
        model: the multi-view model that judges novel views, or a Stable Diffusion pipeline for 2D guidance.
        config: None takes the model's recipe; that of the views where the model has none.
        progress: called after each step with a render; may raise to cancel.
        resume: checkpoint file. It is written every 10 seconds and when `progress` raises; where it exists, the run goes on
            from it as if it had not stopped: bit for bit on a CPU, on CUDA to rounding. It stays at the end: whoever has saved
            the result removes it.

    Returns:
        The state with the best held-back score among those that held the guard; the last state if `reference_weight` is 0. Its
        `provenance["refine"]` holds settings, evaluations and events (weight halved, preset lowered, a term not finite).

    Raises:
        ValueError: the field does not show the views' scene, the model reads no cameras, the views have no prompt, or the
            checkpoint belongs to another run.
        MemoryError: not even the smallest memory preset fits.
    """
    checkpoint = None if resume is None else Path(resume)
    if config is None:
        config = (model if isinstance(model, MVDream) else views).recipe.refine
    with ExitStack() as stack:
        check = partial(progress, 0, config.steps, None) if progress is not None else lambda: None
        run = Refinement(field, views.at_most(USEFUL_PIXELS), model, config, checkpoint, stack, check)
        while run.state.step < config.steps and not run.stopped:
            preview = run.step()
            if progress is not None:
                run.report(progress, preview)
    return run.finish()


def make_guidance(model: MVDream | StableDiffusionPipeline, views: ViewSet, config: RefineConfig) -> Guidance:
    """The judge that `config` asks for, bound to the prompt of `views` and to what they were to keep away from."""
    if not views.prompt.strip():
        raise ValueError("the views carry no prompt, which refinement is guided by: give them the text that they show")
    whose, negative = "the refinement's own", config.negative_prompt
    if negative is None:
        whose, negative = "the views'", views.negative_prompt.strip()
    if not negative and config.negative_prompt is None:
        whose, negative = "MVDream's", None
    if isinstance(model, MVDream):
        views_judged = 4 if config.multi_view else 1
        guidance = multiview_guidance(model, views.prompt, negative, suffix=config.suffix, num_views=views_judged)
    else:
        guidance = image_guidance(model, views.prompt, negative or "")
    if guidance.negative_prompt:
        logger.info("refinement keeps away from %s negative prompt: %s", whose, guidance.negative_prompt)
    else:
        logger.info("refinement has no negative prompt")
    return guidance


class Refinement:
    """One run of `refine`: the field in work, its optimiser, and the state to go back to or on from."""

    def __init__(
        self,
        field: RadianceField,
        views: ViewSet,
        model: MVDream | StableDiffusionPipeline,
        config: RefineConfig,
        checkpoint: Path | None,
        stack: ExitStack,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called as often as the preparation can stop, and may raise."""
        guidance = make_guidance(model, views, config)
        stack.enter_context(frozen(guidance.vae))
        self.model, self.views, self.config, self.checkpoint, self.stack = model, views, config, checkpoint, stack
        self.field = field.copy_to(model.unet.device)
        self.objective = HybridObjective(config, guidance, reference_rays(views, self.field.device), views)
        self.optimizer = make_optimizer(self.field)
        self.base_lr = config.shape_lr, config.grid_lr, config.mlp_lr, config.mlp_lr
        self.generator = torch.Generator().manual_seed(config.seed)
        contexts = guidance.context, guidance.negative_context
        judge = model.config, [weight.flatten()[:8] for weight in model.unet.parameters()]  # all of it would take seconds
        self.inputs = fingerprint(field, views, *contexts, *judge, replace(config, preset="auto"))
        self.stopped = False
        self.started = self.saved = time.monotonic()
        if checkpoint is not None and checkpoint.exists():
            self.state = load_state(checkpoint, self.inputs)
            self._use_preset(self.state.preset)
            self._restore(self.state.now)
            self.generator.set_state(self.state.generator)
            logger.info("refinement goes on at step %d of %d from %s", self.state.step, config.steps, checkpoint)
        else:
            preset = choose_preset(self.field, self.objective.reference, guidance, config)
            self._use_preset(preset.name)
            self.state = self._initial_state(preset.name, check)

    def _initial_state(self, preset: str, check: Callable[[], None]) -> RefineState:
        """Before the first step; the evaluation of the field that came in may already go down a preset."""
        now, best = Snapshot.of(self.field, self.optimizer), Snapshot.of(self.field)
        self.state = RefineState(0, self.generator.get_state(), now, now, best, math.nan, math.nan, preset)
        psnr, iou, score = self._within_memory(partial(self._scores, check))
        if self.config.reference_weight > 0 and iou < MIN_MASK_IOU:
            raise ValueError(
                f"the field does not show the scene of the views: its outline overlaps theirs by {100 * iou:.0f} % only. Give "
                "the field that was fitted to these views"
            )
        history = [{"step": 0, "reference_psnr": psnr, "held_back_score": score}]
        return replace(self.state, baseline_psnr=psnr, best_score=score, history=history)

    def _scores(self, check: Callable[[], None] = lambda: None) -> tuple[float, float, float]:
        """Reference PSNR in decibels, mask IoU, and the held-back score of the field as it is."""
        match = match_with_views(self.field, self.views, rays_per_chunk=self.objective.rays_per_chunk, check=check)
        check()
        return match.psnr, match.mask_iou, self.objective.held_back_score(self.field)

    def _use_preset(self, name: str) -> None:
        preset = preset_named(name)
        self.objective.rays_per_chunk = preset.rays_per_chunk
        self.objective.max_image_size = preset.max_image_size
        self.objective.guidance.checkpointing = preset.checkpointing
        if preset.offload:
            self.stack.enter_context(offloaded(self.model))

    def _restore(self, snapshot: Snapshot) -> None:
        snapshot.restore(self.field, self.optimizer)

    def step(self) -> Tensor | None:
        """One optimiser step and what is due after it; returns a preview `[s, s, 3]` or None."""
        state = self.state
        share = state.step / self.config.steps
        before = self.generator.get_state()
        try:
            preview = self._within_memory(lambda: self._optimize(share))
        except TermNotFinite as error:
            self._restore(state.good)
            self._event(f"stopped at step {state.step + 1}: {error}; the last good state was restored")
            self.stopped = True
            return None
        except BaseException:  # cancelled in the middle: the field is still what it was before the step
            self.generator.set_state(before)
            if self.checkpoint is not None:
                self.save()
            raise
        state.step += 1
        if state.step % OCCUPANCY_EVERY == 0:
            self.field.update_occupancy(self.generator)
        if state.step % self.config.evaluate_every == 0 or state.step == self.config.steps:
            self._evaluate()
        if self.checkpoint is not None and time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.save()
        return preview

    def _optimize(self, share: float) -> Tensor | None:
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * 0.1**share
        sds_weight = self.config.sds_weight.at(share) * self.state.sds_scale
        # The backward pass is within, too: it renders chunks a second time, and must find the shape as it was.
        with self.field.shape.kept():
            terms, preview = self.objective.terms(self.field, share, sds_weight, self.generator)
            if not terms:  # no references, and the SDS ramp still at 0
                return None
            for name, value in zip(terms, torch.stack(list(terms.values())).tolist(), strict=True):
                if not math.isfinite(value):
                    raise TermNotFinite(f"the {name} loss is {value}")
            self.optimizer.zero_grad(set_to_none=True)
            sum(terms.values()).backward()
            gradients = [p.grad for p in self.field.parameters() if p.grad is not None]
            if not math.isfinite(float(torch.stack(torch._foreach_norm(gradients)).sum())):
                raise TermNotFinite(f"the gradient of {' + '.join(terms)} is not finite")
        self.optimizer.step()
        return preview

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        """What `work` returns; whenever the memory does not reach it goes down a preset and begins again."""
        before = self.generator.get_state()
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._lower_preset(error)
            # Only here, behind the exception, are the tensors of the failed attempt let go.
            self.optimizer.zero_grad(set_to_none=True)
            release_memory(self.field.device)
            self.generator.set_state(before)

    def _lower_preset(self, error: RuntimeError) -> None:
        smaller = smaller_preset(preset_named(self.state.preset))
        if smaller is None:
            raise MemoryError(
                f"refinement ran out of memory at step {self.state.step + 1} even with the {self.state.preset} preset: close "
                "other programs that use the device, or refine on the CPU"
            ) from error
        self._event(f"out of memory at step {self.state.step + 1}: went down from preset {self.state.preset} to {smaller.name}")
        self.state.preset = smaller.name
        self._use_preset(smaller.name)

    def _evaluate(self) -> None:
        """Hold the guard, and keep the state if it is the best so far."""
        state = self.state
        psnr, _, score = self._within_memory(self._scores)
        state.history.append({"step": state.step, "reference_psnr": psnr, "held_back_score": score})
        if self.config.reference_weight == 0:  # nothing to hold on to: the model has the last word
            state.good, state.best = Snapshot.of(self.field, self.optimizer), Snapshot.of(self.field)
            state.best_score, state.best_step = score, state.step
            return
        if not psnr >= min(state.baseline_psnr, VISIBLE_PSNR) - self.config.max_psnr_drop:
            self._restore(state.good)
            state.sds_scale /= 2
            self._event(
                f"reference PSNR fell from {state.baseline_psnr:.2f} to {psnr:.2f} dB at step {state.step}: the last good "
                f"state was restored and the SDS weight cut to {state.sds_scale:g} of its ramp"
            )
            return
        state.good = Snapshot.of(self.field, self.optimizer)
        if score > state.best_score:
            state.best, state.best_score, state.best_step = Snapshot.of(self.field), score, state.step

    def _event(self, words: str) -> None:
        logger.warning("refinement: %s", words)
        self.state.events.append(words)

    def report(self, progress: Progress, preview: Tensor | None) -> None:
        """Tell `progress`; when it cancels, leave a checkpoint."""
        try:
            progress(self.state.step, self.config.steps, preview)
        except BaseException:
            if self.checkpoint is not None:
                self.save()
            raise

    def save(self) -> None:
        """Write the state; where that cannot be, a warning: the refinement is worth more than its checkpoint."""
        self.state.now = Snapshot.of(self.field, self.optimizer)
        self.state.generator = self.generator.get_state()
        try:
            save_state(self.checkpoint, self.state, self.inputs)
        except OSError as error:
            where = self.checkpoint
            logger.warning("no checkpoint can be written to %s (%s): an interrupted refinement starts over", where, error)
        self.saved = time.monotonic()

    def finish(self) -> RadianceField:
        """The best field, with its provenance."""
        if self.checkpoint is not None:
            self.save()
        state = self.state
        state.best.restore(self.field)
        self.field.provenance = {
            **self.field.provenance,
            "refine": {
                "config": asdict(self.config),
                "negative_prompt": self.objective.guidance.negative_prompt,
                "preset": state.preset,
                "best_step": state.best_step,
                "history": state.history,
                "events": state.events,
            },
        }
        self.optimizer.zero_grad(set_to_none=True)
        return self.field
