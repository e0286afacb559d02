"""LoRA (Hu et al., 2106.09685): W x + s (alpha / r) B A x, for the UNet's and the text encoder's layers.

Files in diffusers' and kohya's names. diffusers translates the names and peft runs the layers. The model that is given stays
as it was: the one that comes back has its own structure and the very same base weights, so dropping it unloads the LoRA.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .checkpoint import read_weights, weight_files

if TYPE_CHECKING:
    from .model import MVDream

MAX_STRENGTH = 10.0  # far beyond it nothing but noise comes out
_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
_PARTS = {"unet": "UNet", "text_encoder": "text encoder"}
_DOWN, _UP = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", "_lora.down.weight"), ".lora_B.weight"
_OTHER_KINDS = ("hada_", "lokr_", "oft_", "dora_scale", "lora_magnitude_vector", "lora_mid")


@dataclass(frozen=True)
class _Layer:
    """One layer's addition: `down` A `[r, in, ...]`, `up` B `[out, r, ...]`, and alpha."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def apply_lora(model: MVDream, path: str | Path, strength: float = 1.0) -> MVDream:
    """`model` with a LoRA on top of what it has; call again to stack another.

    Args:
        path: a `.safetensors` or `.pt` file, or a folder that holds one.
        strength: factor of the addition, -10..10. At 0 the model itself comes back.

    Returns:
        A model that shares every weight of the given one and adds its own. The given one is as it was.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the strength is out of range, the file is damaged or no LoRA, or it was made for another model.
    """
    path = Path(path)
    if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:  # NaN too
        raise ValueError(
            f"the strength of {path.name} must be between -{MAX_STRENGTH:g} and {MAX_STRENGTH:g}, got {strength:g}"
        )
    layers = _read_layers(path, model)
    if strength == 0:
        return model
    parts = {part: _with_adapter(getattr(model, part), fitted, strength) for part, fitted in layers.items() if fitted}
    return replace(model, **parts, config=replace(model.config, name=f"{model.config.name} + {path.stem} {strength:g}"))


def parse_lora(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:STRENGTH`, as the command line takes it.

    Raises:
        ValueError: no file is named.
    """
    file, separator, strength = text.rpartition(":")
    try:
        parsed = float(strength)
    except ValueError:
        separator = ""  # a colon of the path itself
    if not separator or Path(text).exists():
        file, parsed = text, 1.0
    if not file:
        raise ValueError(f"a LoRA is FILE or FILE:STRENGTH, got '{text}'")
    return Path(file), parsed


def bake_loras(model: MVDream) -> MVDream:
    """`model` with its LoRAs added into the weights, in place: for models that nobody else holds."""
    from diffusers.utils import recurse_remove_peft_layers  # noqa: PLC0415
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    for part in (model.unet, model.text_encoder):
        if not hasattr(part, "peft_config"):
            continue
        for layer in part.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
        recurse_remove_peft_layers(part)
        del part.peft_config
    return model


def added_weights(model: MVDream, base: MVDream) -> nn.Module:
    """A module of the parameters that `model` has and `base` has not: what a LoRA costs in memory."""
    known = {id(parameter) for parameter in _parameters(base)}
    added = nn.Module()
    added.lora = nn.ParameterList([parameter for parameter in _parameters(model) if id(parameter) not in known])
    return added


def _parameters(model: MVDream) -> Iterable[nn.Parameter]:
    for part in (model.unet, model.vae, model.text_encoder):
        yield from part.parameters()


def _read_layers(path: Path, model: MVDream) -> dict[str, dict[str, _Layer]]:
    """By part of the model and name of the module, all of them known to fit."""
    if not path.exists():
        raise FileNotFoundError(f"no LoRA at '{path}': give a .safetensors or .pt file")
    weights = read_weights(path)
    if not weights:
        raise ValueError(f"the LoRA {path} is empty: it holds no weights")
    _refuse_other_kinds(weights, path)
    _refuse_other_family(weights, path, model)
    damaged = [name for name, t in weights.items() if not (t.is_meta or torch.isfinite(t.sum(dtype=torch.float32)))]
    if damaged:
        raise ValueError(
            f"weight '{damaged[0]}' of {path} holds NaN or infinite values: the file is damaged, download it again"
        )
    alphas = _alphas(weights)
    layers: dict[str, dict[str, _Layer]] = {}
    for part, named in _named_as_in_model(weights, path, model).items():
        metadata = _metadata_alpha(path, part)
        layers[part] = {}
        for name, down in named.items():
            if not name.endswith(".lora_A.weight"):
                continue
            module = name.removesuffix(".lora_A.weight")
            up = named.get(module + _UP)
            if up is None:
                raise ValueError(f"layer '{module}' of {path} has one of its two matrices only: download the file again")
            alpha = alphas.get(id(down))
            layers[part][module] = _Layer(down, up, metadata(module, down.shape[0]) if alpha is None else alpha)
        left = sorted(named.keys() - {f"{module}{leaf}" for module in layers[part] for leaf in (".lora_A.weight", _UP)})
        if left:
            raise ValueError(f"'{left[0]}' of {path} is no part of a LoRA of Stable Diffusion, {_remedy(model)}")
    return {part: _fitted(getattr(model, part), part, found, path, model) for part, found in layers.items()}


def _refuse_other_kinds(weights: Mapping[str, Tensor], path: Path) -> None:
    ends = (".diff", ".diff_b", "lora_B.bias")
    kinds = [name for name in weights if any(sign in name for sign in _OTHER_KINDS) or name.endswith(ends)]
    if kinds:
        raise ValueError(
            f"{path} is not an ordinary LoRA ('{kinds[0]}'): LoHa, LoKr, OFT, DoRA and full differences are not read"
        )
    if not any("lora" in name for name in weights):
        raise ValueError(
            f"{path} is not a LoRA: none of its {len(weights)} weights is named as one's ('{next(iter(weights))}')"
        )


def _refuse_other_family(weights: Mapping[str, Tensor], path: Path, model: MVDream) -> None:
    """By the width of the text that cross-attention reads, which every family has its own of."""
    keys = [t for name, t in weights.items() if "attn2" in name and "to_k" in name and name.endswith(_DOWN) and t.ndim >= 2]
    width = keys[0].shape[1] if keys else None
    if any(name.startswith(("lora_te2_", "text_encoder_2.", "te2.")) for name in weights):
        width = 2048
    if width is not None and width != model.unet.config.cross_attention_dim:
        raise ValueError(
            f"{path.name} is a LoRA of {_FAMILIES.get(width, 'another model')} (text width {width}), {_remedy(model)}"
        )


def _remedy(model: MVDream) -> str:
    width = model.unet.config.cross_attention_dim
    family = _FAMILIES.get(width, f"models like it (text width {width})")
    return f"but {model.config.name} takes those of {family}"


def _alphas(weights: dict[str, Tensor]) -> dict[int, float]:
    """Alphas by the identity of their down matrices, which translating the names keeps; taken out of `weights`."""
    alphas = {}
    for name in [name for name in weights if name.endswith(".alpha")]:
        alpha, stem = weights.pop(name), name.removesuffix(".alpha")
        for leaf in _DOWN:
            if stem + leaf in weights:
                alphas[id(weights[stem + leaf])] = float(alpha)
    return alphas


def _metadata_alpha(path: Path, part: str) -> Callable[[str, int], float]:
    """`(module, rank) -> alpha` as the header of a file of diffusers says, else the rank (a factor of 1)."""
    file = path if path.is_file() else weight_files(path)[0]
    said: dict = {}
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            said = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    alpha, pattern = said.get(f"{part}.lora_alpha"), said.get(f"{part}.alpha_pattern") or {}
    with_root = said.get(f"{part}.use_rslora", False)

    def alpha_of(module: str, rank: int) -> float:
        own = next((value for name, value in pattern.items() if module.endswith(name.lstrip("^"))), alpha)
        return float(rank if own is None else own * (math.sqrt(rank) if with_root else 1))

    return alpha_of


def _named_as_in_model(weights: Mapping[str, Tensor], path: Path, model: MVDream) -> dict[str, dict[str, Tensor]]:
    """Weights by part, in peft's names below the part."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin  # noqa: PLC0415
    from diffusers.utils import (  # noqa: PLC0415
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    prefixes = tuple(f"{part}." for part in _PARTS)
    try:
        named, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(weights))
        if not any(name.startswith(prefixes) for name in named):  # releases of diffusers before 0.17 named the UNet's alone
            named = {f"unet.{name}": tensor for name, tensor in named.items()}
        parts = {part: {n[len(part) + 1 :]: t for n, t in named.items() if n.startswith(f"{part}.")} for part in _PARTS}
        unet = convert_unet_state_dict_to_peft(parts["unet"])
        text = parts["text_encoder"]
        text = text and convert_state_dict_to_peft(convert_state_dict_to_diffusers(text))
    except (ValueError, KeyError, IndexError, RuntimeError, AttributeError) as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(f"the names of the weights of {path} are of no LoRA of Stable Diffusion ({told})") from error
    strangers = sorted(name for name in named if not name.startswith(prefixes))
    if strangers:
        raise ValueError(f"'{strangers[0]}' of {path} is no part of a LoRA of Stable Diffusion, {_remedy(model)}")
    if not hasattr(model.text_encoder, "text_model"):  # transformers 5 dropped this level
        text = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    return {"unet": unet, "text_encoder": text}


def _fitted(root: nn.Module, part: str, layers: dict[str, _Layer], path: Path, model: MVDream) -> dict[str, _Layer]:
    """The layers with the shapes of their modules. Refuses what has no module, or one of another shape."""
    modules, fitted, problems = dict(root.named_modules()), {}, []
    for name, layer in layers.items():
        base = modules.get(name)
        base = getattr(base, "base_layer", base)  # of a LoRA that is there already
        if isinstance(base, nn.Linear):
            kernel = ()
        elif isinstance(base, nn.Conv2d) and base.groups == 1:
            kernel = base.kernel_size
        else:
            problems.append(f"it has no layer '{name}'")
            continue
        into, out = base.weight.shape[1], base.weight.shape[0]
        rank = layer.rank
        down, up = (rank, into, *kernel), (out, rank, *(1 for _ in kernel))
        if math.prod(down) != layer.down.numel() or math.prod(up) != layer.up.numel() or layer.down.shape[1] != into:
            problems.append(f"'{name}' is {out} x {into}, the LoRA's {layer.up.shape[0]} x {layer.down.shape[1]}")
            continue
        # 1 x 1 convolutions and linear layers are the same, and files have them either way
        fitted[name] = _Layer(layer.down.reshape(down), layer.up.reshape(up), layer.alpha)
    if problems:
        raise ValueError(
            f"{path.name} does not fit the {_PARTS[part]} of {model.config.name} in {len(problems)} of {len(layers)} layers "
            f"({problems[0]}): it was made for another model, {_remedy(model)}"
        )
    return fitted


def _with_adapter(base: nn.Module, layers: Mapping[str, _Layer], strength: float) -> nn.Module:
    """`base`'s structure with LoRA layers in it; parameters and buffers are `base`'s own."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict  # noqa: PLC0415
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    shared = [*base.parameters(), *base.buffers()]
    trainable = [tensor.requires_grad for tensor in shared]
    module = copy.deepcopy(base, {id(tensor): tensor for tensor in shared})
    adapter = f"lora_{len(getattr(module, 'peft_config', {}))}"
    ranks = Counter(layer.rank for layer in layers.values())
    common = ranks.most_common(1)[0][0]
    config = LoraConfig(
        r=common,
        lora_alpha=common,
        rank_pattern={f"^{name}": layer.rank for name, layer in layers.items() if layer.rank != common},
        target_modules=list(layers),
    )
    weights = {f"{name}.lora_A.weight": layer.down for name, layer in layers.items()}
    weights |= {f"{name}{_UP}": layer.up for name, layer in layers.items()}
    first = next(base.parameters())
    weights = {name: tensor.to(first.device, first.dtype, copy=True) for name, tensor in weights.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # stacking is meant
        inject_adapter_in_model(config, module, adapter, low_cpu_mem_usage=True)
    set_peft_model_state_dict(module, weights, adapter, low_cpu_mem_usage=True)
    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_adapter(list(layer.scaling))  # all that it has act together
            if name in layers:
                layer.lora_alpha[adapter] = layers[name].alpha
                layer.set_scale(adapter, strength)
    module.requires_grad_(False)
    for tensor, flag in zip(shared, trainable, strict=True):  # peft froze them, and they are not ours
        tensor.requires_grad_(flag)
    return module.eval()
