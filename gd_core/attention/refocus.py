"""Refocusing: update the latents before a denoising step so that no focus word stays neglected.

Attend-and-Excite's loop (Chefer et al. 2301.13826, algorithm 1) over the four views of each object: a conditional pass with
gradients, ended behind the last captured layer, then z <- z - step * dloss/dz, some steps repeating it until a threshold is
met. Where the published loop updates once more after the threshold was met, this one does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from .capture import AttentionCapture
from .focus import Focus
from .objectives import RefocusConfig, can_be_neglected, refocus_loss

log = logging.getLogger(__name__)

GUARD_LIMIT = 1.0  # no value moves further within one step than so many standard deviations of its noise
GUARD_NORM = 0.02  # the latents' norm may drift by this share within one step
FP16_LOSS_SCALE = 1024.0  # keeps the latents' gradient above fp16's smallest numbers on its way through the UNet


@dataclass
class RefocusReport:
    """What refocusing did to one object.

    Attributes:
        losses: of each step that was altered, before its first update.
        updates: of each such step, refinements included.
        guarded: how many updates the out-of-distribution guard clipped or rescaled.
        stopped: why refocusing ended early, or "".
    """

    losses: list[float] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    guarded: int = 0
    stopped: str = ""


class Refocuser:
    """Updates the latents of B objects; an `Adjust` of the denoising loop.

    Args:
        unet: the model that `predict` runs.
        predict: `predict(latents, timestep)`, a conditional pass over all B*V latents, whatever it returns.
        focuses: one located focus for each object.
        num_views: V.
        steps: of the whole sampling run.
        first: the first step that may be altered.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        predict: Callable[[Tensor, Tensor], object],
        focuses: Sequence[Focus],
        config: RefocusConfig,
        *,
        num_views: int,
        steps: int,
        first: int = 0,
    ):
        self.unet, self.predict, self.focuses, self.config = unet, predict, focuses, config
        self.num_views = num_views
        self.reports = [RefocusReport() for _ in focuses]
        self.num_altered, self.first = refocused_steps(config, steps), first
        decay = torch.linspace(1, config.decay, steps).sqrt()
        if config.normalise:
            decay = decay / decay[first : max(self.num_altered, first + 1)].sum()
        self.step_sizes = (config.step_size * decay).tolist()
        self.thresholds = {int(place * steps): presence for place, presence in config.thresholds}
        for focus, report in zip(focuses, self.reports, strict=True):
            if not focus.active:
                report.stopped = "no focus word has a weight above 0"
            elif not can_be_neglected(focus, config):
                report.stopped = "the focus words have no other subject to stand out against"

    def rest(self, index: int, why: str) -> None:
        """Leave the `index`-th object alone from now on."""
        self.reports[index].stopped = self.reports[index].stopped or why

    def __call__(self, step: int, latents: Float[Tensor, "BV 4 h w"], timestep: Tensor, alpha: float) -> Tensor:
        if not self.first <= step < self.num_altered or not any(self._running()):
            return latents
        start = latents.float()
        updated = start
        losses, gradient = self._loss_and_gradient(updated, timestep)
        for report, loss in zip(self.reports, losses, strict=True):
            if not report.stopped:
                report.losses.append(loss)
                report.updates.append(0)
        if step in self.thresholds:
            for _ in range(self.config.max_refinements):
                lacking = [loss > 1 - self.thresholds[step] for loss in losses]
                if not any(on and short for on, short in zip(self._running(), lacking, strict=True)):
                    break
                updated = self._update(start, updated, gradient, losses, step, alpha, lacking)
                losses, gradient = self._loss_and_gradient(updated, timestep)
        updated = self._update(start, updated, gradient, losses, step, alpha, [True] * len(losses))
        return updated.to(latents.dtype)

    def _running(self) -> list[bool]:
        return [not report.stopped for report in self.reports]

    def _loss_and_gradient(self, latents: Tensor, timestep: Tensor) -> tuple[list[float], Tensor]:
        """Each object's loss, and dloss/dlatents in fp32. Objects do not interact, so the sum's gradient is each one's own."""
        scale = FP16_LOSS_SCALE if self.unet.dtype == torch.float16 else 1.0
        num_tokens = max(focus.end_token for focus in self.focuses)
        leaf = latents.detach().requires_grad_(True)
        capture = AttentionCapture(
            self.unet,
            downscale=self.config.downscale,
            layers=self.config.layers,
            num_tokens=num_tokens,
            stop=True,
            checkpointing=self.config.checkpointing,
        )
        with torch.enable_grad(), frozen(self.unet), capture:
            capture.run(self.predict, leaf.to(self.unet.dtype), timestep)
            capture.close()
            maps = capture.take(*latents.shape[-2:]).unflatten(0, (-1, self.num_views))
            losses = torch.stack([refocus_loss(m, f, self.config) for m, f in zip(maps, self.focuses, strict=True)])
            (gradient,) = torch.autograd.grad(losses.sum() * scale, leaf)
        gradient = gradient.unflatten(0, (-1, self.num_views)) / scale
        for report, loss, of_object in zip(self.reports, losses.detach(), gradient, strict=True):
            if not report.stopped and not (torch.isfinite(loss) and torch.isfinite(of_object).all()):
                report.stopped = "the loss or its gradient was not finite"
                log.warning("attention refocusing stopped for an object: %s; sampling goes on without it", report.stopped)
        return losses.tolist(), gradient

    def _update(
        self,
        start: Tensor,
        latents: Tensor,
        gradient: Float[Tensor, "B V 4 h w"],
        losses: list[float],
        step: int,
        alpha: float,
        wanted: list[bool],
    ) -> Tensor:
        """z - step * gradient for the objects that want it, each kept in distribution by the guard."""
        objects = list(latents.unflatten(0, (-1, self.num_views)))
        starts = start.unflatten(0, (-1, self.num_views))
        for i, report in enumerate(self.reports):
            if report.stopped or not wanted[i] or losses[i] == 0:
                continue
            change = -self.step_sizes[step] * gradient[i]
            if self.config.normalise:
                change = change / gradient[i].square().mean().sqrt().clamp(min=1e-12) * losses[i] * (1 - alpha) ** 0.5
            updated = objects[i] + change
            if self.config.guard:
                updated, acted = guard(starts[i], updated, (1 - alpha) ** 0.5)
                report.guarded += acted
            objects[i] = updated
            report.updates[-1] += 1
        return torch.cat(objects)


def refocused_steps(config: RefocusConfig, steps: int) -> int:
    """How many of the first steps are altered: at least one for any share above 0."""
    return max(1, round(config.share * steps)) if config.share > 0 and config.step_size > 0 else 0


def guard(start: Tensor, latents: Tensor, noise_level: float) -> tuple[Tensor, bool]:
    """Keep an object's latents in the model's distribution: no value further from `start` than the noise is wide, and the norm
    near that of `start`.

    Returns:
        the latents, and whether the guard had to act.
    """
    limit = GUARD_LIMIT * noise_level
    clipped = start + (latents - start).clamp(-limit, limit)
    ratio = clipped.norm() / start.norm()
    within = ratio.clamp(1 - GUARD_NORM, 1 + GUARD_NORM)
    # The clipping is judged by the change, not by equality: start + (z - start) is z up to rounding only.
    return clipped * (within / ratio), bool((ratio != within) | ((latents - start).abs() > limit).any())


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient meanwhile: autograd then keeps and computes only what the input's gradient needs."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
