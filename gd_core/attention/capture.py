"""Cross-attention probabilities of chosen UNet layers, taken through diffusers' attention processors.

Fused attention never forms its probabilities. For cross-attention they are cheap (77 keys), so the chosen attn2 layers compute
them a second time beside their ordinary processor, in fp32; self-attention is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn


class LastLayerReached(Exception):
    """Ends a UNet pass whose remaining layers nobody needs; raised and caught by `AttentionCapture` alone."""


class AttentionCapture:
    """Context manager: while it is open, UNet passes leave their cross-attention maps here.

        with AttentionCapture(unet, downscale=2, num_tokens=12) as capture:
            predict_noise(unet, ...)
            maps = capture.take(height, width)  # [images, h, w, tokens]

    On leaving, by an exception too, every layer has its own processor back. A capture inside another hides its passes from it.

    Args:
        unet: any UNet2DConditionModel.
        downscale: 1, 2, 4 or 8: take the layers whose token grid is this much smaller than the latents.
        layers: of these only the ones with such names, "up_blocks.0.attentions.2"; none takes all.
        num_tokens: keep the maps of the first so many text tokens.
        last_images: keep only so many images from the end of the batch (the conditional half under guidance); None keeps all.
        stop: end the pass behind the last captured layer. Exact for anything computed from the maps. The pass must then be run
            through `run`, which takes the exception.
        checkpointing: recompute activations in the backward pass, for small GPUs.

    Raises:
        ValueError: when no layer has this resolution, or none of these such a name.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        downscale: int,
        num_tokens: int,
        layers: Sequence[str] = (),
        last_images: int | None = None,
        stop: bool = False,
        checkpointing: bool = False,
    ):
        self.unet, self.downscale = unet, downscale
        self.num_tokens, self.last_images = num_tokens, last_images
        self.stop, self.checkpointing = stop, checkpointing
        self.layers = cross_attention_layers(unet, downscale, layers)
        self._sum: Tensor | None = None
        self._heads = 0
        self._accepting = True

    def __enter__(self) -> AttentionCapture:
        self._originals = {name: attn.processor for name, attn in self.layers.items()}
        self._hook = None
        self._checkpointing_before = self.unet.is_gradient_checkpointing
        last = list(self.layers)[-1]
        # Under checkpointing a layer runs again in the backward pass, where an exception would break it: stop behind the block.
        stop_inside = self.stop and not self.checkpointing
        for name, attn in self.layers.items():
            ordinary = self._originals[name]
            if isinstance(ordinary, _CapturingProcessor):  # an outer capture, which must not see this one's passes
                ordinary = ordinary.original
            attn.set_processor(_CapturingProcessor(self, ordinary, stop_inside and name == last))
        if self.checkpointing:
            self.unet.enable_gradient_checkpointing()
            if self.stop:
                block = self.unet.get_submodule(last.rsplit(".transformer_blocks", 1)[0])
                self._hook = block.register_forward_hook(_stop)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name, attn in self.layers.items():
            attn.set_processor(self._originals[name])
        if self._hook is not None:
            self._hook.remove()
        if self.checkpointing and not self._checkpointing_before:
            self.unet.disable_gradient_checkpointing()

    def run(self, forward, *args) -> None:
        """Call `forward(*args)`, a UNet pass, for its maps alone."""
        try:
            forward(*args)
        except LastLayerReached:
            pass

    def add(self, probabilities: Float[Tensor, "images heads pixels tokens"]) -> None:
        if not self._accepting:  # a checkpointed layer runs again in the backward pass
            return
        summed = probabilities.sum(1)
        self._sum = summed if self._sum is None else self._sum + summed
        self._heads += probabilities.shape[1]

    def take(self, height: int, width: int) -> Float[Tensor, "images h w tokens"]:
        """The pass's maps, averaged over layers and heads, for latents of `height` x `width`; the next pass starts afresh."""
        if self._sum is None:
            raise RuntimeError("no UNet pass has run since the maps were last taken")
        maps = self._sum / self._heads
        self._sum, self._heads = None, 0
        return maps.unflatten(1, (math.ceil(height / self.downscale), math.ceil(width / self.downscale)))

    def close(self) -> None:
        """Take no more maps: what runs from now on is a backward pass's recomputation."""
        self._accepting = False


class _CapturingProcessor:
    """Leaves the layer's probabilities with `capture`, then does what the layer's own processor does."""

    def __init__(self, capture: AttentionCapture, original: nn.Module, stop: bool):
        self.capture, self.original, self.stop = capture, original, stop

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "images pixels C"],
        encoder_hidden_states: Float[Tensor, "images words D"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        num_views: int = 1,
        ray_features: dict[int, Tensor] | None = None,
    ) -> Float[Tensor, "images pixels C"]:
        kept = slice(None) if self.capture.last_images is None else slice(-self.capture.last_images, None)
        query, key = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float()
            for projected in (attn.to_q(hidden_states[kept]), attn.to_k(encoder_hidden_states[kept]))
        )
        probabilities = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        self.capture.add(probabilities[..., : self.capture.num_tokens])
        if self.stop:
            raise LastLayerReached
        return self.original(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb, num_views=num_views, ray_features=ray_features
        )


def _stop(module: nn.Module, inputs: tuple, output: object) -> None:
    raise LastLayerReached


def cross_attention_layers(unet: UNet2DConditionModel, downscale: int, only: Sequence[str] = ()) -> dict[str, Attention]:
    """attn2 layers whose token grid is the latents' divided by `downscale`, in the order that a pass reaches them.

    `only`: names that layers begin with (`layer_name`); none takes all. ValueError: no layer is left, or a name fits none.
    """
    levels = len(unet.config.block_out_channels)
    found: dict[tuple[int, int], list[tuple[str, Attention]]] = {}
    available = set()
    for name, module in unet.named_modules():
        if not (isinstance(module, Attention) and name.endswith("attn2")):
            continue
        part, *rest = name.split(".")
        block = int(rest[0]) if part != "mid_block" else 0
        level = {"down_blocks": block, "mid_block": levels - 1, "up_blocks": levels - 1 - block}[part]
        available.add(2**level)
        if 2**level == downscale:
            order = ("down_blocks", "mid_block", "up_blocks").index(part)
            found.setdefault((order, block), []).append((name, module))
    if not found:
        choices = ", ".join(map(str, sorted(available)))
        raise ValueError(f"this model has no cross-attention at 1/{downscale} of the latents' size: choose from {choices}")
    layers = {name: module for place in sorted(found) for name, module in found[place]}
    if not only:
        return layers
    for wanted in only:
        if wanted not in map(layer_name, layers):
            choices = ", ".join(dict.fromkeys(map(layer_name, layers)))
            raise ValueError(f"this model has no cross-attention layer '{wanted}' at 1/{downscale}: choose from {choices}")
    return {name: module for name, module in layers.items() if layer_name(name) in only}


def layer_name(name: str) -> str:
    """What a recipe calls the attn2 layer at `name`: "up_blocks.0.attentions.2", which has all its blocks."""
    return name.rsplit(".transformer_blocks", 1)[0]
