"""What each command of `python -m gd_core` does: settings from the arguments, one call, files written whole."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor
from tqdm import tqdm

from .attention import Focus
from .cameras import orbit_cameras
from .devices import resolve_device
from .diffusion import convert, load_mvdream, sample_views
from .diffusion.model import MVDream
from .diffusion.sampling import refuse_request
from .distillation import refine
from .files import refuse_unwritable, refuse_unwritable_folder, write_text
from .mesh import extract_mesh
from .mesh.export import ENCODERS, LARGEST_PRINT
from .nerf import fit_views, load_field
from .pictures import image_grid
from .pipeline import generate
from .recipe import Recipe, chosen
from .runs import arguments_of, pictures_beside, read_record, save_field, save_mesh, save_views, write_png
from .settings.refocus import refocusing
from .verdicts import missing_words
from .video import refuse_frames, render_orbit, write_mp4
from .views import Progress, load_views


class Bars:
    """One tqdm bar a stage, on stderr; a `runs.StageProgress`."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.bar: tqdm | None = None

    def __call__(self, stage: str, step: int, total: int, preview: Tensor | None) -> None:
        if stage != self.stage:
            self.close()
            # A resumed stage starts where it stopped: its speed is that of the steps done here.
            self.stage, self.bar = stage, tqdm(total=total, desc=f"{stage:>9}", initial=max(step - 1, 0), dynamic_ncols=True)
        self.bar.total = total
        self.bar.update(step - self.bar.n)

    def of(self, stage: str) -> Progress:
        return lambda step, total, preview: self(stage, step, total, preview)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _generate(args: argparse.Namespace) -> None:
    with Bars() as bars:
        if args.resume is not None:
            if args.out not in (None, args.resume):
                raise ValueError(f"a resumed run stays in its folder: leave out --out, or give {args.resume}")
            arguments = arguments_of(read_record(args.resume))
            if args.prompt is not None and args.prompt != arguments["prompt"]:
                raise ValueError(f"{args.resume} holds a run of '{arguments['prompt']}', not of '{args.prompt}'")
            record = generate(out_dir=args.resume, resume=True, device=args.device, progress=bars, **arguments)
        else:
            if args.prompt is None or args.out is None:
                raise ValueError("say what to make and where: generate 'a pink rabbit beside a cyan house' --out DIR")
            skip = args.refine_steps == 0
            record = generate(
                args.prompt,
                args.out,
                model=args.model,
                loras=args.lora,
                seed=args.seed,
                **_sampling(args),
                recipe=_recipe(args),
                fit=_given(steps=args.fit_steps, quality=args.fit_quality),
                refinement=None if skip else _given(steps=args.refine_steps, preset=args.preset),
                mesh=_mesh(args),
                turntable_frames=args.turntable_frames,
                turntable_size=args.turntable_size,
                overwrite=args.overwrite,
                device=args.device,
                progress=bars,
            )
    seconds = sum(record["seconds"].values())
    print(f"{args.resume or args.out}: mesh.glb, turntable.mp4, views.png, field.safetensors, run.json ({seconds:.0f} s)")


def _views(args: argparse.Namespace) -> None:
    _refuse_name(args.out, ".safetensors")
    for path in (args.out, *pictures_beside(args.out)):
        refuse_unwritable(path, overwrite=args.overwrite)
    refuse_request([args.prompt], [args.seed])
    settings = _sampling(args)
    model = _model(args)
    if settings["refocus"] is not None:
        settings["refocus"] = chosen(model.recipe.refocus, settings["refocus"], "refocusing")
    settings["candidates"] = chosen(model.recipe.candidates, settings["candidates"], "candidates")
    with Bars() as bars:
        views = sample_views(model, args.prompt, seed=args.seed, **settings, progress=bars.of("views"))
    save_views(views, args.out)
    print("\n".join([*map(str, views.verdicts), str(args.out)]))
    if missing := missing_words(views.verdicts):
        print(missing, file=sys.stderr)


def _fit(args: argparse.Namespace) -> None:
    _refuse_results(args)
    views = load_views(args.views)
    views.recipe = Recipe.from_json(_recipe(args), views.recipe)
    config = chosen(views.recipe.fit, _given(steps=args.steps, seed=args.seed, quality=args.quality), "the fit")
    with Bars() as bars:
        field = fit_views(views, config, bars.of("fit"), resume=args.resume, device=args.device)
        save_field(field, args.out)
    print(args.out)


def _refine(args: argparse.Namespace) -> None:
    _refuse_results(args)
    views = load_views(args.views)
    load_field(args.field)  # a wrong file is told of before minutes of loading the model
    model = _model(args)
    given = _given(steps=args.steps, guidance_scale=args.guidance_scale, seed=args.seed, preset=args.preset)
    config = chosen(model.recipe.refine, given, "refinement")
    field = load_field(args.field, model.device)
    with Bars() as bars:
        save_field(refine(field, views, model, config, bars.of("refine"), resume=args.resume), args.out)
    print(args.out)


def _mesh_command(args: argparse.Namespace) -> None:
    if args.out.suffix.lower() not in ENCODERS:
        raise ValueError(f"cannot write a mesh as '{args.out.name}': its suffix must be one of {', '.join(ENCODERS)}")
    refuse_unwritable(args.out, overwrite=args.overwrite)
    if not 0 <= args.print_size <= LARGEST_PRINT:
        raise ValueError(f"the print size must be from 0 to {LARGEST_PRINT} millimetres, got {args.print_size}")
    field = load_field(args.field, args.device)
    config = chosen(Recipe.from_json(_recipe(args), field.recipe).mesh, _mesh(args), "the mesh")
    with Bars() as bars:
        mesh = extract_mesh(field, config, bars.of("mesh"))
    save_mesh(mesh, args.out, {"provenance": field.provenance}, overwrite=args.overwrite, print_mm=args.print_size)
    print(args.out)


def _render(args: argparse.Namespace) -> None:
    suffix = args.out.suffix.lower()
    if suffix not in (".mp4", ".png"):
        raise ValueError(f"cannot render to '{args.out.name}': its suffix must be .mp4 (turntable) or .png (row of views)")
    refuse_unwritable(args.out, overwrite=args.overwrite)
    refuse_frames(args.frames, args.size, video=suffix == ".mp4")
    cameras = orbit_cameras(args.frames, args.elevation, distance=args.distance, fov_y_deg=args.fov)
    with Bars() as bars:
        images = render_orbit(load_field(args.field, args.device), cameras, args.size, bars.of("render"))
    if suffix == ".mp4":
        write_mp4(images, args.out)
    else:
        write_png(image_grid(images, columns=len(images)), args.out)
    print(args.out)


def _convert(args: argparse.Namespace) -> None:
    refuse_unwritable_folder(args.destination)
    if args.destination.is_dir() and any(args.destination.iterdir()) and not args.overwrite:
        raise ValueError(f"{args.destination} holds files: choose a new folder, or replace the model in it with --overwrite")
    convert(args.source, args.destination, dtype=args.dtype, loras=args.lora)
    print(args.destination)


def _calibrate(args: argparse.Namespace) -> None:
    from .calibration import calibrate, read_labels  # noqa: PLC0415

    _refuse_results(args, ".json")
    recipe, lines = calibrate(_model(args), read_labels(args.labels))
    write_text(args.out, json.dumps(recipe, indent=1) + "\n")
    print("\n".join([*lines, str(args.out)]))


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import examine  # noqa: PLC0415  it needs every stage

    if args.width < 64 or args.width % 64:
        raise ValueError(f"--width must be a multiple of 64, got {args.width}")
    logging.getLogger(f"{__package__}.devices").setLevel(logging.WARNING)  # the report says the same
    wrong = 0
    for finding in examine(resolve_device(args.device), full=args.full, width=args.width):
        print(finding, flush=True)
        wrong += finding.right is False
    print(f"{wrong} wrong" if wrong else "nothing wrong")
    return min(wrong, 1)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "generate": _generate,
    "views": _views,
    "fit": _fit,
    "refine": _refine,
    "mesh": _mesh_command,
    "render": _render,
    "convert": _convert,
    "calibrate": _calibrate,
    "doctor": _doctor,
}


def _sampling(args: argparse.Namespace) -> dict:
    """Keyword settings that `sample_views` and `generate` share."""
    settings = _given(steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler)
    focus = None if args.focus is None else Focus.from_json(args.focus)
    refocus = None
    if not args.no_refocus:
        asked = {"strength": args.refocus_strength, "share": args.refocus_share}
        refocus = refocusing(args.objective, args.refocus_thresholds, **asked, checkpointing=args.refocus_checkpointing or None)
    candidates = _given(count=args.candidates, retries=args.retries)
    return settings | {
        "negative_prompt": args.negative_prompt,
        "focus": focus,
        "refocus": refocus,
        "candidates": candidates,
    }


def _mesh(args: argparse.Namespace) -> dict:
    color = "vertex" if args.vertex_colors else None
    size = {"resolution": args.mesh_resolution, "target_faces": args.faces, "texture_size": args.texture_size}
    return _given(color=color, parts=args.parts, **size)


def _recipe(args: argparse.Namespace) -> dict:
    """What `--recipe` changes of the model's recipe."""
    if args.recipe is None:
        return {}
    try:
        return json.loads(args.recipe.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{args.recipe} is not a recipe in JSON: {error}") from error


def _model(args: argparse.Namespace) -> MVDream:
    changes = _recipe(args)
    model = load_mvdream(args.model, device=args.device, loras=args.lora)
    return replace(model, recipe=Recipe.from_json(changes, model.recipe))


def _given(**settings) -> dict:
    """The settings that were given on the command line."""
    return {name: value for name, value in settings.items() if value is not None}


def _refuse_name(path: Path, suffix: str) -> None:
    if path.suffix.lower() != suffix:
        raise ValueError(f"--out {path.name} does not say what it will be: let its name end in {suffix}")


def _refuse_results(args: argparse.Namespace, suffix: str = ".safetensors") -> None:
    """Before minutes of work, not after: a result or a checkpoint that cannot be written, or whose name misleads."""
    _refuse_name(args.out, suffix)
    refuse_unwritable(args.out, overwrite=args.overwrite)
    if getattr(args, "resume", None) is not None:
        refuse_unwritable(args.resume)
