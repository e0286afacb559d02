"""The command line's arguments: `python -m gd_core COMMAND`, one for the whole job and one for each of its stages."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from .settings.fit import QUALITIES
from .settings.refocus import CHOICES
from .settings.sampling import SAMPLERS

DESCRIPTION = "Grounded-Dreamer: text to a textured 3D mesh with every subject in it."
EVALUATE_HELP = "run a prompt set, score it, and write a report"
FIELD_HELP = "field saved by fit, refine or generate (.safetensors)"
VIEWS_HELP = "views saved by views or generate (.safetensors)"
MODEL_HELP = "'toys', 'tiny', a model folder, a .safetensors or .pt file, or owner/name@revision on the hub (default: toys)"
PRESETS = ("auto", "24GB", "12GB", "8GB")
AS_MADE = "(default: what the model was made for)"
QUALITY_HELP = f"of the fit: a cell of the shape is at most 4, 2 or 1 pixels of the views wide {AS_MADE}"
BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0, 1 when doctor finds something wrong, 2 for what the user can put right, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("diffusers", "transformers", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if argv[:1] == ["evaluate"]:
        from .benchmark.cli import main as evaluate  # noqa: PLC0415

        return evaluate(argv[1:])
    args = make_parser().parse_args(argv)
    # Only now, since torch and diffusers take seconds to import and --help should not.
    from .commands import COMMANDS  # noqa: PLC0415
    from .files import plain_sentence  # noqa: PLC0415

    try:
        return COMMANDS[args.command](args) or 0
    except (ValueError, OSError, MemoryError) as error:
        print("error:", plain_sentence(error), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gd_core", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_generate(commands)
    _add_views(commands)
    _add_fit(commands)
    _add_refine(commands)
    _add_mesh(commands)
    _add_render(commands)
    _add_convert(commands)
    _add_calibrate(commands)
    _add_doctor(commands)
    commands.add_parser("evaluate", help=EVALUATE_HELP, add_help=False)
    return parser


def _add_generate(commands) -> None:
    parser = commands.add_parser(
        "generate",
        help="the whole job: prompt to mesh",
        description="The whole job: views, fit, refinement, mesh, turntable. DIR gets views.png, attention.png, turntable.mp4, "
        "mesh.glb, field.safetensors and run.json. A killed run goes on with --resume DIR and ends with the same "
        "bytes on a CPU, on CUDA with the same result to rounding.",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to make; not needed with --resume")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR, with its own settings")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in DIR")
    _add_model(parser)
    _add_sampling(parser)
    parser.add_argument("--fit-quality", choices=QUALITIES, help=QUALITY_HELP)
    parser.add_argument("--fit-steps", type=int, metavar="N", help=f"optimiser steps of the fit {AS_MADE}")
    parser.add_argument("--refine-steps", type=int, metavar="N", help=f"of the refinement, 0 to skip it {AS_MADE}")
    _add_preset(parser)
    _add_mesh_settings(parser)
    parser.add_argument("--turntable-frames", type=int, default=36, metavar="N", help="frames of one turn (default: 36)")
    parser.add_argument("--turntable-size", type=int, default=256, metavar="PIXELS", help="pixels a side, even (default: 256)")


def _add_views(commands) -> None:
    parser = commands.add_parser(
        "views",
        help="stage 1: four views from a prompt",
        description="Sample four consistent views. Two PNGs are written beside FILE, under its name.",
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what to make")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to save the views (.safetensors)")
    _add_overwrite(parser, "FILE and its pictures")
    _add_model(parser)
    _add_sampling(parser)


def _add_fit(commands) -> None:
    parser = commands.add_parser(
        "fit", help="stage 2: a radiance field from views", description="Fit a radiance field to views."
    )
    parser.add_argument("views", type=Path, metavar="VIEWS", help=VIEWS_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to save the field (.safetensors)")
    _add_overwrite(parser)
    parser.add_argument("--quality", choices=QUALITIES, help=QUALITY_HELP)
    parser.add_argument("--steps", type=int, metavar="N", help=f"optimiser steps {AS_MADE}")
    _add_recipe(parser)
    _add_device(parser)
    _add_seed(parser)
    _add_checkpoint(parser)


def _add_refine(commands) -> None:
    parser = commands.add_parser(
        "refine",
        help="stage 3: refine a field with the multi-view model",
        description="Refine a field by score distillation, held to its reference views.",
    )
    parser.add_argument("field", type=Path, metavar="FIELD", help=FIELD_HELP)
    parser.add_argument("views", type=Path, metavar="VIEWS", help=VIEWS_HELP + ": those that FIELD was fitted to")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to save the result (.safetensors)")
    _add_overwrite(parser)
    _add_model(parser)
    parser.add_argument("--steps", type=int, metavar="N", help=f"optimiser steps {AS_MADE}")
    parser.add_argument("--guidance-scale", type=float, metavar="S", help=f"of the prompt {AS_MADE}")
    _add_preset(parser)
    _add_seed(parser)
    _add_checkpoint(parser)


def _add_mesh(commands) -> None:
    parser = commands.add_parser(
        "mesh", help="stage 4: a textured mesh from a field", description="Extract a mesh; FILE's suffix names the format."
    )
    parser.add_argument("field", type=Path, metavar="FIELD", help=FIELD_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="mesh file: .glb, .obj, .ply or .stl")
    _add_overwrite(parser)
    parser.add_argument(
        "--print-size",
        type=float,
        default=100.0,
        metavar="MM",
        help="of an STL: millimetres of the longest side, 0 for the field's own units (default: 100)",
    )
    _add_device(parser)
    _add_recipe(parser)
    _add_mesh_settings(parser)


def _add_render(commands) -> None:
    parser = commands.add_parser(
        "render",
        help="pictures of a field: a turntable (.mp4) or a row of views (.png)",
        description="Render a field from all around.",
    )
    parser.add_argument("field", type=Path, metavar="FIELD", help=FIELD_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="turntable (.mp4) or row of views (.png)")
    _add_overwrite(parser)
    parser.add_argument("--frames", type=int, default=36, metavar="N", help="frames or views of one turn (default: 36)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="pixels a side, even for .mp4 (default: 256)")
    parser.add_argument("--elevation", type=float, default=15.0, metavar="DEGREES", help="above the horizon (default: 15)")
    parser.add_argument("--distance", type=float, default=3.0, metavar="UNITS", help="of the camera (default: 3)")
    parser.add_argument("--fov", type=float, default=40.0, metavar="DEGREES", help="vertical field of view (default: 40)")
    _add_device(parser)


def _add_convert(commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="a checkpoint to our bundle, which loads memory-mapped and fast",
        description="Write any model that can be loaded as a bundle of safetensors.",
    )
    parser.add_argument("source", metavar="SRC", help=MODEL_HELP)
    parser.add_argument("destination", type=Path, metavar="DST", help="new folder")
    _add_overwrite(parser, "the model in DST")
    add_lora(parser)
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp16", help="of the weights (default: fp16)")


def _add_calibrate(commands) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="which layers of a model know what its views show, and what its verdicts are worth",
        description="From views that you have looked at: prints of every cross-attention layer how well its attention tells "
        "which subjects are there (0.5 is chance), and of the verdicts how well they agree with you, and writes what follows "
        "from it as a recipe for --recipe. LABELS is JSON beside the views' files, a list such as "
        '[{"views": "a.safetensors", "missing": ["sphere"]}, {"views": "b.safetensors", "missing": []}]; some fifty views '
        "serve, in which at least eight subjects are missing.",
    )
    parser.add_argument("labels", type=Path, metavar="LABELS", help="JSON: files of views, and the nouns that each lacks")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to save the recipe (.json)")
    _add_overwrite(parser)
    _add_model(parser)


def _add_doctor(commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what serves on this machine, and whether it is right",
        description="Versions, device, memory and backends, to paste into a report. Exits with 1 if anything is wrong.",
    )
    parser.add_argument("--full", action="store_true", help="also judge each fast path and time every stage (minutes)")
    parser.add_argument(
        "--width",
        type=int,
        default=320,
        metavar="N",
        help="channels of the random model of --full: 64, 128, ... (default: 320, MVDream's; needs 16 GB of main memory)",
    )
    _add_device(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="toys", metavar="SOURCE", help=MODEL_HELP)
    _add_device(parser)
    _add_recipe(parser)
    add_lora(parser)


def _add_overwrite(parser: argparse.ArgumentParser, what: str = "FILE if it exists") -> None:
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help='JSON of what to change of the settings that the model was made for, such as {"mesh": {"resolution": 192}} '
        "(docs/recipes.md lists them)",
    )


def add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="LoRA on top of the model, in diffusers' or kohya's names, strength -10 to 10 (default: 1); may be repeated",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="what not to show (default: nothing)")
    parser.add_argument("--steps", type=int, metavar="N", help=f"denoising steps {AS_MADE}")
    parser.add_argument("--guidance-scale", type=float, metavar="S", help=f"of the prompt {AS_MADE}")
    parser.add_argument("--sampler", choices=SAMPLERS, help=f"of the views {AS_MADE}")
    parser.add_argument(
        "--focus",
        metavar="JSON",
        help='focus words and weights 0 to 3, {"v": 1, "focus": [{"word": "cube", "occurrence": 0, "weight": 1.2}]} '
        "(default: the prompt's subjects at weight 1)",
    )
    parser.add_argument("--no-refocus", action="store_true", help="plain MVDream sampling, without attention refocusing")
    parser.add_argument("--objective", choices=CHOICES, default="auto", help=f"what refocusing minimises {AS_MADE}")
    parser.add_argument(
        "--refocus-strength", type=float, metavar="S", help=f"how far it moves the latents, in units of the noise {AS_MADE}"
    )
    parser.add_argument("--refocus-share", type=float, metavar="P", help=f"of the steps, from the first {AS_MADE}")
    parser.add_argument(
        "--refocus-thresholds",
        metavar="PAIRS",
        help="share of the steps:presence, '0:0.05, 0.2:0.5': there updates repeat until every word is so present; or 'none' "
        + AS_MADE,
    )
    parser.add_argument(
        "--refocus-checkpointing", action="store_true", help="less memory and a third more time in each refocused step"
    )
    parser.add_argument(
        "--candidates", type=int, metavar="N", help=f"starts, 1 to 8, of which the most whole one goes on {AS_MADE}"
    )
    parser.add_argument(
        "--retries", type=int, metavar="N", help=f"candidates more to finish while a subject is missing {AS_MADE}"
    )
    _add_seed(parser)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", type=Path, metavar="FILE", help="checkpoint to write, and to go on from if it is there")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where to compute: cpu, cuda, cuda:1, xpu, mps (default: auto, an accelerator where there is one)",
    )


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="auto", help="memory preset (default: the largest that fits)")


def _add_mesh_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mesh-resolution", type=int, metavar="N", help=f"density grid cells a side {AS_MADE}")
    parser.add_argument("--faces", type=int, metavar="N", help=f"faces after decimation, 0 keeps all {AS_MADE}")
    parser.add_argument("--texture-size", type=int, metavar="TEXELS", help=f"texels a side {AS_MADE}")
    parser.add_argument(
        "--parts",
        choices=("none", "pieces", "words"),
        help="a mesh of its own for each connected piece, or for each subject of the prompt (default: none)",
    )
    parser.add_argument("--vertex-colors", action="store_true", help="colours at the vertices instead of a texture")
