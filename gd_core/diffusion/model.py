"""`MVDream`: the model's parts in one place, and what its config says of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..cameras import DEFAULT_DISTANCE, DEFAULT_FOV_Y_DEG, Cameras, orbit_cameras
from ..recipe import Recipe


@dataclass
class MVDreamConfig:
    """What a multi-view model says of itself; `mvdream.json` of a bundle.

    Attributes:
        name: shown to people and written into provenance.
        prompt_suffix: appended to every prompt that is not empty (MVDream: ", 3d asset").
        image_size: pixels a side that the model was trained at.
        elevation_deg, azimuth_start_deg, fov_y_deg, distance: the default orbit (degrees, world units).
        text_padding: "encoder" keeps the text encoder's own output after the end token (MVDream); "start" repeats the start
            token's embedding there, so that padding tells the UNet nothing.
        vocabulary: the only words the model knows, or None for an open vocabulary.
        ray_geometry: keyword arguments of `RayGeometry`, or None (MVDream).
    """

    name: str = "MVDream"
    prompt_suffix: str = ", 3d asset"
    image_size: int = 256
    elevation_deg: float = 15.0
    azimuth_start_deg: float = 90.0
    fov_y_deg: float = DEFAULT_FOV_Y_DEG
    distance: float = DEFAULT_DISTANCE
    text_padding: str = "encoder"
    vocabulary: list[str] | None = None
    ray_geometry: dict | None = None


@dataclass
class MVDream:
    """A multi-view diffusion model ready to run.

    Attributes:
        unet: with multi-view attention installed.
        vae: latents are `(encoded - shift_factor) * scaling_factor`, both from its config.
        scheduler: holds the noise schedule and `prediction_type`; samplers are made from its config.
        recipe: the settings of every stage that suit this model.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: SchedulerMixin
    config: MVDreamConfig = field(default_factory=MVDreamConfig)
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a latent cell, each way."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Pixels a side that the model was trained at."""
        return self.config.image_size

    @property
    def latent_size(self) -> int:
        return self.config.image_size // self.vae_scale_factor

    def default_cameras(self, num_views: int = 4) -> Cameras:
        """The orbit that the model was trained for, as its config names it."""
        return orbit_cameras(
            num_views,
            self.config.elevation_deg,
            self.config.azimuth_start_deg,
            distance=self.config.distance,
            fov_y_deg=self.config.fov_y_deg,
        )

    def decode(self, latents: Float[Tensor, "n 4 h w"]) -> Float[Tensor, "n H W 3"]:
        """Images, float32 RGB in 0..1, from latents on the UNet's scale."""
        latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        images = self.vae.decode(latents, return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)

    def encode(
        self, images: Float[Tensor, "n H W 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n 4 h w"]:
        """Latents on the UNet's scale from RGB images in 0..1, differentiable.

        With a `generator` a sample of the posterior (as MVDream's SDS draws it), without one its mode.
        """
        posterior = self.vae.encode(images.movedim(-1, 1).to(self.vae.dtype) * 2 - 1).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return ((latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor).to(self.dtype)

    def encode_prompt(self, text: str):
        """`PromptEmbedding` of one prompt; see `gd_core.diffusion.prompts.encode_prompt`."""
        from .prompts import encode_prompt  # noqa: PLC0415

        return encode_prompt(self, text)
