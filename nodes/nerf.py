"""Radiance fields in the making: fitted to views, and refined."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
from comfy_api.latest import io

from ..gd_core import distillation, memory
from ..gd_core.devices import free_memory
from ..gd_core.nerf import QUALITIES, RadianceField, fit_views
from ..gd_core.nerf.quality import affordable, memory_to_fit
from ..gd_core.views import USEFUL_PIXELS, ViewSet
from .border import NodeProgress, at_the_border, interruptible, tell
from .files import checkpoint_path, forget
from .models import ManagedModel
from .types import CATEGORY, GDField, GDModel, GDViews

SEED_MAX = 2**63 - 1
FIXED = io.ControlAfterGenerate.fixed  # a new seed here costs minutes and changes little


class FitNeRF(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerFitNeRF",
            display_name="Sparse NeRF Fit",
            category=CATEGORY,
            description="Turns a handful of views into a radiance field: coarse geometry and colour from those views alone.",
            search_aliases=["nerf", "views to 3d", "images to 3d", "sparse view reconstruction", "radiance field"],
            inputs=[
                GDViews.Input("views", tooltip="From the 4-View Sampler or Views from Images."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="Optimiser steps; more is sharper and slower. 0 takes what the views' model was made for.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=FIXED,
                    tooltip="Of everything random in the fit.",
                ),
                io.Combo.Input(
                    "quality",
                    options=["auto", *QUALITIES],
                    default="auto",
                    tooltip="How fine the shape is: a cell is at most 4 (draft), 2 (standard) or 1 (fine) pixels of the views. "
                    "Finer is slower and takes more memory; where that is short, the next lower is fitted. auto takes what the "
                    "views' model was made for.",
                ),
            ],
            outputs=[GDField.Output(display_name="field", tooltip="For SDS Refine, Mesh Export, Turntable and Save Field.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @at_the_border
    def execute(cls, views: ViewSet, steps: int, seed: int, quality: str = "auto") -> io.NodeOutput:
        progress = NodeProgress(cls, "fitting the field")
        made_for = views.recipe.fit
        chosen = made_for.quality if quality == "auto" else quality
        config = replace(made_for, steps=steps or made_for.steps, seed=seed, quality=chosen)
        device, usable = comfy.model_management.get_torch_device(), views.at_most(USEFUL_PIXELS)
        comfy.model_management.free_memory(memory_to_fit(config, usable), device)
        quality = affordable(config, usable, free_memory(device))  # another one is another fit, with a checkpoint of its own
        checkpoint = checkpoint_path("fit", views, sorted(views.attention.items()), config, quality)
        field = fit_views(views, config, progress, resume=checkpoint, device=device)
        forget(checkpoint)
        tell(cls, f"{config.steps} steps, {field.provenance['fit']['config']['quality']} quality")
        return io.NodeOutput(field)


class RefineSDS(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerRefineSDS",
            display_name="SDS Refine",
            category=CATEGORY,
            description="Refines a field with the multi-view model's own judgement (score distillation), held to the "
            "reference views.",
            search_aliases=["score distillation", "sds", "dreamfusion", "refine nerf", "hybrid refinement"],
            inputs=[
                GDField.Input("field", tooltip="From Sparse NeRF Fit or Load Field."),
                GDViews.Input("views", tooltip="The views that the field was fitted to: they stay the reference."),
                GDModel.Input("model", tooltip="The model that judges the renders."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="Optimiser steps; each runs the model once. 0 takes what the model was made for.",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=0.0,
                    min=0.0,
                    max=200.0,
                    step=0.5,
                    tooltip="How strongly the prompt pulls; higher is more saturated and less faithful to the views. 0 takes "
                    "what the model was made for.",
                ),
                io.Float.Input(
                    "reference_weight",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How firmly the reference views hold. 0 lets the model do as it likes, -1 takes what it was made "
                    "for.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=FIXED,
                    tooltip="Of everything random in the refinement.",
                ),
            ],
            outputs=[
                GDField.Output(display_name="field", tooltip="The refined field; the one that came in is left as it was.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @at_the_border
    def execute(
        cls,
        field: RadianceField,
        views: ViewSet,
        model: ManagedModel,
        steps: int,
        guidance_scale: float,
        reference_weight: float,
        seed: int,
    ) -> io.NodeOutput:
        progress = NodeProgress(cls, "refining")
        mvdream = model.on_device(memory.to_refine(model.model))
        made_for = mvdream.recipe.refine
        config = replace(
            made_for,
            steps=steps or made_for.steps,
            guidance_scale=guidance_scale or made_for.guidance_scale,
            reference_weight=made_for.reference_weight if reference_weight < 0 else reference_weight,
            seed=seed,
        )
        checkpoint = checkpoint_path("refine", field, views, mvdream.config, mvdream.unet.conv_out.weight, config)
        with interruptible(model.parts):  # a step on the CPU takes too long to wait for
            refined = distillation.refine(field, views, mvdream, config, progress, resume=checkpoint)
        forget(checkpoint)
        comfy.model_management.soft_empty_cache()
        weights = f"guidance {config.guidance_scale:g}, reference weight {config.reference_weight:g}"
        tell(cls, f"{config.steps} steps, {weights}; kept step {refined.provenance['refine']['best_step']}")
        return io.NodeOutput(refined)
