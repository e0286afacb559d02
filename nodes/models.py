"""Load MVDream: which weights there are, how they get here, and ComfyUI's say over the memory that they take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.latest import io
from torch import nn

from ..gd_core import diffusion
from ..gd_core.diffusion.card import BUNDLED, closed_vocabulary
from ..gd_core.diffusion.lora import MAX_STRENGTH, added_weights
from .border import NodeProgress, at_the_border, leave_inference_mode
from .download import HUB_MODELS, downloaded, fetch
from .types import CATEGORY, GDModel

if TYPE_CHECKING:
    from ..gd_core.diffusion.model import MVDream

FOLDER, LORA_FOLDER = "mvdream", "loras"  # below ComfyUI's models folders
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
FOLDER_CARDS = ("mvdream.json", "model_index.json")  # a folder with one of these is a whole model: our bundle, or diffusers'
BUNDLED_MODELS = {f"{name} (bundled)": name for name in BUNDLED}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER), is_default=True)
folder_paths.folder_names_and_paths[FOLDER] = (folder_paths.get_folder_paths(FOLDER), set(SUFFIXES))


class ManagedModel:
    """An MVDream in the care of ComfyUI's model management: it is on the GPU when asked for, and may be evicted afterwards.

    Attributes:
        parts: the modules that run.
        patchers: what ComfyUI moves and counts: the weights of the model that was loaded, and those that each LoRA added.
    """

    def __init__(self, model: MVDream, base: ManagedModel | None = None):
        """`base`: the model that `model` shares all weights with but those of its newest LoRA."""
        self.model = model
        self.parts = nn.Module()
        self.parts.unet, self.parts.vae, self.parts.text_encoder = model.unet, model.vae, model.text_encoder
        own = self.parts if base is None else added_weights(model, base.model)
        device, waiting = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        self.patchers = [
            *(base.patchers if base is not None else ()),
            comfy.model_patcher.ModelPatcher(own, device, waiting),
        ]

    def on_device(self, working_memory: float) -> MVDream:
        """The model, loaded.

        Args:
            working_memory: bytes to keep free beside the weights, for activations and gradients.
        """
        # whole: stock diffusers modules cannot run with a part of their weights elsewhere
        comfy.model_management.load_models_gpu(self.patchers, memory_required=working_memory, force_full_load=True)
        self.parts.to(self.patchers[0].load_device)  # buffers are not shared with a LoRA's base, all weights are there
        leave_inference_mode(self.parts)  # it may have been evicted while another node ran under inference mode
        return self.model


def model_choices() -> list[str]:
    """The bundled model, then whole-model folders and checkpoints of `models/mvdream`, then what can be downloaded."""
    folders = model_folders()
    parts_of_folders = tuple(f"{name}/" for name in folders)
    files = [
        name for name in folder_paths.get_filename_list(FOLDER) if not name.replace("\\", "/").startswith(parts_of_folders)
    ]
    return [*BUNDLED_MODELS, *folders, *files, *HUB_MODELS]


def model_folders() -> dict[str, Path]:
    """Whole models below the models folders by their name in the list, with forward slashes."""
    return {
        Path(folder).relative_to(root).as_posix(): Path(folder)
        for root in folder_paths.get_folder_paths(FOLDER)
        for folder, _, files in os.walk(root, followlinks=True)
        if folder != root and not set(FOLDER_CARDS).isdisjoint(files)
    }


def find_model(name: str) -> str | Path:
    """What `load_mvdream` is to read for a choice. ValueError: there is no such choice."""
    if name in BUNDLED_MODELS:
        return BUNDLED_MODELS[name]
    if name in HUB_MODELS:
        return name
    if name not in model_choices():
        raise ValueError(
            f"there is no model '{name[:200]}' in models/{FOLDER}: choose one from the list, or put the file there"
        )
    return model_folders().get(name) or Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def vocabulary_of(name: str | None) -> list[str] | None:
    """The closed vocabulary of a choice of Load MVDream; None for an open one, or where it cannot be known without loading."""
    try:
        source = None if name is None else find_model(name)
    except ValueError:  # Load MVDream says so itself
        return None
    return None if source is None else closed_vocabulary(source)


def connected_model(graph: dict | None, prompt_node: str) -> str | None:
    """The choice of the Load MVDream whose model samples the prompt of a Focus Prompt node, or None when that cannot be told.

    Args:
        graph: what runs, in core's API format: node id -> `{"class_type", "inputs"}`.
        prompt_node: id of the Focus Prompt node.
    """
    graph = graph or {}
    for node in graph.values():
        inputs = node.get("inputs", {})
        if [prompt_node, 0] not in inputs.values():
            continue
        seen = set()
        while isinstance(link := inputs.get("model"), list) and link[0] in graph and link[0] not in seen:
            seen.add(link[0])
            source = graph[link[0]]
            inputs = source.get("inputs", {})
            if source.get("class_type") == "GroundedDreamerLoadMVDream" and isinstance(inputs.get("model"), str):
                return inputs["model"]
    return None


class LoadMVDream(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerLoadMVDream",
            display_name="Load MVDream",
            category=CATEGORY,
            description="Loads a multi-view diffusion model. Two small ones come with the pack and run anywhere, but know only "
            f"coloured toys and solids; put MVDream's weights into models/{FOLDER} for anything else.",
            search_aliases=["mvdream loader", "multi-view diffusion", "text to 3d model", "load checkpoint 3d"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_choices(),
                    default=next(iter(BUNDLED_MODELS)),
                    tooltip=f"The bundled models; then files and model folders of models/{FOLDER}, subfolders too; last what "
                    "'download' can fetch.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    label_on="yes",
                    label_off="no",
                    tooltip="Allow this node to fetch the chosen repository from the Hugging Face hub (several GB). "
                    "Nothing is ever "
                    "downloaded without it.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", *DTYPES],
                    default="auto",
                    advanced=True,
                    tooltip="Of the weights. Auto: half precision where the device is fast with it, else full.",
                ),
            ],
            outputs=[GDModel.Output(display_name="model", tooltip="For the 4-View Sampler and SDS Refine.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, model=None) -> bool | str:  # core blames every argument: only the one that is looked at
        try:
            if model is not None:
                find_model(model)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @at_the_border
    def execute(cls, model: str, download: bool, precision: str) -> io.NodeOutput:
        source = find_model(model)
        if source in HUB_MODELS:
            here = downloaded(source)
            if here is None and not download:
                raise ValueError(
                    f"'{model}' is not on this machine: turn on 'download' to fetch {HUB_MODELS[source]}, or choose another "
                    "model"
                )
            source = here or fetch(source, NodeProgress(cls, f"downloading {model}"))
        device = comfy.model_management.unet_offload_device()
        return io.NodeOutput(ManagedModel(diffusion.load_mvdream(source, device=device, dtype=chosen_dtype(precision))))


class LoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerLoadLoRA",
            display_name="Load LoRA for MVDream",
            category=CATEGORY,
            description="Puts a LoRA on top of a multi-view model: a style or a subject in a small file. MVDream v2.1 takes "
            "those of Stable Diffusion 2.x, v1.5 those of 1.x. The model that comes in stays as it was; nodes in a row stack.",
            search_aliases=["lora loader", "mvdream lora", "style", "kohya", "stable diffusion lora"],
            inputs=[
                GDModel.Input("model", tooltip="From Load MVDream, or from another of these nodes."),
                io.Combo.Input(
                    "lora",
                    options=folder_paths.get_filename_list(LORA_FOLDER),
                    tooltip=f"A file of models/{LORA_FOLDER}, with diffusers' or kohya's names, for UNet and text encoder.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.05,
                    tooltip="How much of it. 0 leaves the model as it is, less than 0 turns it away from what the LoRA shows.",
                ),
            ],
            outputs=[GDModel.Output(display_name="model", tooltip="With the LoRA. The weights below it are shared.")],
        )

    @classmethod
    def validate_inputs(cls, lora=None) -> bool | str:
        if lora is None or lora in folder_paths.get_filename_list(LORA_FOLDER):
            return True
        return f"there is no LoRA '{lora[:200]}' in models/{LORA_FOLDER}: choose one from the list, or put the file there"

    @classmethod
    @at_the_border
    def execute(cls, model: ManagedModel, lora: str, strength: float) -> io.NodeOutput:
        valid = cls.validate_inputs(lora)
        if valid is not True:
            raise ValueError(valid)
        path = folder_paths.get_full_path_or_raise(LORA_FOLDER, lora)
        with_lora = diffusion.apply_lora(model.model, path, strength)
        return io.NodeOutput(model if with_lora is model.model else ManagedModel(with_lora, base=model))


def chosen_dtype(precision: str) -> torch.dtype:
    if precision != "auto":
        return DTYPES[precision]
    half = comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())
    return torch.float16 if half else torch.float32
