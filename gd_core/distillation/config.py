"""`RefineConfig`: every setting of the hybrid refinement. Where the defaults come from: `docs/refinement.md`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .schedule import Ramp, TimestepSchedule, warm_start_schedule
from .sds import FORMS

PRESET_NAMES = ("auto", "24GB", "12GB", "8GB")


@dataclass(frozen=True)
class RefineConfig:
    """Settings of `refine`.

    Attributes:
        steps: optimiser steps.
        seed: of everything random here.
        guidance_scale: classifier-free guidance of the SDS term.
        timesteps: bounds of the SDS timestep over the share of the run.
        sds_weight: weight of the SDS loss (per latent number) over the share of the run; 0 refines by the references alone.
        std_rescale, form: see `sds_loss`.
        multi_view: judge four orthogonal renders together with their cameras; False judges each alone, without camera (2D SDS).
        negative_prompt: None takes MVDream's list, or nothing where the model cannot read that.
        elevation_deg: range of the random cameras' elevation, degrees.
        milestones: (share of the run, share of the model's image size): from then on SDS renders have that size.
        random_background: probability that a step's renders stand before a random grey, not the views' own background.
        reference_weight, mask_weight: of the squared error of the colour and of the opacity against the reference views.
            Without reference weight there is no guard either.
        reference_rays: rays of the reference views in each step.
        orient_weight: of normals that face away from the camera (Ref-NeRF, equation 11).
        opacity_weight: of half-transparent pixels (binary entropy of the opacity).
        shape_lr, grid_lr, mlp_lr: Adam's learning rates of the signed distance (world units), of the albedo's encoding,
            and of its MLP and the light; all decay to a tenth.
        bending: weight of the mean squared second derivative of the signed distance.
        max_psnr_drop: decibels that refinement may cost of the reference PSNR, of which anything above 30 dB does not count;
            beyond, the last good state comes back and the SDS weight is halved.
        evaluate_every: steps between evaluations on the reference and the held-back views.
        preset: memory preset, "auto" for the largest that fits; see `MEMORY_PRESETS`.
    """

    steps: int = 60
    seed: int = 0
    guidance_scale: float = 5.0
    timesteps: TimestepSchedule = field(default_factory=warm_start_schedule)
    sds_weight: Ramp = field(default_factory=lambda: Ramp(0.0, 0.03, last=0.1))
    std_rescale: float = 0.5
    form: str = "recon"
    multi_view: bool = True
    negative_prompt: str | None = None
    elevation_deg: tuple[float, float] = (0.0, 30.0)
    milestones: tuple[tuple[float, float], ...] = ((0.0, 0.5), (0.1, 1.0))
    random_background: float = 0.5
    reference_weight: float = 1.0
    mask_weight: float = 0.1
    reference_rays: int = 1024
    orient_weight: float = 0.01
    opacity_weight: float = 0.001
    bending: float = 1e-4
    shape_lr: float = 0.001
    grid_lr: float = 0.005
    mlp_lr: float = 0.001
    max_psnr_drop: float = 1.0
    evaluate_every: int = 10
    preset: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"refinement needs at least 1 step, got {self.steps}; to skip refinement, leave the stage out")
        if self.evaluate_every < 1:
            raise ValueError(f"evaluate_every must be at least 1 step, got {self.evaluate_every}")
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if self.preset not in PRESET_NAMES:
            raise ValueError(f"memory preset must be one of {', '.join(PRESET_NAMES)}, got {self.preset!r}")
        if not self.milestones or self.milestones[0][0] != 0 or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must start at share 0 and ascend, got {self.milestones}")
        if self.max_psnr_drop < 0:
            raise ValueError(f"max_psnr_drop is a number of decibels from 0 up, got {self.max_psnr_drop}")
        low, high = self.elevation_deg
        if not -90 <= low <= high <= 90:
            raise ValueError(f"elevation_deg must be a range within -90..90 degrees, got {self.elevation_deg}")
        weights = ("reference_weight", "mask_weight", "orient_weight", "opacity_weight", "bending")
        for name in (*weights, "shape_lr", "grid_lr", "mlp_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
