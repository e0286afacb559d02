"""The Attention-Refocus 4-View Sampler."""

from __future__ import annotations

import logging

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from ..gd_core import diffusion, memory
from ..gd_core.recipe import chosen
from ..gd_core.settings.candidates import MOST_CANDIDATES
from ..gd_core.settings.refocus import CHOICES, RefocusConfig, refocusing
from ..gd_core.settings.sampling import SAMPLERS
from ..gd_core.verdicts import missing_words
from .border import NodeProgress, at_the_border, interruptible, tell
from .live import LiveAttention, LiveCandidates, workflow_id
from .models import ManagedModel
from .types import CATEGORY, FocusedPrompt, GDModel, GDPrompt, GDViews

log = logging.getLogger(__name__)

SEED_MAX = 2**64 - 1
MAX_BATCH = 64


class SampleViews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerSampleViews",
            display_name="Attention-Refocus 4-View Sampler",
            category=CATEGORY,
            description="Samples four consistent views of one object. With refocusing on, every focus word is held to its "
            "share of the "
            "model's attention, so that no subject is left out.",
            search_aliases=["mvdream sampler", "multi-view sampler", "attend and excite", "text to multiview", "ksampler 3d"],
            inputs=[
                GDModel.Input("model", tooltip="From Load MVDream."),
                GDPrompt.Input("prompt", tooltip="From Focus Prompt."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=True,
                    tooltip="Of the first object's noise; the next ones of a batch count up from it.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, tooltip="Denoising steps. 0 takes what the model was made for."
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=0.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How strongly the prompt pulls. 0 takes what the model was made for.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=["auto", *SAMPLERS],
                    default="auto",
                    tooltip="Auto takes what the model was made for. DDIM is MVDream's own; the others need fewer steps.",
                ),
                io.Boolean.Input(
                    "refocus",
                    default=True,
                    label_on="on",
                    label_off="off",
                    tooltip="Attention refocusing. Off is plain MVDream: faster, and it may forget a subject.",
                ),
                io.Float.Input(
                    "refocus_strength",
                    default=0.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="How far refocusing may move the latents in all, in units of the noise, at total neglect. 0 takes "
                    "what the model was made for.",
                ),
                io.Float.Input(
                    "refocus_share",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The share of the steps, from the first, that are refocused: the layout is settled early. 0 takes "
                    "what the model was made for.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=MAX_BATCH,
                    tooltip="Objects, one after the other, with seeds that count up. Nodes behind run once for each.",
                ),
                io.Combo.Input(
                    "objective",
                    options=list(CHOICES),
                    default="auto",
                    advanced=True,
                    tooltip="What refocusing minimises. 'paper': the mean of the four views' attention, among all words. "
                    "'per view': each subject in every view, among the subjects. Auto takes what the model was made for.",
                ),
                io.String.Input(
                    "refocus_thresholds",
                    default="auto",
                    advanced=True,
                    tooltip="At these shares of the steps updates repeat until every focus word is so present: "
                    "'0:0.05, 0.2:0.5'; or 'none'. Auto goes with the objective.",
                ),
                io.Boolean.Input(
                    "refocus_checkpointing",
                    default=False,
                    label_on="less memory",
                    label_off="faster",
                    advanced=True,
                    tooltip="Recompute activations in each refocused step: less memory, a third more time. For 8 GB cards.",
                ),
                io.Int.Input(
                    "candidates",
                    default=0,
                    min=0,
                    max=MOST_CANDIDATES,
                    optional=True,
                    tooltip="Starts that are tried for a few steps each; the one that the model itself finds most whole goes "
                    "on. Each costs about a seventh of a run. 1 tries no other. 0 takes what the model was made for.",
                ),
                io.Int.Input(
                    "retries",
                    default=0,
                    min=0,
                    max=MOST_CANDIDATES - 1,
                    optional=True,
                    tooltip="While a subject is missing from the finished views, finish the next best candidate or a fresh "
                    "start, at most so often. 0 takes what the model was made for.",
                ),
            ],
            outputs=[
                GDViews.Output(
                    display_name="views",
                    is_output_list=True,
                    tooltip="The views with cameras, masks and attention, for Sparse NeRF Fit; one set an object.",
                ),
                io.Image.Output(display_name="images", is_output_list=True, tooltip="The same views as an image batch."),
                io.Mask.Output(display_name="masks", is_output_list=True, tooltip="Where the object is in each view."),
                io.Int.Output(
                    display_name="seed",
                    is_output_list=True,
                    tooltip="Of the start that won: with it and candidates at 1 the same views come again.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, refocus_thresholds=None) -> bool | str:
        try:
            RefocusConfig(**refocusing(thresholds=refocus_thresholds))
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @at_the_border
    def execute(
        cls,
        model: ManagedModel,
        prompt: FocusedPrompt,
        seed: int,
        steps: int,
        guidance_scale: float,
        sampler: str,
        refocus: bool,
        refocus_strength: float,
        refocus_share: float,
        batch_size: int,
        objective: str,
        refocus_thresholds: str,
        refocus_checkpointing: bool,
        candidates: int = 0,
        retries: int = 0,
    ) -> io.NodeOutput:
        progress = NodeProgress(cls, "sampling views")
        changes = refocusing(
            objective,
            refocus_thresholds,
            strength=refocus_strength or None,
            share=refocus_share or None,
            checkpointing=refocus_checkpointing or None,
        )
        recipe = model.model.recipe
        config = chosen(recipe.refocus, changes, "refocusing") if refocus else None
        named = None if sampler == "auto" else sampler
        sampling = chosen(recipe.sampling, given(steps=steps, guidance_scale=guidance_scale, sampler=named), "the sampler")
        starts = chosen(recipe.candidates, given(count=candidates, retries=retries), "candidates")
        mvdream = model.on_device(memory.sampling(model.model, refocus=config).working)
        workflow = workflow_id(cls.hidden.extra_pnginfo)
        made, strips = [], []
        for index in range(batch_size):
            live = LiveAttention(prompt, cls.hidden.unique_id, workflow)
            strip = LiveCandidates(cls.hidden.unique_id, workflow)

            def on_step(step: int, total: int, preview: Tensor | None, live=live, index=index) -> None:
                progress.begin(index * total, batch_size * total)
                # Rows of candidates are no views of the one object that the strip of views shows.
                live.step(step, total, None if live.report is None else preview)
                progress(step, total, None if workflow else preview)  # the strip on the page shows the views already

            with live, interruptible(model.parts):
                views = diffusion.sample_views(
                    mvdream,
                    prompt.text,
                    negative_prompt=prompt.negative,
                    seed=(seed + index) % (SEED_MAX + 1),
                    steps=sampling.steps,
                    guidance_scale=sampling.guidance_scale,
                    sampler=sampling.sampler,
                    focus=prompt.focus,
                    refocus=config,
                    candidates=starts,
                    progress=on_step,
                    on_report=live.observe,
                    on_candidates=strip.compared,
                )
                live.done(views)
            made.append(views)
            strips.append(strip.done(views))
            if missing := missing_words(views.verdicts):
                log.warning("%s", missing)
            if why := (views.provenance.get("refocus_report") or {}).get("stopped"):
                log.warning("refocusing rests: %s", why)
        tell(cls, in_force(made[0].provenance))
        comfy.model_management.soft_empty_cache()
        return io.NodeOutput(
            made,
            [views.images for views in made],
            [views.masks for views in made],
            [views.seed for views in made],
            ui={"gd_verdicts": strips},
        )


def given(**inputs) -> dict:
    """Of a node's inputs those that change a recipe: 0 and nothing leave what the model was made for."""
    return {name: value for name, value in inputs.items() if value}


def in_force(provenance: dict) -> str:
    """The settings that made the views, for the node."""
    text = f"{provenance['steps']} steps, guidance {provenance['guidance_scale']:g}, {provenance['sampler']}; "
    refocus, tried = provenance["refocus"], provenance.get("candidates")
    if tried is not None:
        text += f"best of {len(tried['tried'])} candidates, " if tried["tried"] else ""
        text += f"{len(tried['finished'])} finished; "
    if refocus is None:
        return text + "no refocusing"
    share, strength = 100 * refocus["share"], refocus["step_size"]
    where = " where there is doubt" if refocus["when"] == "doubtful" else ""
    text += f"refocusing{where} {refocus['objective']} in {share:.0f} % of the steps, strength {strength:g}"
    return text if refocus["normalise"] else text + " on the raw gradient"
