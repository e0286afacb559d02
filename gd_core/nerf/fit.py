"""Sparse-view fit: a handful of views in, a field out.

    L = |C - C_view|^2 + w_mask |A - M|^2 + w_bend |d''(x)|^2 + w_under U + w_apart B
        + w_smooth(t) |a(x) - a(x + e)| + w_var |dF|^2

over rays that cross the visual hull, before random backgrounds; over the grid of the signed distance d; over the volume U
behind surfaces that face down and no view, and B between subjects; over points x of the hull, a their albedo; and over
neighbouring texels of its encoding F. A distance that is costly to bend joins what the views show by smooth surfaces. Albedo
must vary slowly, at first above all, so that it cannot paint each view's pixels, or light and shade, on a bloated shape, and
the shape gives way. The surface starts soft inside the hull that the masks carve, and hardens; then light that stays where it
is shades it by its normals. docs/nerf.md has the measurements.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..devices import free_memory, resolve_device
from ..files import fingerprint
from ..settings.fit import FitConfig as FitConfig
from ..views import USEFUL_PIXELS, Progress, ViewSet
from .apart import between
from .checkpoint import read_checkpoint, write_checkpoint
from .evidence import gather_evidence
from .field import RadianceField, RayOutput
from .labels import label_from_views
from .paint import paint_field
from .quality import resolve, undetailed
from .threads import fitting_threads

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 20.0
PREVIEW_SECONDS = 3.0
PREVIEW_SIZE = 96
ESTIMATE_STEPS = 20  # steps after which the time left is told
SMOOTH_UNTIL = 0.7  # share of the fit at which the weight of albedo smoothness has fallen as far as it does
SMOOTH_LEFT = 0.2  # of that weight stays, so that what no view sees takes the colour of what is near it
SMOOTH_POINTS = 2048  # a step
UNDERSIDE_EVERY = 4  # steps, and what is between subjects: they change slowly, and take a tenth of a step's time
HARD_AT = 0.7  # share of the fit at which the surface is as hard as it gets
LIT_AFTER = 0.4  # share of the fit before which light falls evenly; on fog it would explain away what views disagree on
DETAIL_AFTER = 0.6  # share of the fit at which a shape finer than its pyramid gets its shell: the surface stands by then
STAGED = max(HARD_AT, LIT_AFTER, DETAIL_AFTER)  # share of the fit before which it does not stop: stages are to come
STRATA_SOFT = 0.5  # strata that a surface is at least soft: one that is harder falls between samples
LR_DECAY = 0.1  # of all learning rates over the whole fit


def fit_views(
    views: ViewSet,
    config: FitConfig | None = None,
    progress: Progress | None = None,
    resume: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
) -> RadianceField:
    """Fit a radiance field to the images and masks of `views`: any number, any cameras around the box.

    Args:
        views: larger ones than `USEFUL_PIXELS` are scaled down. Masks are soft evidence; views that disagree cost detail, not
            the subject. Views with an empty mask are left out.
        config: None takes the recipe that the views carry.
        progress: called while the fit prepares, and after each step, every few seconds with a preview, and at the end, while
            the views' pixels are painted on, again with the last step's number. With a budget in seconds, `total` is an
            estimate.
        resume: a checkpoint file. If it exists, the fit goes on from it as if it had not stopped: bit for bit on a CPU with as
            many threads; on CUDA to rounding, since torch does not repeat some sums there. State is kept there every 20
            seconds, at the end, and when `progress` cancels. None keeps none.
        device: where to fit, and where the field stays; see `devices.resolve_device`.

    Returns:
        the field, its `provenance["fit"]` telling the settings, the steps done, the seconds and the held-back error.

    Raises:
        ValueError: the masks are empty, the cameras do not look at the box, or `resume` belongs to another fit.
    """
    device = resolve_device(device)
    config = views.recipe.fit if config is None else config
    usable = views.at_most(USEFUL_PIXELS)
    if usable is not views:
        sizes = views.width, views.height, usable.width, usable.height
        logger.warning("the views of %d x %d pixels are fitted at %d x %d: more is of no use", *sizes)
    check = partial(progress, 0, config.steps, None) if progress is not None else lambda: None
    with fitting_threads(device) as watch:
        fit = SparseViewFit(usable, config, device, check)
        field = _fit_views(fit, progress, None if resume is None else Path(resume), watch)
    field.recipe = views.recipe
    label_from_views(field, views)
    return field


def _fit_views(
    fit: SparseViewFit, progress: Progress | None, checkpoint: Path | None, watch: AbstractContextManager
) -> RadianceField:
    if checkpoint is not None and checkpoint.exists():
        fit.load(checkpoint)
        logger.info("NeRF fit goes on at step %d from %s", fit.steps_done, checkpoint)
    started = time.monotonic() - fit.elapsed
    saved = shown = time.monotonic()
    first_step = fit.steps_done
    while not fit.done:
        with watch:
            fit.step(time.monotonic() - started)
        if fit.steps_done - first_step == ESTIMATE_STEPS:
            logger.info("NeRF fit of %d steps: about %.0f s left", fit.steps_total, fit.seconds_left)
        now = time.monotonic()
        preview = None
        if progress is not None and now - shown > PREVIEW_SECONDS:
            preview, shown = fit.preview(), time.monotonic()
        if checkpoint is not None and (fit.done or now - saved > CHECKPOINT_SECONDS):
            fit.save(checkpoint)
            saved = time.monotonic()
        if progress is not None:
            try:
                progress(fit.steps_done, fit.steps_total, preview)
            except BaseException:
                if checkpoint is not None:
                    fit.save(checkpoint)
                raise
    fit.finish(lambda: progress and progress(fit.steps_done, fit.steps_total, None))
    logger.info("NeRF fit: %d steps in %.0f s, held-back error %.5f", fit.steps_done, fit.elapsed, fit.best_error)
    fit.field.provenance = {"fit": fit.report()}
    return fit.field


class SparseViewFit:
    """A fit in progress: a field, its optimiser, and the evidence that they work on.

    Attributes:
        field: the field so far. steps_done: optimiser steps so far. elapsed: seconds of fitting so far.
        share: of the budget that is used, 0..1.
        num_samples, num_seen: of all steps so far, and how many of them had a colour to tell.
    """

    def __init__(
        self, views: ViewSet, config: FitConfig, device: torch.device, check: Callable[[], None] = lambda: None
    ) -> None:
        """`check` is called as often as the preparation can stop, and may raise."""
        self.config = resolve(config, views, free_memory(device))
        self.inputs = fingerprint(views, sorted(views.attention.items()), self.config)
        views = views.to(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.field = RadianceField(undetailed(self.config.field), device, config.seed)
        self.evidence = gather_evidence(views, self.field.occupancy, self.field.config.step, self.generator, check)
        self.field.shape.start_from(self.evidence.parts)
        parts = self.evidence.parts
        self.between = between(self.field.occupancy.hull, parts) if len(parts) > 1 else None
        self.hull_cells = self.field.occupancy.hull.nonzero()
        self.preview_camera = views.cameras[0]
        self.towards_views = torch.nn.functional.normalize(views.cameras.positions, dim=-1).to(device)
        self.steps_done, self.elapsed, self.share = 0, 0.0, 0.0
        self.num_samples = self.num_seen = 0
        self.best_error, self.checks_without_progress = float("inf"), 0
        self._set_resolution(config.coarse[0][1])

    def _set_resolution(self, share_of_final: float) -> None:
        """Bring the planes to their resolution; the optimiser starts anew, its moments being those of other texels."""
        self.field.resize_encoding(round(self.config.field.encoding.resolution * share_of_final))
        self.optimizer = make_optimizer(self.field)

    def _add_detail(self) -> None:
        self.field.add_detail(self.config.field)
        self.hull_cells = self.field.occupancy.hull.nonzero()
        self.optimizer = make_optimizer(self.field)

    @property
    def rays_per_step(self) -> int:
        """More as strata get finer, since each ray then tells of a smaller part of the surface."""
        finer = self.config.field.step / self.field.config.step
        shape = self.config.field.shape
        return round(self.config.rays_per_step * max(1.0, shape.detail / shape.resolutions[-1] * finer))

    @property
    def done(self) -> bool:
        return self.share >= 1

    @property
    def steps_total(self) -> int:
        """Steps of the whole fit; an estimate if the budget is in seconds."""
        if self.config.seconds is None and not self.done:
            return self.config.steps
        return max(round(self.steps_done / min(max(self.share, 1e-3), 1)), self.steps_done)

    @property
    def seconds_left(self) -> float:
        return self.elapsed * (1 / max(self.share, 1e-6) - 1)

    @torch.enable_grad()
    def step(self, elapsed: float) -> None:
        """One optimiser step; `elapsed` is the seconds that the fit has taken when it begins."""
        config, evidence = self.config, self.evidence
        light_lr = config.light_lr if self.share >= LIT_AFTER else 0.0
        rates = config.shape_lr, config.grid_lr, config.mlp_lr, light_lr
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * LR_DECAY**self.share
        soft, hard = config.softness
        softness = soft * (hard / soft) ** min(1.0, self.share / HARD_AT)
        self.field.shape.softness.fill_(max(softness, STRATA_SOFT * self.field.config.step))
        drawn = torch.randint(len(evidence.training), (self.rays_per_step,), generator=self.generator)
        rays = evidence.training[drawn.to(self.field.device)]
        background = torch.rand(len(rays), 3, generator=self.generator).to(self.field.device)
        with self.field.shape.kept():
            out, loss = self._loss(rays, background, self.generator)
            loss = loss + config.bending * self.field.shape.bending()
            if config.underside > 0 and self.steps_done % UNDERSIDE_EVERY == 0:
                loss = loss + UNDERSIDE_EVERY * config.underside * self.field.shape.hidden_underside(self.towards_views)
            if self.between is not None and config.apart > 0 and self.steps_done % UNDERSIDE_EVERY == 0:
                loss = loss + UNDERSIDE_EVERY * config.apart * self.field.shape.filled_share(self.between)
        self.num_samples += len(out.weights)
        self.num_seen += len(out.seen)
        smooth = config.color_smoothness * max(SMOOTH_LEFT, 1 - self.share / SMOOTH_UNTIL)
        if smooth > 0:
            loss = loss + smooth * self._color_variation()
        if config.plane_variation > 0 and config.field.encoding.kind == "vm":
            loss = loss + config.plane_variation * self.field.encoding.variation()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps_done += 1
        self.elapsed = elapsed
        before, self.share = self.share, elapsed / config.seconds if config.seconds else self.steps_done / config.steps
        for milestone, share_of_final in config.coarse:
            if before < milestone <= self.share:
                self._set_resolution(share_of_final)
        if config.field.shape.detail and before < DETAIL_AFTER <= self.share:
            self._add_detail()
        if self.steps_done >= config.prune_after and self.steps_done % config.prune_every == 0:
            self.field.update_occupancy(self.generator)
        if config.patience and self.share >= STAGED and self.steps_done % config.check_every == 0:
            self._check_held_back()

    def _loss(self, rays: Tensor, background: Tensor, generator: torch.Generator | None) -> tuple[RayOutput, Tensor]:
        evidence = self.evidence
        out = self.field.render_rays(
            evidence.origins[rays],
            evidence.directions[rays],
            background,
            generator,
            span=(evidence.near[rays], evidence.far[rays]),
        )
        mask, weight = evidence.mask[rays], evidence.weight[rays]
        color_error = (out.rgb - evidence.color[rays] - (1 - mask[:, None]) * background).square().mean(1)
        mask_error = (out.alpha - mask).square()
        return out, (weight * (color_error + self.config.mask_weight * mask_error)).mean()

    def _color_variation(self) -> Tensor:
        """Mean absolute difference of the albedo between random points of the hull and neighbours some stratum away."""
        shape, device = (SMOOTH_POINTS, 3), self.field.device
        drawn = torch.randint(len(self.hull_cells), shape[:1], generator=self.generator).to(device)
        jitter = torch.rand(shape, generator=self.generator).to(device)
        offset = self.field.config.step * torch.randn(shape, generator=self.generator).to(device)
        points = (self.hull_cells[drawn] + jitter) * (2 / self.field.occupancy.resolution) - 1
        points = points * self.config.field.half_size
        here, there = self.field.albedo(torch.cat((points, points + offset))).chunk(2)
        return (here - there).abs().mean()

    @torch.no_grad()
    def _check_held_back(self) -> None:
        """Stop early once the error of rays that are never fitted has not fallen by a hundredth for a while."""
        error = float(self._loss(self.evidence.held_back, torch.ones(3, device=self.field.device), None)[1])
        if error < 0.99 * self.best_error:
            self.best_error, self.checks_without_progress = error, 0
            return
        self.checks_without_progress += 1
        if self.checks_without_progress >= self.config.patience:
            logger.info("NeRF fit stops at step %d: held-back rays no longer improve", self.steps_done)
            self.share = 1.0

    def finish(self, tick: Callable[[], object] = lambda: None) -> None:
        """Give the fitted field the views' own pixels; `tick` is called now and then and may raise to cancel."""
        paint_field(self.field, self.evidence, tick)

    def preview(self) -> Tensor:
        """The field from the first view's camera, `[h, w, 3]` on the CPU."""
        return self.field.render(self.preview_camera, PREVIEW_SIZE, PREVIEW_SIZE).rgb[0].cpu()

    def report(self) -> dict:
        """JSON-able: settings, steps, seconds, error of the held-back rays."""
        error = self.best_error if self.best_error < float("inf") else None
        return {"config": asdict(self.config), "steps": self.steps_done, "seconds": self.elapsed, "held_back_error": error}

    def save(self, path: Path) -> None:
        """Write all that the next step depends on; where that cannot be, a warning: the fit is worth more than that."""
        counters = {
            "steps_done": self.steps_done,
            "elapsed": self.elapsed,
            "share": self.share,
            "best_error": self.best_error,
            "checks_without_progress": self.checks_without_progress,
            "resolution": self.field.config.encoding.resolution,
        }
        try:
            write_checkpoint(path, self.inputs, counters, self.field, self.optimizer, self.generator)
        except OSError as error:
            logger.warning("no checkpoint can be written to %s (%s): an interrupted fit starts over", path, error)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        counters, tensors = read_checkpoint(path, self.inputs)
        self._set_resolution(counters.pop("resolution") / self.config.field.encoding.resolution)
        vars(self).update(counters)
        if self.config.field.shape.detail and self.share >= DETAIL_AFTER:
            self.field.occupancy = self.field.occupancy.resized(self.config.field.occupancy_resolution)
            self.field.config = replace(self.config.field, encoding=self.field.config.encoding)
        self.field.load_tensors(tensors["field"])
        self.hull_cells = self.field.occupancy.hull.nonzero()
        if self.field.shape.shell is not None:
            self.optimizer = make_optimizer(self.field)
        state = self.optimizer.state_dict()
        state["state"] = tensors["optimizer"]
        self.optimizer.load_state_dict(state)
        self.generator.set_state(tensors["generator"])


def make_optimizer(field: RadianceField) -> torch.optim.Adam:
    """Adam over the shape, the albedo's encoding, its MLP and the light, a group each in this order.

    Learning rates are the caller's. The shape's epsilon is of the size of a voxel's gradient: voxels that hardly matter to
    any pixel then hardly move.
    """
    return torch.optim.Adam(
        [
            {"params": field.shape.parameters(), "eps": 1e-8},
            {"params": field.encoding.parameters()},
            {"params": field.mlp.parameters()},
            {"params": field.light.parameters()},
        ],
        betas=(0.9, 0.99),
        eps=1e-15,
        fused=field.device.type in ("cpu", "cuda"),
    )
