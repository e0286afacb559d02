"""What each command of `python -m gd_core` does: settings from the arguments, one call, files written whole."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from .attention import Focus, RefocusConfig
from .cameras import orbit_cameras
from .diffusion import convert, load_mvdream, sample_views
from .distillation import RefineConfig, refine
from .mesh import MeshConfig, extract_mesh
from .mesh.export import ENCODERS
from .nerf import FitConfig, fit_views, load_field
from .pictures import image_grid
from .pipeline import generate
from .runs import arguments_of, read_record, save_field, save_mesh, save_views, write_png
from .video import render_orbit, write_mp4
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
            self.stage, self.bar = stage, tqdm(total=total, desc=f"{stage:>9}", initial=step - 1, dynamic_ncols=True)
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
                raise ValueError("say what to make and where: generate 'a red cube next to a blue sphere' --out DIR")
            skip = args.refine_steps == 0
            record = generate(
                args.prompt,
                args.out,
                model=args.model,
                seed=args.seed,
                **_sampling(args),
                fit=_given(FitConfig(), steps=args.fit_steps),
                refinement=None if skip else _given(RefineConfig(preset=args.preset), steps=args.refine_steps),
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
    _refuse_missing_folder(args.out)
    model = load_mvdream(args.model, device=args.device)
    with Bars() as bars:
        views = sample_views(model, args.prompt, seed=args.seed, **_sampling(args), progress=bars.of("views"))
    save_views(views, args.out)
    print(args.out)


def _fit(args: argparse.Namespace) -> None:
    _refuse_missing_folder(args.out)
    config = _given(FitConfig(seed=args.seed), steps=args.steps)
    views = load_views(args.views)
    with Bars() as bars:
        field = fit_views(views, config, bars.of("fit"), resume=args.resume, device=args.device)
        save_field(field, args.out)
    print(args.out)


def _refine(args: argparse.Namespace) -> None:
    _refuse_missing_folder(args.out)
    config = RefineConfig(seed=args.seed, preset=args.preset)
    config = _given(config, steps=args.steps, guidance_scale=args.guidance_scale)
    model = load_mvdream(args.model, device=args.device)
    field, views = load_field(args.field, model.device), load_views(args.views)
    with Bars() as bars:
        save_field(refine(field, views, model, config, bars.of("refine"), resume=args.resume), args.out)
    print(args.out)


def _mesh_command(args: argparse.Namespace) -> None:
    _refuse_missing_folder(args.out)
    if args.out.suffix.lower() not in ENCODERS:
        raise ValueError(f"cannot write a mesh as '{args.out.name}': its suffix must be one of {', '.join(ENCODERS)}")
    if args.out.exists() and not args.overwrite:
        raise ValueError(f"{args.out} exists: choose another name, or allow overwriting")
    field, config = load_field(args.field, args.device), _mesh(args)
    with Bars() as bars:
        mesh = extract_mesh(field, config, bars.of("mesh"))
    save_mesh(mesh, args.out, {"provenance": field.provenance}, overwrite=args.overwrite)
    print(args.out)


def _render(args: argparse.Namespace) -> None:
    _refuse_missing_folder(args.out)
    if args.out.suffix not in (".mp4", ".png"):
        raise ValueError(f"cannot render to '{args.out.name}': its suffix must be .mp4 (turntable) or .png (row of views)")
    cameras = orbit_cameras(args.frames, args.elevation, distance=args.distance, fov_y_deg=args.fov)
    with Bars() as bars:
        images = render_orbit(load_field(args.field, args.device), cameras, args.size, bars.of("render"))
    if args.out.suffix == ".mp4":
        write_mp4(images, args.out)
    else:
        write_png(image_grid(images, columns=len(images)), args.out)
    print(args.out)


def _convert(args: argparse.Namespace) -> None:
    convert(args.source, args.destination, dtype=args.dtype)
    print(args.destination)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "generate": _generate,
    "views": _views,
    "fit": _fit,
    "refine": _refine,
    "mesh": _mesh_command,
    "render": _render,
    "convert": _convert,
}


def _sampling(args: argparse.Namespace) -> dict:
    """Keyword settings that `sample_views` and `generate` share."""
    settings = {"negative_prompt": args.negative_prompt, "steps": args.steps, "guidance_scale": args.guidance_scale}
    focus = None if args.focus is None else Focus.from_json(args.focus)
    return settings | {"focus": focus, "refocus": None if args.no_refocus else RefocusConfig()}


def _mesh(args: argparse.Namespace) -> MeshConfig:
    config = MeshConfig(color="vertex" if args.vertex_colors else "texture")
    return _given(config, resolution=args.mesh_resolution, target_faces=args.faces, texture_size=args.texture_size)


def _given(config, **settings):
    """`config` with the settings that were given on the command line."""
    return replace(config, **{name: value for name, value in settings.items() if value is not None})


def _refuse_missing_folder(path: Path) -> None:
    """Before minutes of work, not after."""
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path.name}: there is no folder {path.parent}")
