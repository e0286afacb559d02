"""Score distillation: the loss whose gradient pulls rendered latents towards what the diffusion model believes in.

MVDream section 3.4 and MVDream-threestudio's `multiview-diffusion-guidance`: with x_t = sqrt(a) z + sqrt(1-a) n,

    recon    L = 1/2 |z - sg(x0_hat)|^2 / B     x0_hat from the guided prediction, its spread pulled to the unguided one's
    classic  dL/dz = (1-a) (eps_hat - n) / B    DreamFusion, equation 3

B counts images (views of all objects). `x0_hat` is rescaled per object, over its views, channels and pixels jointly, since
large guidance scales blow up the contrast (Lin et al., 2023, section 3.4).
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from ..cameras import camera_conditioning
from ..diffusion.multiview import MultiViewAttnProcessor, per_image_context, predict_noise
from ..settings.refine import FORMS as FORMS

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def stable_diffusion_alphas_cumprod() -> Float[Tensor, " T"]:
    """Stable Diffusion's and MVDream's schedule: betas = linspace(sqrt(0.00085), sqrt(0.012), 1000)^2."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def sds_loss(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "BV 4 h w"],
    context: Float[Tensor, "n words C"],
    negative_context: Float[Tensor, "n words C"],
    c2w: Float[Tensor, "BV 4 4"] | None,
    *,
    num_views: int,
    timestep: int,
    noise: Float[Tensor, "BV 4 h w"],
    guidance_scale: float,
    std_rescale: float = 0.5,
    form: str = "recon",
    prediction_type: str = "epsilon",
    alphas_cumprod: Float[Tensor, " T"] | None = None,
) -> Float[Tensor, ""]:
    """Scalar float32 loss, differentiable in `latents`; the UNet runs once, on [conditional, unconditional], without gradient.

    Args:
        latents: clean latents of B objects with `num_views` views each, object-major, on the UNet's scale.
        context, negative_context: text embeddings, one for all, one an object, or one an image.
        c2w: camera-to-world matrices, z up, at any distance; None judges images without cameras (2D guidance, `num_views` 1).
        timestep: one noise level for the whole batch, in 0..999.
        noise: N(0, 1).
        guidance_scale: classifier-free guidance, 50 in MVDream's text-to-3D runs; 1 runs the conditional half alone.
        std_rescale: 0..1, share of the spread correction ("recon" only); 0 switches it off, MVDream uses 0.5.
        form: "recon" or "classic".
        prediction_type: of the model's scheduler: "epsilon", "v_prediction" or "sample".
        alphas_cumprod: `[T]` of the model's scheduler; Stable Diffusion's when None.

    Raises:
        ValueError: when sizes do not fit, or a setting is out of range.
    """
    alphas = stable_diffusion_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
    _check(latents, noise, c2w, num_views, timestep, len(alphas), std_rescale, form, prediction_type)
    # Half precision holds neither sqrt(1 - a) near t = 0 nor a sum over all latents, so everything but the UNet is float32.
    alpha = alphas[timestep].to(latents.device, torch.float32)
    clean, noise = latents.float(), noise.float()
    with torch.no_grad():
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        contexts = (context,) if guidance_scale == 1 else (context, negative_context)
        conditional, *rest = _predict(unet, noisy, timestep, contexts, c2w, num_views)
        guided = conditional if not rest else rest[0] + guidance_scale * (conditional - rest[0])
        if form == "recon":
            target = _clean_from(guided, noisy, alpha, prediction_type)
            if std_rescale > 0:
                plain = _clean_from(conditional, noisy, alpha, prediction_type)
                factor = (_object_std(plain, num_views) + 1e-8) / (_object_std(target, num_views) + 1e-8)
                target = target * (1 - std_rescale + std_rescale * factor)
        else:
            target = clean - (1 - alpha) * (_noise_from(guided, noisy, alpha, prediction_type) - noise)
    return 0.5 * (clean - target).square().sum() / len(latents)


def _predict(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    timestep: int,
    contexts: tuple[Tensor, ...],
    c2w: Tensor | None,
    num_views: int,
) -> tuple[Tensor, ...]:
    """The prediction under each context, float32, from one pass over the batch repeated for each."""
    repeats = len(contexts)
    batch = noisy.to(unet.dtype).repeat(repeats, 1, 1, 1)
    words = torch.cat([per_image_context(c, len(noisy)) for c in contexts]).to(batch)
    if any(isinstance(p, MultiViewAttnProcessor) for p in unet.attn_processors.values()):
        cameras = None if c2w is None else camera_conditioning(c2w.float()).to(batch.device).repeat(repeats, 1)
        out = predict_noise(unet, batch, timestep, words, cameras, num_views)
    else:
        if c2w is not None or num_views != 1:
            raise ValueError("this UNet reads no cameras: give it single views and c2w=None, or a multi-view model")
        out = unet(batch, timestep, encoder_hidden_states=words, return_dict=False)[0]
    return out.float().chunk(repeats)


def _clean_from(prediction: Tensor, noisy: Tensor, alpha: Tensor, prediction_type: str) -> Tensor:
    """x0 that the prediction implies."""
    if prediction_type == "epsilon":
        return (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
    if prediction_type == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction
    return prediction


def _noise_from(prediction: Tensor, noisy: Tensor, alpha: Tensor, prediction_type: str) -> Tensor:
    """The noise that the prediction implies."""
    if prediction_type == "epsilon":
        return prediction
    if prediction_type == "v_prediction":
        return alpha.sqrt() * prediction + (1 - alpha).sqrt() * noisy
    return (noisy - alpha.sqrt() * prediction) / (1 - alpha).sqrt()


def _object_std(latents: Float[Tensor, "BV C h w"], num_views: int) -> Float[Tensor, "BV 1 1 1"]:
    """Unbiased deviation over an object's views, channels and pixels jointly, repeated for each of its views."""
    spread = latents.unflatten(0, (-1, num_views)).flatten(1).std(dim=1)
    return spread.repeat_interleave(num_views)[:, None, None, None]


def _check(
    latents: Tensor,
    noise: Tensor,
    c2w: Tensor | None,
    num_views: int,
    timestep: int,
    num_timesteps: int,
    std_rescale: float,
    form: str,
    prediction_type: str,
) -> None:
    if latents.ndim != 4 or num_views < 1 or len(latents) % num_views:
        raise ValueError(f"latents of shape {list(latents.shape)} are not objects with {num_views} views each, [B*V, 4, h, w]")
    if noise.shape != latents.shape:
        raise ValueError(f"noise of shape {list(noise.shape)} does not fit latents of shape {list(latents.shape)}")
    if c2w is not None and c2w.shape != (len(latents), 4, 4):
        raise ValueError(f"{len(latents)} views need c2w of shape [{len(latents)}, 4, 4], got {list(c2w.shape)}")
    if not 0 <= timestep < num_timesteps:
        raise ValueError(f"timestep must be in 0..{num_timesteps - 1}, got {timestep}")
    if not 0 <= std_rescale <= 1:
        raise ValueError(f"std_rescale must be in 0..1, got {std_rescale}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}")
