"""What a benchmark makes of a prompt: the four views alone, or the whole asset.

Settings are those of `pipeline.generate`, as JSON: `{"steps": 20, "refocus": null, "refinement": {"multi_view": false}}`. A
stage's settings may name some of its fields only; null turns refocusing or refinement off.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import trimesh

from ..attention import RefocusConfig
from ..cameras import orbit_cameras
from ..diffusion import load_mvdream, sample_views
from ..distillation import RefineConfig
from ..mesh import MeshConfig, sample_surface
from ..metrics.scorecard import evaluate_field
from ..nerf import FitConfig, RadianceField, load_field
from ..pipeline import generate
from ..recipe import chosen
from ..settings.candidates import CandidateConfig
from ..settings.reading import read_settings
from ..views import ViewSet, load_views
from .items import Made
from .prompt_sets import Prompt
from .protocols import protocol_pictures
from .runner import Maker

SAMPLING = ("negative_prompt", "steps", "guidance_scale", "refocus", "candidates")
STAGES = {
    "refocus": RefocusConfig,
    "candidates": CandidateConfig,
    "fit": FitConfig,
    "refinement": RefineConfig,
    "mesh": MeshConfig,
}
TURNTABLE_VIEWS = 8  # all around, and no reference view among them
SURFACE_POINTS = 2048


def views_maker(model: str, settings: dict) -> Maker:
    """Stage 1 alone: `sample_views`, with refocusing on the prompt's subjects unless `refocus` is null.

    Raises:
        ValueError: a setting that there is not; what `load_mvdream` raises.
    """
    arguments = _arguments(settings, (*SAMPLING, "loras", "protocol"))
    arguments.pop("protocol", None)  # of those that look at the views, none asks for other ones
    loaded = load_mvdream(model, loras=arguments.pop("loras", ()))
    if arguments["refocus"] is not None:
        arguments["refocus"] = chosen(loaded.recipe.refocus, arguments["refocus"], "setting 'refocus'")
    arguments["candidates"] = chosen(loaded.recipe.candidates, arguments["candidates"], "setting 'candidates'")

    def make(prompt: Prompt, seed: int) -> Made:
        views = sample_views(loaded, prompt.text, seed=seed, **arguments)
        return Made(views, numbers=_stage_seconds({"views": views.provenance.get("sampling_seconds")}))

    return make


def asset_maker(model: str, settings: dict) -> Maker:
    """The whole pipeline, `generate`. What is scored is the finished field seen from eight sides, or what the setting
    `protocol` looks at (`protocols.PROTOCOLS`); and the mesh.

    Raises:
        ValueError: a setting that there is not; what `load_mvdream` raises.
    """
    arguments = _arguments(settings, (*SAMPLING, "loras", "fit", "refinement", "mesh", "protocol"))
    protocol = arguments.pop("protocol", None)
    loaded = load_mvdream(model, loras=arguments.pop("loras", ()))

    def make(prompt: Prompt, seed: int) -> Made:
        with tempfile.TemporaryDirectory(prefix="grounded-dreamer-") as folder:
            record = generate(
                prompt.text, folder, model=loaded, seed=seed, turntable_frames=1, turntable_size=64, **arguments
            )
            views = load_views(Path(folder) / "views.safetensors")
            field = load_field(Path(folder) / "field.safetensors")
            seen = _turntable(field, views)
            if protocol is not None:
                seen = protocol_pictures(protocol, views, field, Path(folder) / "mesh.glb", seen.cameras)
            mesh = trimesh.load(Path(folder) / "mesh.glb", force="mesh")
            mesh.merge_vertices(merge_tex=True, merge_norm=True)  # the seams of the texture are not holes
        numbers = evaluate_field(field, views) | _stage_seconds(record["seconds"])
        numbers |= {"mesh_faces": float(len(mesh.faces)), "mesh_watertight": bool(mesh.is_watertight)}
        points = sample_surface(mesh, SURFACE_POINTS, torch.Generator().manual_seed(0))
        return Made(views, seen, points, numbers)

    return make


def _turntable(field: RadianceField, views: ViewSet) -> ViewSet:
    """The field from `TURNTABLE_VIEWS` sides at the views' own elevation and size, half a step off the first of them."""
    position = views.cameras.positions[0].double()
    azimuth = torch.rad2deg(torch.atan2(position[0], -position[1]))
    cameras = orbit_cameras(
        TURNTABLE_VIEWS,
        float(torch.rad2deg(torch.asin(position[2] / position.norm()))),
        float(azimuth) + 180 / TURNTABLE_VIEWS,
        distance=float(position.norm()),
        fov_y_deg=float(views.cameras.fov_y_deg[0]),
    )
    with torch.no_grad():
        rendered = field.render(cameras, views.height, views.width)
    images, masks = rendered.rgb.cpu().clamp(0, 1), rendered.alpha.cpu().clamp(0, 1)
    return ViewSet(images, masks, cameras, prompt=views.prompt, seed=views.seed)


def _arguments(settings: dict, known: tuple[str, ...]) -> dict:
    """Keyword arguments of `generate` from JSON settings, refusing what it would not take before anything is loaded."""
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"unknown setting '{name}': this maker takes {', '.join(known)}")
        if name in STAGES and (value is not None or name == "candidates"):
            read_settings(STAGES[name](), value, f"setting '{name}'", run=True)
    complete = {name: {} for name in STAGES} | settings
    return {name: value for name, value in complete.items() if name in known}


def _stage_seconds(seconds: dict[str, float | None]) -> dict[str, float]:
    return {f"seconds_{stage}": float(value) for stage, value in seconds.items() if value is not None and stage != "turntable"}
