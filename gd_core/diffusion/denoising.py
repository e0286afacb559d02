"""The denoising loop: `sample_latents`.

DDIM (Song et al. 2020, eta 0) with classifier-free guidance as MVDream samples: the batch is [unconditional, conditional], the
output u + s (c - u). Where MVDream's own sampler and diffusers count steps differently (a step count that does not divide
1000) we follow diffusers, so that N steps are always N steps. DPM-Solver++ 2M, Euler and UniPC are diffusers' own, on the same
noise schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from ..settings.sampling import SAMPLERS as SAMPLERS
from .multiview import per_image_context, predict_noise, text_kept

# MVDream's spacing takes whole strides from the end of the schedule back to its start, so that a number of steps which does not
# divide it leaves out the noisiest part: 400 would begin at t = 799. Above so many steps runs begin at least at `NOISE`.
MANY_STEPS, NOISE = 100, 900
# `adjust(step, latents, timestep, alpha_cumprod)` may change the latents before a step (attention refocusing does). Step
# counts from 0; latents are on the variance-preserving scale that the UNet reads, whatever scale the sampler keeps them on.
Adjust = Callable[[int, Tensor, Tensor, float], Tensor]
# `on_step(step, x0)`: after each step, counted from 1, with the clean latents that the model now predicts. It may raise to
# cancel.
OnStep = Callable[[int, Tensor], None]


def mvdream_noise_schedule() -> DDIMScheduler:
    """MVDream's noise schedule and sampler settings: Stable Diffusion's betas, epsilon prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.0120,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        timestep_spacing="leading",
    )


def make_sampler(
    schedule: SchedulerMixin, sampler: str, steps: int, device: torch.device, *, num_adjusted: int = 0
) -> SchedulerMixin:
    """A fresh sampler on the noise schedule and `prediction_type` of `schedule`, its timesteps set.

    `num_adjusted`: how many of the first steps have their latents changed from outside. UniPC's corrector would put the
    unchanged latents back, so it rests for those steps.
    """
    if not 1 <= steps <= schedule.config.num_train_timesteps:
        raise ValueError(f"steps must be between 1 and {schedule.config.num_train_timesteps}, got {steps}")
    if sampler == "ddim":
        made = DDIMScheduler.from_config(schedule.config)
    elif sampler == "dpmpp_2m":
        made = DPMSolverMultistepScheduler.from_config(schedule.config, algorithm_type="dpmsolver++", solver_order=2)
    elif sampler == "euler":
        made = EulerDiscreteScheduler.from_config(schedule.config)
    elif sampler == "unipc":
        made = UniPCMultistepScheduler.from_config(schedule.config, disable_corrector=list(range(num_adjusted)))
    else:
        raise ValueError(f"there is no sampler '{sampler}': choose one of {', '.join(SAMPLERS)}")
    made.set_timesteps(steps, device=device)
    if steps > MANY_STEPS and not NOISE <= made.timesteps[0] < schedule.config.num_train_timesteps:
        made = type(made).from_config(made.config, timestep_spacing="trailing")
        made.set_timesteps(steps, device=device)
    return made


class Denoising:
    """B objects of V views each on their way from unit Gaussian noise, object-major; it can stop between any two steps.

    Attributes:
        latents: `[B*V, 4, h, w]`, where they are now, on the sampler's scale. step: how many steps are done.
    """

    def __init__(
        self,
        unet,
        latents: Float[Tensor, "BV 4 h w"],
        context: Float[Tensor, "n words C"],
        negative_context: Float[Tensor, "m words C"],
        cameras: Float[Tensor, "k 16"] | None,
        *,
        num_views: int,
        steps: int,
        guidance_scale: float,
        sampler: str = "ddim",
        schedule: SchedulerMixin | None = None,
        guidance_rescale: float = 0.0,
        num_adjusted: int = 0,
    ):
        """Arguments and errors are those of `sample_latents`."""
        num_images = len(latents)
        if num_views < 1 or num_images % num_views:
            raise ValueError(f"a batch of {num_images} latents is not made of objects with {num_views} views each")
        if cameras is not None and len(cameras) not in (num_views, num_images):
            raise ValueError(
                f"{len(cameras)} cameras came for {num_views} views: give one camera for each view (or one for each of the "
                f"{num_images} latents)"
            )
        if not guidance_scale >= 1:
            raise ValueError(f"guidance scale must be 1 (no guidance) or more, got {guidance_scale}")
        if not 0 <= guidance_rescale <= 1:
            raise ValueError(f"guidance rescale must be between 0 and 1, got {guidance_rescale}")
        self.unet, self.schedule, self.num_views = unet, schedule or mvdream_noise_schedule(), num_views
        self.guidance_scale, self.guidance_rescale = guidance_scale, guidance_rescale
        self.sampler = make_sampler(self.schedule, sampler, steps, latents.device, num_adjusted=num_adjusted)
        self.context = per_image_context(context, num_images)
        self.negative = per_image_context(negative_context, num_images)
        self.cameras = None if cameras is None else cameras.to(latents).repeat(num_images // len(cameras), 1)
        self.latents = latents * self.sampler.init_noise_sigma
        self.step = 0

    @torch.no_grad()
    def run(
        self,
        until: int | None = None,
        *,
        adjust: Adjust | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "BV 4 h w"]:
        """Go on to step `until`, None for the last one; the latents that are there then."""
        guided = self.guidance_scale > 1
        contexts = torch.cat((self.negative, self.context)) if guided else self.context
        halves = 2 if guided else 1
        cameras = None if self.cameras is None else self.cameras.repeat(halves, 1)
        with text_kept(self.unet, contexts):
            for timestep in self.sampler.timesteps[self.step : until]:
                scaled = self.sampler.scale_model_input(self.latents, timestep)
                alpha = alpha_cumprod(self.sampler, timestep)
                if adjust is not None:
                    adjusted = adjust(self.step, scaled, timestep, alpha)
                    # The sampler's own scale is a multiple of the scaled one (exactly 1 for all but Euler).
                    self.latents = self.latents + (adjusted - scaled) * (self.latents.norm() / scaled.norm())
                    scaled = adjusted
                output = predict_noise(self.unet, scaled.repeat(halves, 1, 1, 1), timestep, contexts, cameras, self.num_views)
                if guided:
                    unconditional, conditional = output.chunk(2)
                    output = unconditional + self.guidance_scale * (conditional - unconditional)
                    output = rescale_guidance(output, conditional, self.guidance_rescale, self.num_views)
                self.latents = self.sampler.step(output, timestep, self.latents, return_dict=False)[0]
                self.step += 1
                if on_step is not None:
                    on_step(self.step, predicted_x0(output, scaled, alpha, self.schedule.config.prediction_type))
        if not torch.isfinite(self.latents).all():
            raise ValueError(
                "the model produced NaN or infinite latents: load it with dtype float32 or bfloat16, or lower the guidance "
                "scale"
            )
        return self.latents

    def of(self, index: int) -> Denoising:
        """The `index`-th object alone, from where it is."""
        images = slice(index * self.num_views, (index + 1) * self.num_views)
        alone = copy(self)
        alone.sampler = copy(self.sampler)
        for name, value in vars(self.sampler).items():  # what samplers of several steps remember of the latents
            if isinstance(value, list):
                setattr(alone.sampler, name, [_those(images, item) for item in value])
            else:
                setattr(alone.sampler, name, _those(images, value))
        alone.latents, alone.context, alone.negative = self.latents[images], self.context[images], self.negative[images]
        alone.cameras = None if self.cameras is None else self.cameras[images]
        return alone


def _those(images: slice, value: object) -> object:
    return value[images] if isinstance(value, Tensor) and value.ndim == 4 else value


def sample_latents(
    unet,
    latents: Float[Tensor, "BV 4 h w"],
    context: Float[Tensor, "n words C"],
    negative_context: Float[Tensor, "m words C"],
    cameras: Float[Tensor, "k 16"] | None,
    *,
    adjust: Adjust | None = None,
    on_step: OnStep | None = None,
    **settings,
) -> Float[Tensor, "BV 4 h w"]:
    """Denoise B objects of V views each, from given unit Gaussian noise, object-major.

    Args:
        unet: with multi-view attention installed.
        context, negative_context: `[B, 77, C]` or `[1, 77, C]`.
        cameras: `[B*V, 16]` conditioning, `[V, 16]` to share one set among the objects, or None for the no-camera mode.
        adjust: changes the latents before each step.
        on_step: told of every step; what it raises ends the loop and leaves nothing behind.
        settings: num_views: V.
            steps: denoising steps, 1 to 1000.
            guidance_scale: s; 1 runs the conditional half alone.
            sampler: one of `SAMPLERS`.
            schedule: any diffusers scheduler of the model, for its noise schedule and `prediction_type`; None is MVDream's own.
            guidance_rescale: 0 (off) to 1, see `rescale_guidance`.
            num_adjusted: how many of the first steps `adjust` changes.

    Raises:
        ValueError: for sizes that do not fit each other, a bad setting, or a model that produced NaN.
    """
    denoising = Denoising(unet, latents, context, negative_context, cameras, **settings)
    return denoising.run(adjust=adjust, on_step=on_step)


def rescale_guidance(
    output: Float[Tensor, "BV 4 h w"], conditional: Float[Tensor, "BV 4 h w"], rescale: float, num_views: int
) -> Float[Tensor, "BV 4 h w"]:
    """Pull the guided output's spread back to the conditional one's (Lin et al. 2305.08891, section 3.4).

    The spread is taken over all views of an object jointly, as MVDream does in its SDS, so that no view is brightened against
    the others. `rescale` 0 keeps the output, 1 matches the spread in full.
    """
    if rescale == 0:
        return output
    wanted, have = (x.reshape(len(x) // num_views, -1).std(dim=1) for x in (conditional, output))
    factor = (wanted / have).repeat_interleave(num_views).reshape(-1, 1, 1, 1)
    return output * (1 - rescale + rescale * factor)


def alpha_cumprod(sampler: SchedulerMixin, timestep: Tensor) -> float:
    """alpha-bar at a timestep (Euler's may be fractional: the nearest whole one is near enough for what it is used for)."""
    return float(sampler.alphas_cumprod[int(timestep.round())])


def predicted_x0(
    output: Float[Tensor, "BV 4 h w"], latents: Float[Tensor, "BV 4 h w"], alpha: float, prediction_type: str
) -> Float[Tensor, "BV 4 h w"]:
    """Clean latents from what the UNet returned for `latents` at alpha-bar `alpha`."""
    if prediction_type == "epsilon":
        return (latents - (1 - alpha) ** 0.5 * output) / alpha**0.5
    if prediction_type == "v_prediction":
        return alpha**0.5 * latents - (1 - alpha) ** 0.5 * output
    raise ValueError(f"this model predicts '{prediction_type}', which is neither 'epsilon' nor 'v_prediction'")
