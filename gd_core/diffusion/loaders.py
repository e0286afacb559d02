"""`load_unet` and `load_mvdream`: every kind of weights that people have, as one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..devices import resolve_device, resolve_dtype
from .bundle import is_bundle, load_bundle, load_companions, read_json, save_bundle
from .card import BUNDLED
from .checkpoint import load_strictly, read_weights
from .denoising import mvdream_noise_schedule
from .hub import download, is_hub_source
from .lora import apply_lora, bake_loras, parse_lora
from .model import MVDream, MVDreamConfig
from .multiview import install_multiview_attention
from .text_tower import OPENCLIP_PREFIX, text_encoder_from_original
from .tokenizer import clip_tokenizer
from .unet_keys import diffusers_unet_config, diffusers_unet_key, infer_original_config, original_unet_weights
from .vae_keys import diffusers_vae


def load_mvdream(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    loras: Sequence[str] = (),
) -> MVDream:
    """A multi-view diffusion model, ready to sample.

    Args:
        source: "toys" or "tiny", the bundled models; a folder (our bundle, or the layout of
            `ashawkey/mvdream-sd2.1-diffusers`, whose Python is not run); a `.safetensors` or `.pt` checkpoint in the original
            layout (v2.1 and v1.5), whole; or `owner/name@revision` on the Hugging Face hub, which is downloaded. Paths win
            over hub names.
        device, dtype: names as `devices.resolve_device` and `resolve_dtype` read them, or torch's own objects.
        loras: each `FILE` or `FILE:STRENGTH`, on top of one another; see `apply_lora`.

    Raises:
        FileNotFoundError: there is no such path, or no model in it.
        ValueError: what is there is damaged, of another model, or names no model.
        ConnectionError: the hub is not reached.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    path = Path(source)
    if source in BUNDLED:
        path = BUNDLED[source]
    elif not path.exists():
        if isinstance(source, str) and is_hub_source(source):
            path = download(source)
        else:
            raise FileNotFoundError(
                f"no model at '{source}': give 'toys', 'tiny', a model folder, a .safetensors or .pt checkpoint, or a hub "
                "repository pinned to a revision as 'owner/name@revision'"
            )
    if path.is_file():
        model = load_original(read_weights(path), dtype, str(path))
    elif is_bundle(path):
        model = load_bundle(path, dtype)
    elif (path / "unet").is_dir():
        model = MVDream(load_unet(path / "unet", dtype=dtype), **load_companions(path, dtype), config=MVDreamConfig())
    else:
        raise FileNotFoundError(f"the folder {path} holds no MVDream model: it has neither mvdream.json nor a folder 'unet'")
    for part in (model.unet, model.vae, model.text_encoder):
        part.requires_grad_(False).to(device)
    for lora in loras:
        model = apply_lora(model, *parse_lora(lora))
    return model


def convert(
    source: str | Path, destination: str | Path, *, dtype: str | torch.dtype = "fp16", loras: Sequence[str] = ()
) -> None:
    """Write whatever `load_mvdream` reads as our own bundle, which loads memory-mapped and fast; `loras` become part of it.

    Raises:
        ValueError: the destination exists and is not a bundle or an empty folder; or as `load_mvdream` does.
    """
    destination = Path(destination)
    if destination.exists() and not (destination.is_dir() and (is_bundle(destination) or not any(destination.iterdir()))):
        raise ValueError(f"{destination} exists and is not a model bundle: give a new folder's name")
    save_bundle(bake_loras(load_mvdream(source, device="cpu", dtype=dtype, loras=loras)), destination)


def load_unet(
    state_dict_or_path: Mapping[str, Tensor] | str | Path, config: Mapping | None = None, *, dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """MVDream's UNet from original-layout weights of any width, multi-view attention installed.

    Args:
        state_dict_or_path: weights in LDM names, with or without the `model.diffusion_model.` prefix; or a `.safetensors` or
            `.pt` file of them; or a folder of such shards, whose `config.json`, if it has one, serves as `config`.
        config: in the original constructor's names (`num_head_channels`, `num_heads`, ...). Only the heads are ever needed, and
            only for widths other than MVDream's own, since shapes tell the rest; what is given must agree with them.
        dtype: of the model's weights.

    Raises:
        FileNotFoundError: there is no such path, or no weights in it.
        ValueError: the weights are damaged, of another model, or do not fit the config.
    """
    if isinstance(state_dict_or_path, Mapping):
        weights, what = state_dict_or_path, "the given state dict"
    else:
        path = Path(state_dict_or_path)
        weights, what = read_weights(path), str(path)
        if config is None and (path / "config.json").is_file():
            config = read_json(path / "config.json")
    return _unet_from_original(weights, config, dtype, what)


def _unet_from_original(
    weights: Mapping[str, Tensor], config: Mapping | None, dtype: torch.dtype, what: str
) -> UNet2DConditionModel:
    original = original_unet_weights(weights, what)
    original_config = infer_original_config(original, config, what)
    try:
        renamed = {diffusers_unet_key(name, original_config["num_res_blocks"]): tensor for name, tensor in original.items()}
    except KeyError as error:
        raise ValueError(f"{what} has a UNet weight {error} that MVDream does not have: give an MVDream checkpoint") from error
    unet_config = diffusers_unet_config(original_config)
    unet = load_strictly(lambda: UNet2DConditionModel(**unet_config), renamed, dtype, f"the UNet of {what}")
    install_multiview_attention(unet)
    return unet


def load_original(weights: Mapping[str, Tensor], dtype: torch.dtype, what: str) -> MVDream:
    """A whole checkpoint in the original layout, v2.1 or v1.5 by its text encoder; `what` names it in errors."""
    is_v21 = any(name.startswith(OPENCLIP_PREFIX) for name in weights)
    unet = _unet_from_original(weights, None, dtype, what)
    vae_config, vae_weights = diffusers_vae(weights, what)
    return MVDream(
        unet=unet,
        vae=load_strictly(lambda: AutoencoderKL(**vae_config), vae_weights, dtype, f"the autoencoder of {what}"),
        text_encoder=text_encoder_from_original(weights, dtype, what),
        tokenizer=clip_tokenizer("!") if is_v21 else clip_tokenizer(),
        scheduler=mvdream_noise_schedule(),
        config=MVDreamConfig(name="MVDream v2.1" if is_v21 else "MVDream v1.5"),
    )
