"""What judges the renders: a multi-view model with cameras, or a plain Stable Diffusion UNet view by view (the 2D baseline)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..cameras import Cameras
from ..diffusion.model import MVDream
from ..diffusion.prompts import encode_prompt
from .sds import sds_loss

if TYPE_CHECKING:  # its import brings in every image processor of transformers
    from diffusers import StableDiffusionPipeline

MVDREAM_NEGATIVE_PROMPT = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, low "
    "quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions"
)  # mvdream-sd21.yaml

HALF_GRADIENT_SCALE = 1024.0  # fp16 flushes below 6e-8; a pixel's share of the gradient through the VAE is near that


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by `scale`."""

    @staticmethod
    def forward(ctx, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


@dataclass
class Guidance:
    """A diffusion model bound to one prompt. Whoever differentiates a loss freezes the VAE meanwhile (`frozen`).

    Attributes:
        context, negative_context: `[1, words, C]` embeddings. negative_prompt: what the latter says.
        alphas_cumprod, prediction_type: from the model's scheduler.
        num_views: views of one object judged together; 1 judges each image alone and without camera.
        image_size: pixels a side that renders are resized to.
        checkpointing: encode image by image and recompute in the backward pass: the VAE's activations of one image are held
            at a time, for one more encoding in time.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    context: Float[Tensor, "1 words C"]
    negative_context: Float[Tensor, "1 words C"]
    alphas_cumprod: Float[Tensor, " T"]
    prediction_type: str
    num_views: int
    image_size: int
    checkpointing: bool = False
    negative_prompt: str = ""

    @property
    def latent_numel(self) -> int:
        """Numbers in one image's latents."""
        scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.latent_channels * (self.image_size // scale_factor) ** 2

    def encode(self, images: Float[Tensor, "n H W 3"], generator: torch.Generator) -> Float[Tensor, "n 4 h w"]:
        """Posterior samples, float32 on the UNet's scale, differentiable in `images` (RGB, 0..1) also when the VAE is fp16."""
        size = (self.image_size, self.image_size)
        pixels = images.movedim(-1, 1)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        scale = HALF_GRADIENT_SCALE if self.vae.dtype == torch.float16 else 1.0
        pixels = _ScaleGradient.apply(pixels, 1 / scale).to(self.vae.device, self.vae.dtype) * 2 - 1
        if self.checkpointing and torch.is_grad_enabled():
            moments = torch.cat([checkpoint(self._moments, p, use_reentrant=False) for p in pixels.split(1)])
        else:
            moments = self._moments(pixels)
        moments = _ScaleGradient.apply(moments.float(), scale)
        latents = DiagonalGaussianDistribution(moments).sample(generator)
        return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def _moments(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels).latent_dist.parameters

    def loss(
        self, images: Float[Tensor, "n H W 3"], cameras: Cameras, timestep: int, generator: torch.Generator, **settings
    ) -> Float[Tensor, ""]:
        """SDS loss of renders in 0..1; `generator` draws the posterior sample and the noise. `settings`: of `latent_loss`."""
        return self.latent_loss(self.encode(images, generator), cameras, timestep, generator, **settings)

    def latent_loss(
        self,
        latents: Float[Tensor, "n 4 h w"],
        cameras: Cameras,
        timestep: int,
        generator: torch.Generator,
        *,
        guidance_scale: float,
        std_rescale: float = 0.5,
        form: str = "recon",
    ) -> Float[Tensor, ""]:
        """`loss` of what is encoded already."""
        noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents.device)
        return sds_loss(
            self.unet,
            latents,
            self.context,
            self.negative_context,
            cameras.c2w if self.num_views > 1 else None,
            num_views=self.num_views,
            timestep=timestep,
            noise=noise,
            guidance_scale=guidance_scale,
            std_rescale=std_rescale,
            form=form,
            prediction_type=self.prediction_type,
            alphas_cumprod=self.alphas_cumprod,
        )


def multiview_guidance(
    model: MVDream,
    prompt: str,
    negative_prompt: str | None = None,
    *,
    suffix: bool = True,
    num_views: int = 4,
    checkpointing: bool = False,
) -> Guidance:
    """Guidance by a multi-view model; `num_views=1` uses its plain 2D mode.

    Args:
        prompt: what the views show. suffix: whether the model's is appended to it, as in sampling.
        negative_prompt: None takes MVDream's list, or nothing where the model's text encoder cannot read that.

    Raises:
        ValueError: when the model reads no cameras but several views are to be judged together.
    """
    if num_views > 1 and model.unet.class_embedding is None:
        raise ValueError(
            f"model {model.config.name!r} reads no cameras, so it cannot judge {num_views} views together: load a multi-view "
            "model (MVDream), or set multi_view to false for 2D guidance"
        )
    if negative_prompt is None:
        negative_prompt = MVDREAM_NEGATIVE_PROMPT if _reads_mvdreams_list(model) else ""
    with torch.no_grad():
        context = encode_prompt(model, prompt, suffix=suffix).embeddings
        negative_context = encode_prompt(model, negative_prompt, suffix=False).embeddings
    return Guidance(
        unet=model.unet,
        vae=model.vae,
        context=context,
        negative_context=negative_context,
        alphas_cumprod=model.scheduler.alphas_cumprod,
        prediction_type=model.scheduler.config.prediction_type,
        num_views=num_views,
        image_size=model.config.image_size,
        checkpointing=checkpointing,
        negative_prompt=negative_prompt,
    )


def _reads_mvdreams_list(model: MVDream) -> bool:
    room = model.text_encoder.config.max_position_embeddings
    return model.config.vocabulary is None and len(model.tokenizer(MVDREAM_NEGATIVE_PROMPT).input_ids) <= room


def image_guidance(
    pipeline: StableDiffusionPipeline, prompt: str, negative_prompt: str = "", *, checkpointing: bool = False
) -> Guidance:
    """The paper's 2D baseline: a plain Stable Diffusion pipeline judges each render alone."""
    with torch.no_grad():
        context, negative_context = pipeline.encode_prompt(
            prompt, pipeline.device, 1, do_classifier_free_guidance=True, negative_prompt=negative_prompt
        )
    return Guidance(
        unet=pipeline.unet,
        vae=pipeline.vae,
        context=context,
        negative_context=negative_context,
        alphas_cumprod=pipeline.scheduler.alphas_cumprod,
        prediction_type=pipeline.scheduler.config.prediction_type,
        num_views=1,
        image_size=pipeline.unet.config.sample_size * pipeline.vae_scale_factor,
        checkpointing=checkpointing,
        negative_prompt=negative_prompt,
    )
