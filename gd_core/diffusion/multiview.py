"""MVDream's two changes to Stable Diffusion's UNet, on diffusers' own `UNet2DConditionModel`.

1. Self-attention runs over all views of one object jointly (MVDream, section 3.1, "inflated 3D self-attention").
   Cross-attention and feed-forward stay per view. The view index is the fast axis of the batch: object-major, view-minor.
2. A camera MLP (16 numbers -> time embedding width) is added to the time embedding: diffusers' `class_embed_type="projection"`.

`RayGeometry` is an optional extra that MVDream does not have: a bias on the self-attention logits by where two pixels' rays
pass the origin. It is named in a model's config and lets a small model learn which pixels of two views see the same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

from ..cameras import pixel_rays


@dataclass(frozen=True)
class RayGeometry:
    """How self-attention logits are biased by ray geometry; a part of a model's config.

    logit(q, k) += gain_h * sum over w of mean over xyz of cos(w (P_q - P_k)) - same_view_h * [q, k in the same view],
    P the point of a token's ray nearest the origin, `gain` and `same_view` learned for each head h.

    Attributes:
        fov_y_deg: vertical field of view of the model's cameras, degrees.
        distance: of the model's cameras from the origin, world units (the conditioning holds directions only).
        frequencies: the w, in radians per world unit.
    """

    fov_y_deg: float
    distance: float
    frequencies: tuple[float, ...] = (3.0, 6.0)

    @property
    def num_features(self) -> int:
        return 6 * len(self.frequencies)

    def features(self, cameras: Float[Tensor, "BV 16"], height: int, width: int) -> Float[Tensor, "BV tokens features"]:
        """phi(P) with phi(P_q) . phi(P_k) = sum over w and xyz of cos(w (P_q - P_k)), for `height` x `width` tokens."""
        c2w = cameras.float().unflatten(1, (4, 4)).clone()
        c2w[:, :3, 3] *= self.distance
        fov = torch.full((len(c2w),), self.fov_y_deg, device=c2w.device)
        origins, directions = pixel_rays(c2w, fov, height, width)
        nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
        phase = torch.cat([w * nearest for w in self.frequencies], dim=-1).flatten(1, 2)
        return torch.cat((phase.cos(), phase.sin()), dim=-1)


class MultiViewAttnProcessor(nn.Module):
    """Attention processor for both attentions of a transformer block: attn1 joins the views, attn2 is per view.

    Fused attention (SDPA) throughout: the joint matrix of (views x tokens)^2 is never materialised. It reads `num_views` and
    `ray_features` from `cross_attention_kwargs`.
    """

    def __init__(self, heads: int, geometry: RayGeometry | None = None):
        super().__init__()
        self.geometry = geometry
        if geometry is not None:
            # From "no geometry" to "strongly geometric, other views first" over the heads (see docs/tiny_model.md).
            spread = torch.linspace(0, 1, heads)
            self.gain = nn.Parameter(4 * spread)
            self.same_view = nn.Parameter(8 * spread**2)
        self.kept_text: KeptText | None = None

    # `__call__`, not `forward`: diffusers drops every keyword that it does not find in the signature of `__call__`.
    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "BV tokens C"],
        encoder_hidden_states: Float[Tensor, "BV words D"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        num_views: int = 1,
        ray_features: dict[int, Tensor] | None = None,
    ) -> Float[Tensor, "BV tokens C"]:
        is_self_attention = encoder_hidden_states is None
        views = num_views if is_self_attention else 1
        batch, tokens, channels = hidden_states.shape
        hidden_states = hidden_states.reshape(batch // views, views * tokens, channels)
        source = hidden_states if is_self_attention else encoder_hidden_states

        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        if self.kept_text is None or self.kept_text.context is not encoder_hidden_states or torch.is_grad_enabled():
            key, value = _keys_and_values(attn, source)
        else:
            key, value = self.kept_text.projected(attn)
        if is_self_attention and self.geometry is not None and ray_features is not None:
            out = self._geometric_attention(query, key, value, ray_features[tokens], views)
        else:
            out = F.scaled_dot_product_attention(query, key, value)
        out = out.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        return out.reshape(batch, tokens, channels)

    def _geometric_attention(
        self, query: Tensor, key: Tensor, value: Tensor, rays: Float[Tensor, "BV tokens features"], views: int
    ) -> Tensor:
        """The bias is an inner product, so it rides along as extra channels of q and k and the fused kernel still serves."""
        width = query.shape[-1]
        rays = rays.to(query.dtype)
        which_view = torch.eye(views, dtype=query.dtype, device=query.device).repeat_interleave(rays.shape[1], dim=0)
        rays = rays.reshape(-1, 1, views * rays.shape[1], rays.shape[2]).expand(query.shape[0], -1, -1, -1)
        which_view = which_view.expand(query.shape[0], 1, -1, -1)
        gain = (self.gain.to(query.dtype) / 3)[:, None, None]
        same_view = self.same_view.to(query.dtype)[:, None, None]
        scale = 1 / math.sqrt(width)
        query = torch.cat((query * scale, gain * rays, -same_view * which_view), dim=-1)
        key = torch.cat((key, rays.expand(-1, key.shape[1], -1, -1), which_view.expand(-1, key.shape[1], -1, -1)), dim=-1)
        value = F.pad(value, (0, query.shape[-1] - width))  # fused kernels want q, k and v equally wide
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :width]


def _keys_and_values(attn: Attention, source: Tensor) -> tuple[Tensor, Tensor]:
    """By heads, contiguous: the CPU's fused kernel reads them once for each block of queries, and is 1.15 times as fast so."""
    key, value = (
        projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2).contiguous()
        for projected in (attn.to_k(source), attn.to_v(source))
    )
    return key, value


class KeptText:
    """One layer's keys and values of `context`, projected when they are first asked for."""

    def __init__(self, context: Float[Tensor, "BV words D"]):
        self.context = context
        self._projected: tuple[Tensor, Tensor] | None = None

    def projected(self, attn: Attention) -> tuple[Tensor, Tensor]:
        if self._projected is None:
            self._projected = _keys_and_values(attn, self.context)
        return self._projected


@contextmanager
def text_kept(unet: UNet2DConditionModel, context: Float[Tensor, "BV words D"]) -> Iterator[None]:
    """While it is open, cross-attention projects `context` to keys and values once, not in every pass.

    They depend on the text alone, and sampling gives the same text at every step. Passes with another tensor, or with
    gradients, are as ever. `context` must be what `predict_noise` is given: one embedding for each image.
    """
    processors = [p for p in unet.attn_processors.values() if isinstance(p, MultiViewAttnProcessor)]
    for processor in processors:
        processor.kept_text = KeptText(context)
    try:
        yield
    finally:
        for processor in processors:
            processor.kept_text = None


def install_multiview_attention(unet: UNet2DConditionModel, geometry: RayGeometry | None = None) -> None:
    """Give every attention of `unet` a `MultiViewAttnProcessor`; call before weights with geometry are loaded."""
    for module in unet.modules():
        if isinstance(module, Attention):
            is_self_attention = not module.is_cross_attention
            module.set_processor(MultiViewAttnProcessor(module.heads, geometry if is_self_attention else None))


def ray_geometry(unet: UNet2DConditionModel) -> RayGeometry | None:
    """The geometry that `unet`'s self-attention was installed with, or None (MVDream)."""
    return next((p.geometry for p in unet.attn_processors.values() if getattr(p, "geometry", None)), None)


@contextmanager
def _camera_mlp_detached(unet: UNet2DConditionModel) -> Iterator[None]:
    """MVDream's "no camera" mode skips the camera MLP, which is not the same as a camera of zeros."""
    camera_mlp, unet.class_embedding = unet.class_embedding, None
    try:
        yield
    finally:
        unet.class_embedding = camera_mlp


def per_image_context(context: Float[Tensor, "n words C"], num_images: int) -> Float[Tensor, "BV words C"]:
    """Text embeddings for each image, from one for all (`n = 1`), one an object, or one an image (object-major)."""
    if num_images % context.shape[0]:
        raise ValueError(f"{context.shape[0]} text embeddings do not divide among {num_images} views")
    if context.shape[0] == num_images:
        return context  # the tensor itself, by which `text_kept` knows it
    return context.repeat_interleave(num_images // context.shape[0], dim=0)


def predict_noise(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "BV 4 h w"],
    timesteps: Tensor | int | float,
    context: Float[Tensor, "n words C"],
    cameras: Float[Tensor, "BV 16"] | None,
    num_views: int,
) -> Float[Tensor, "BV 4 h w"]:
    """One UNet pass over B objects of `num_views` views each; what comes out is what the scheduler's `prediction_type` says.

    Args:
        latents: noisy latents, object-major, view-minor.
        timesteps: `[B*V]`, or one for all, in 0..999.
        context: text embeddings, `[B*V, words, C]`, `[B, words, C]` or `[1, words, C]`.
        cameras: `[B*V, 16]` from `Cameras.conditioning()`, or None for MVDream's no-camera (plain 2D) mode.
        num_views: V; the batch must be divisible by it.

    Raises:
        ValueError: when the sizes do not fit each other.
    """
    num_images, _, height, width = latents.shape
    if num_views < 1 or num_images % num_views:
        raise ValueError(f"a batch of {num_images} latents is not made of objects with {num_views} views each")
    if cameras is not None and len(cameras) != num_images:
        raise ValueError(f"{num_images} latents came with {len(cameras)} cameras: give one camera for each view")
    geometry = ray_geometry(unet)
    kwargs: dict = {"num_views": num_views}
    if geometry is not None and cameras is not None:
        kwargs["ray_features"] = {
            h * w: geometry.features(cameras, h, w) for h, w in _token_grids(height, width, len(unet.config.block_out_channels))
        }
    labels = None if cameras is None else cameras.to(latents.dtype)
    call = {
        "encoder_hidden_states": per_image_context(context, num_images),
        "class_labels": labels,
        "cross_attention_kwargs": kwargs,
        "return_dict": False,
    }
    if cameras is None and unet.class_embedding is not None:
        with _camera_mlp_detached(unet):
            return unet(latents, timesteps, **call)[0]
    return unet(latents, timesteps, **call)[0]


def _token_grids(height: int, width: int, levels: int) -> Sequence[tuple[int, int]]:
    """Height and width of the tokens at each UNet level (stride-2 convolutions round up)."""
    grids = [(height, width)]
    for _ in range(levels - 1):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        grids.append((height, width))
    return grids
