"""`RefineConfig`: every setting of the hybrid refinement. Where the values come from: `docs/recipes.md`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .reading import RUN, check_ranges
from .schedule import Ramp, TimestepSchedule, warm_schedule

PRESET_NAMES = ("auto", "24GB", "12GB", "8GB")
FORMS = ("recon", "classic")


@dataclass(frozen=True)
class RefineConfig:
    """Settings of `refine`. The defaults are MVDream's: MVDream-threestudio's mvdream-sd21.yaml, joined half-way.

    Attributes:
        steps: optimiser steps.
        seed: of everything random here.
        guidance_scale: classifier-free guidance of the SDS term.
        timesteps: bounds of the SDS timestep over the share of the run.
        sds_weight: weight of the SDS loss (per latent number) over the share of the run; 0 refines by the references alone.
        std_rescale, form: see `sds_loss`.
        multi_view: judge four orthogonal renders together with their cameras; False judges each alone, without camera (2D SDS).
        suffix: whether the model's prompt suffix is appended, as in sampling.
        negative_prompt: None takes that of the views; where they have none, MVDream's list, or nothing where the model cannot
            read that. It is said which.
        elevation_deg: range of the random cameras' elevation, degrees.
        uniform_elevation: share of the steps whose elevation is uniform in that range; the others draw a point of the sphere,
            as MVDream-threestudio does.
        fov_y_deg: range of their field of view, degrees; None takes the reference views' own.
        relative_distance: range of their distance in units of 1 / tan(field of view / 2), which keeps the object's size in
            the picture; None takes the reference views' own.
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

    steps: int = 5333
    seed: int = field(default=0, metadata=RUN)
    guidance_scale: float = 50.0
    timesteps: TimestepSchedule = field(default_factory=warm_schedule)
    sds_weight: Ramp = field(default_factory=lambda: Ramp(0.0, 0.03, last=0.1))
    std_rescale: float = 0.5
    form: str = "recon"
    multi_view: bool = True
    suffix: bool = False
    negative_prompt: str | None = None
    elevation_deg: tuple[float, float] = (0.0, 30.0)
    uniform_elevation: float = 0.5
    fov_y_deg: tuple[float, float] | None = (15.0, 60.0)
    relative_distance: tuple[float, float] | None = (0.8, 1.0)
    milestones: tuple[tuple[float, float], ...] = ((0.0, 0.25), (0.0625, 1.0))
    random_background: float = 0.5
    reference_weight: float = 1.0
    mask_weight: float = 0.1
    reference_rays: int = 4096
    orient_weight: float = 0.0
    opacity_weight: float = 0.0
    bending: float = 1e-4
    shape_lr: float = 0.001
    grid_lr: float = 0.005
    mlp_lr: float = 0.001
    max_psnr_drop: float = 1.0
    evaluate_every: int = 100
    preset: str = field(default="auto", metadata=RUN)

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
        if not all(0 < size <= 1 for _, size in self.milestones):
            raise ValueError(f"milestones are shares of the model's image size above 0, at most 1, got {self.milestones}")
        for name, low, high in (("elevation_deg", -90, 90), ("fov_y_deg", 1, 170), ("relative_distance", 0.1, 100)):
            given = getattr(self, name)
            if given is not None and not low <= given[0] <= given[1] <= high:
                raise ValueError(f"{name} must be a range within {low}..{high}, got {given}")
        ranges = {"steps": (1, 1_000_000), "guidance_scale": (0, 1000), "std_rescale": (0, 1), "reference_rays": (1, 1_000_000)}
        shares = dict.fromkeys(("uniform_elevation", "random_background"), (0, 1))
        weights = ("reference_weight", "mask_weight", "orient_weight", "opacity_weight", "bending", "max_psnr_drop")
        positive = dict.fromkeys(weights, (0, 1e6))
        rates = dict.fromkeys(("shape_lr", "grid_lr", "mlp_lr"), (0, 10))
        check_ranges(self, ranges | shares | positive | rates, "refinement's")
