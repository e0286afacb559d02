"""`SamplingConfig`: how a model's views are denoised."""

from __future__ import annotations

from dataclasses import dataclass

from .reading import check_ranges

SAMPLERS = ("ddim", "dpmpp_2m", "euler", "unipc")


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of `sample_views`. The defaults are those of MVDream's `t2i.py`.

    Attributes:
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 is none.
        guidance_rescale: 0 (off) to 1, how far the guided prediction's spread is pulled back to the unguided one's.
        sampler: one of `SAMPLERS`.
    """

    steps: int = 50
    guidance_scale: float = 10.0
    guidance_rescale: float = 0.0
    sampler: str = "ddim"

    def __post_init__(self) -> None:
        ranges = {"steps": (1, 1000), "guidance_scale": (1, 1000), "guidance_rescale": (0, 1)}
        check_ranges(self, ranges, "sampling")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"there is no sampler '{self.sampler}': choose one of {', '.join(SAMPLERS)}")
