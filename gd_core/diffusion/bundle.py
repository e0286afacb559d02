"""Our own single-folder form of a model: `mvdream.json` beside diffusers' usual parts, all safetensors.

    mvdream.json    {"format": "grounded-dreamer-mvdream", "version": 2, ...the fields of MVDreamConfig, "recipe": a Recipe}
    unet/           config.json, diffusion_pytorch_model.safetensors (with the attention's own parameters, if it has any)
    vae/            the same
    text_encoder/   config.json, model.safetensors
    tokenizer/      vocab.json, merges.txt, tokenizer_config.json
    scheduler/      scheduler_config.json
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig

from ..files import whole_file
from ..recipe import Recipe
from .card import TINY
from .checkpoint import load_strictly, read_weights
from .model import MVDream, MVDreamConfig
from .multiview import RayGeometry, install_multiview_attention
from .text_tower import build_text_encoder, portable_weights
from .tokenizer import load_tokenizer, save_tokenizer

FORMAT = "grounded-dreamer-mvdream"
FORMAT_VERSION = 2  # 1 had no recipe, and the sampler's steps and guidance scale beside the other fields
UNCHOSEN = {"steps": 30, "guidance_scale": 7.5}  # what cards of version 1 say where nobody had a say
_CARD = "mvdream.json"
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def is_bundle(folder: Path) -> bool:
    return (folder / _CARD).is_file()


def load_bundle(folder: Path, dtype: torch.dtype) -> MVDream:
    """The model of a bundle, on the CPU, memory-mapped where `dtype` is the one that it was saved in.

    Raises:
        ValueError, FileNotFoundError: the folder is not such a bundle, or is damaged; the message names the file.
    """
    card = read_json(folder / _CARD)
    if card.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / _CARD} is not the card of a Grounded-Dreamer model bundle")
    version = card.pop("version", 0)
    if version > FORMAT_VERSION:
        raise ValueError(f"{folder} has bundle format {version}, this release reads up to {FORMAT_VERSION}: update it")
    recipe = read_recipe(card, version, folder / _CARD)
    unknown = card.keys() - {field.name for field in dataclasses.fields(MVDreamConfig)}
    if unknown:
        raise ValueError(f"{folder / _CARD} has entries that no model has: {', '.join(sorted(unknown))}")
    config = MVDreamConfig(**card)
    companions = load_companions(folder, dtype)
    geometry = None if config.ray_geometry is None else RayGeometry(**config.ray_geometry)

    def build_unet() -> UNet2DConditionModel:
        unet = UNet2DConditionModel.from_config(read_json(folder / "unet" / "config.json"))
        install_multiview_attention(unet, geometry)  # before the weights, since its parameters are among them
        return unet

    unet = load_strictly(build_unet, read_weights(folder / "unet"), dtype, f"the UNet of {folder}")
    return MVDream(unet, **companions, config=config, recipe=recipe)


def read_recipe(card: dict, version: int, path: Path) -> Recipe:
    """The recipe of a card, which loses those entries that are part of it.

    A card of version 1 has the sampler's settings only: a model with a vocabulary of its own gets the bundled tiny model's
    recipe, as it did then, without what was found out about its weights, any other one MVDream's.

    Raises:
        ValueError: the recipe has entries that there are not, or values out of range; names them and the file.
    """
    if version >= 2:
        return Recipe.from_json(card.pop("recipe", {}), where=f"the recipe in {path}")
    base = Recipe() if card.get("vocabulary") is None else tiny_recipe().for_other_weights()
    given = {name: card.pop(name) for name in UNCHOSEN if name in card}
    return base if given == UNCHOSEN else Recipe.from_json({"sampling": given}, base, where=f"the sampler in {path}")


def tiny_recipe() -> Recipe:
    """The recipe of the model in this repository."""
    return Recipe.from_json(read_json(TINY / _CARD)["recipe"])


def load_companions(folder: Path, dtype: torch.dtype) -> dict:
    """Every part but the UNet, which is the same in our bundles and in diffusers' folders, by `MVDream`'s field names."""
    missing = [part for part in _PARTS if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: give a whole model folder with {', '.join(_PARTS)}")
    vae_config = read_json(folder / "vae" / "config.json")
    text_config = CLIPTextConfig.from_dict(read_json(folder / "text_encoder" / "config.json"))
    for name in ("vocab.json", "merges.txt"):
        if not (folder / "tokenizer" / name).is_file():
            raise FileNotFoundError(f"{folder / 'tokenizer'} has no {name}: the model's tokenizer is incomplete")
    return {
        "vae": load_strictly(
            lambda: AutoencoderKL.from_config(vae_config), read_weights(folder / "vae"), dtype, f"the autoencoder of {folder}"
        ),
        "text_encoder": build_text_encoder(text_config, read_weights(folder / "text_encoder"), dtype, str(folder)),
        "tokenizer": load_tokenizer(folder / "tokenizer"),
        "scheduler": DDIMScheduler.from_config(read_json(folder / "scheduler" / "scheduler_config.json")),
    }


def save_bundle(model: MVDream, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write `model` as a bundle, its weights in `dtype` (None keeps theirs). Files of the folder that are no part of it stay.

    All parts are written under another name first, and the card, without which the folder is no model, comes last.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the bundle")
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write_parts(model, temporary, dtype)
        folder.mkdir(exist_ok=True)
        (folder / _CARD).unlink(missing_ok=True)
        for part in _PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
            (temporary / part).replace(folder / part)
        (temporary / _CARD).replace(folder / _CARD)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_parts(model: MVDream, folder: Path, dtype: torch.dtype | None) -> None:
    weights = "diffusion_pytorch_model.safetensors"
    _write_module(folder / "unet", model.unet.config, model.unet.state_dict(), weights, dtype)
    _write_module(folder / "vae", model.vae.config, model.vae.state_dict(), weights, dtype)
    text_config = model.text_encoder.config.to_dict()
    _write_module(folder / "text_encoder", text_config, portable_weights(model.text_encoder), "model.safetensors", dtype)
    save_tokenizer(model.tokenizer, folder / "tokenizer")
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", _public(model.scheduler.config))
    head, recipe = {"format": FORMAT, "version": FORMAT_VERSION}, json.loads(model.recipe.to_json())
    _write_json(folder / _CARD, {**head, **dataclasses.asdict(model.config), "recipe": recipe})


def _write_module(
    folder: Path, config: Mapping, weights: Mapping[str, Tensor], file_name: str, dtype: torch.dtype | None
) -> None:
    folder.mkdir()
    _write_json(folder / "config.json", _public(config))
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
    with whole_file(folder / file_name) as temporary:
        save_file(tensors, temporary, {"format": "pt"})


def _public(config: Mapping) -> dict:
    """Without private entries, one of which is the path on the machine that the model was loaded from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def read_json(path: Path) -> dict:
    """A JSON object from a file of a model folder."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no {path.name} in {path.parent}: the model folder is incomplete") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): the model folder is damaged") from error


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
