"""The whole job, top to bottom: views, fit, refinement, mesh, turntable."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from .attention import Focus, RefocusConfig
from .diffusion import encode_prompt, load_mvdream, sample_views
from .diffusion.model import MVDream
from .diffusion.sampling import refuse_request
from .distillation import RefineConfig, refine
from .distillation.guidance import multiview_guidance
from .files import refuse_unwritable_folder
from .mesh import MeshConfig, extract_mesh
from .nerf import FitConfig, RadianceField, fit_views, load_field, match_with_views
from .recipe import AS_MADE, Recipe, chosen
from .runs import RunFolder, StageProgress, save_field, save_mesh, save_views
from .settings.candidates import CandidateConfig
from .verdicts import missing_words
from .video import refuse_frames, render_orbit, turntable_cameras, write_mp4
from .views import Progress, ViewSet, load_views

log = logging.getLogger(__name__)


def generate(
    prompt: str,
    out_dir: str | Path,
    *,
    model: str | MVDream = "toys",
    loras: Sequence[str] = (),
    seed: int = 0,
    negative_prompt: str = "",
    recipe: Recipe | Mapping = AS_MADE,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: str | None = None,
    focus: Focus | None = None,
    refocus: RefocusConfig | Mapping | None = AS_MADE,
    candidates: CandidateConfig | Mapping = AS_MADE,
    fit: FitConfig | Mapping = AS_MADE,
    refinement: RefineConfig | Mapping | None = AS_MADE,
    mesh: MeshConfig | Mapping = AS_MADE,
    turntable_frames: int = 36,
    turntable_size: int = 256,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: StageProgress | None = None,
) -> dict:
    """Text to a textured mesh in `out_dir`.

    Leaves `views.png`, `attention.png`, `turntable.mp4`, `mesh.glb`, `field.safetensors` and `run.json` (settings, versions,
    seconds, metrics), besides `views.safetensors` and `fit.safetensors`, from which a killed run goes on.

    Args:
        model: a loaded model, or what `load_mvdream` reads. loras: as `load_mvdream` takes them, for a model that it reads.
        seed: of the views, the fit and the refinement.
        recipe: the model's settings of every stage, whole, or what is to be changed of those that it was made for.
        steps, guidance_scale, sampler: None takes the recipe's.
        focus: None focuses on the prompt's subjects.
        refocus, candidates, fit, refinement, mesh: a stage's settings, whole, or what is to be changed of the recipe's. Without
            refocusing (None) views are sampled plainly; without refinement (None) the fitted field stays as it is.
        turntable_frames, turntable_size: frames of one turn, 12 a second, and pixels a side, even.
        resume: go on with the run in `out_dir`, which must have been started with the same settings.
        overwrite: replace an earlier run in `out_dir`.
        device: of a `model` that is yet to be loaded, see `devices.resolve_device`. Every stage runs where the model is.
        progress: called with the stage's name in each step of each stage; may raise to cancel.

    Returns:
        what `run.json` holds.

    Raises:
        ValueError: for bad settings, or an `out_dir` that holds another run.
        OSError: when it cannot be written.
    """
    refuse_frames(turntable_frames, turntable_size)
    refuse_unwritable_folder(out_dir)
    refuse_request([prompt], [seed])
    mvdream = model if isinstance(model, MVDream) else load_mvdream(model, device=device, loras=loras)
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_json(recipe, mvdream.recipe)
    mvdream = replace(mvdream, recipe=recipe)
    given = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
    sampling = replace(recipe.sampling, **{name: value for name, value in given.items() if value is not None})
    refocus = None if refocus is None else chosen(recipe.refocus, refocus, "refocusing")
    candidates = chosen(recipe.candidates, candidates, "candidates")
    fit = replace(chosen(recipe.fit, fit, "the fit"), seed=seed)
    refinement = None if refinement is None else replace(chosen(recipe.refine, refinement, "refinement"), seed=seed)
    mesh = chosen(recipe.mesh, mesh, "the mesh")
    settings = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "model": model if isinstance(model, str) else model.config.name,
        "loras": list(loras),
        "seed": seed,
        "recipe": json.loads(recipe.to_json()),
        **{name: getattr(sampling, name) for name in given},
        "focus": None if focus is None else focus.to_json(),
        "refocus": None if refocus is None else asdict(refocus),
        "candidates": asdict(candidates),
        "fit": asdict(fit),
        "refinement": None if refinement is None else asdict(refinement),
        "mesh": asdict(mesh),
        "turntable_frames": turntable_frames,
        "turntable_size": turntable_size,
    }
    if not resume:
        _refuse_unreadable(mvdream, prompt, negative_prompt, focus, refinement)
    run = RunFolder(out_dir, settings, resume=resume, overwrite=overwrite, progress=progress)

    def sample(tell: Progress) -> ViewSet:
        return sample_views(
            mvdream,
            prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            focus=focus,
            refocus=refocus,
            candidates=candidates,
            **{name: getattr(sampling, name) for name in given},
            progress=tell,
        )

    def fit_them(tell: Progress) -> RadianceField:
        return fit_views(views, fit, tell, resume=run.checkpoint("fit"), device=mvdream.device)

    def load_here(path: Path) -> RadianceField:
        return load_field(path, mvdream.device)

    def distill(tell: Progress) -> RadianceField:
        if refinement is None:
            return fitted
        return refine(fitted, views, mvdream, refinement, tell, resume=run.checkpoint("refine"))

    views = run.stage("views", "views.safetensors", sample, save_views, load_views)
    run.record["verdicts"] = [verdict.to_plain() for verdict in views.verdicts]
    run.record["winning_seed"] = views.seed
    run.save()
    if missing := missing_words(views.verdicts):
        log.warning("%s", missing)
    fitted = run.stage("fit", "fit.safetensors", fit_them, save_field, load_here)
    field = run.stage("refine", "field.safetensors", distill, save_field, load_here)
    extras = {"prompt": prompt, "seed": seed, "settings": settings}
    run.stage(
        "mesh", "mesh.glb", lambda tell: extract_mesh(field, mesh, tell), lambda made, path: save_mesh(made, path, extras)
    )
    run.stage(
        "turntable",
        "turntable.mp4",
        lambda tell: render_orbit(field, turntable_cameras(views, turntable_frames), turntable_size, tell),
        write_mp4,
    )
    matches = {"fitted": match_with_views(fitted, views), "refined": match_with_views(field, views)}
    return run.finish(**{name: {"reference_psnr": m.psnr, "mask_iou": m.mask_iou} for name, m in matches.items()})


def _refuse_unreadable(
    model: MVDream, prompt: str, negative_prompt: str, focus: Focus | None, refinement: RefineConfig | None
) -> None:
    """ValueError, before any view is sampled, for texts that the model or a later stage could not read."""
    read = model.encode_prompt(prompt)
    encode_prompt(model, negative_prompt, suffix=False)
    if focus is not None:
        focus.locate(read.text, read.words, read.end_token)
    if refinement is not None:
        views_judged = 4 if refinement.multi_view else 1
        negative = refinement.negative_prompt if refinement.negative_prompt is not None else negative_prompt.strip() or None
        multiview_guidance(model, prompt, negative, suffix=refinement.suffix, num_views=views_judged)
