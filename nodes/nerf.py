"""Radiance fields in the making: fitted to views, and refined."""

from __future__ import annotations

import comfy.model_management
from comfy_api.latest import io

from ..gd_core import distillation
from ..gd_core.distillation import RefineConfig
from ..gd_core.nerf import FitConfig, RadianceField, fit_views
from ..gd_core.views import ViewSet
from .border import NodeProgress, at_the_border
from .files import checkpoint_path
from .models import ManagedModel, refining_memory
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
                    default=FitConfig().steps,
                    min=1,
                    max=100_000,
                    tooltip="Optimiser steps. More is sharper and slower; the default is enough for four views.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=FIXED,
                    tooltip="Of everything random in the fit.",
                ),
            ],
            outputs=[GDField.Output(display_name="field", tooltip="For SDS Refine, Mesh Export, Turntable and Save Field.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @at_the_border
    def execute(cls, views: ViewSet, steps: int, seed: int) -> io.NodeOutput:
        config = FitConfig(steps=steps, seed=seed)
        checkpoint = checkpoint_path("fit", views, config)
        progress, device = NodeProgress(cls, "fitting the field"), comfy.model_management.get_torch_device()
        field = fit_views(views, config, progress, resume=checkpoint, device=device)
        checkpoint.unlink(missing_ok=True)
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
                    default=RefineConfig().steps,
                    min=1,
                    max=100_000,
                    tooltip="Optimiser steps; each runs the model once.",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=RefineConfig().guidance_scale,
                    min=1.0,
                    max=200.0,
                    step=0.5,
                    tooltip="How strongly the prompt pulls. Higher is more saturated and less faithful to the views.",
                ),
                io.Float.Input(
                    "reference_weight",
                    default=RefineConfig().reference_weight,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How firmly the reference views hold. 0 lets the model do as it likes.",
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
        config = RefineConfig(steps=steps, guidance_scale=guidance_scale, reference_weight=reference_weight, seed=seed)
        mvdream = model.on_device(working_memory=refining_memory(model))
        checkpoint = checkpoint_path("refine", field, views, mvdream.config, config)
        refined = distillation.refine(field, views, mvdream, config, NodeProgress(cls, "refining"), resume=checkpoint)
        checkpoint.unlink(missing_ok=True)
        comfy.model_management.soft_empty_cache()
        return io.NodeOutput(refined)
