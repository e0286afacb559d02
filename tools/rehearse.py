"""Rehearsal of the full-quality graph at real size with random weights, for machines without MVDream's weights or a GPU.

    python -m tools.rehearse                                   # fp32, through the library
    python -m tools.rehearse --dtype bf16 --steps 1
    COMFY_DIR=... COMFY_PYTHON=... python -m tools.rehearse --nodes    # and through the nodes, in a real ComfyUI

A bundle of MVDream v2.1's size (868 M parameters in the UNet, 1.3 billion in all) is written to --bundle (2.6 GB, kept for
the next time) and every stage of `example_workflows/full_quality_mvdream.json` runs for a few steps. It shows seconds a step
and peak memory of each stage, and that nothing breaks at this size. What comes out is noise; the fit gets views of a ball.
--width 64 is a model of a fifth of the width, for a rehearsal of the rehearsal.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gd_core import devices
from gd_core.diffusion import load_mvdream, sample_views
from gd_core.diffusion.bundle import save_bundle
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.random_weights import random_mvdream
from gd_core.distillation import refine
from gd_core.doctor import PROMPT, ball_views
from gd_core.mesh import extract_mesh
from gd_core.nerf import fit_views
from gd_core.recipe import chosen

from .rehearse_nodes import graph, rehearse

FIT_STEPS = 20
MAX_REFINEMENTS = 1  # random weights never meet a threshold, so that the recipe's 20 would be done at each
MESH = {"resolution": 128, "texture_size": 512}
DEFAULT_BUNDLE = Path("out/rehearsal/bundle")


class Stages:
    """Runs stages one by one and prints what each took."""

    def __init__(self, device: torch.device):
        self.device = device
        self.rows: list[dict] = []

    def __call__(self, name: str, steps: int, work: Callable[[Callable], object]):
        """`work(progress)`; a step's seconds are those from the first step's end on, where there are more."""
        devices.reset_peak_memory(self.device)
        ends: dict[int, tuple[float, float]] = {}

        def progress(step, total, preview) -> None:
            devices.synchronize(self.device)
            if step:  # what comes before the first step, and after the last, calls as well
                ends.setdefault(step, (time.perf_counter(), time.process_time()))

        begun, cpu = time.perf_counter(), time.process_time()
        result = work(progress)
        devices.synchronize(self.device)

        def of_a_step(clock: int) -> float | None:
            times = [end[clock] for end in ends.values()]
            return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None

        row = {
            "stage": name,
            "steps": steps,
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
            "seconds_a_step": of_a_step(0),
            "cpu_seconds_a_step": of_a_step(1),
            "resident_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            "device_gb": (devices.peak_memory(self.device) or 0) / 1e9,
        }
        self.rows.append(row)
        print(json.dumps(rounded(row)), flush=True)
        return result


def rounded(row: dict) -> dict:
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}


def make_bundle(folder: Path, width: int) -> None:
    """Write the random model in half precision, as MVDream's bundles are, unless an earlier rehearsal has."""
    if not (folder / "mvdream.json").exists():
        print(f"writing a random model of real size to {folder} (2.6 GB)", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_bundle(random_mvdream(torch.float16, width=width), folder)


def library(model: MVDream, steps: int, stages: Stages) -> None:
    """Every stage of the graph, through `gd_core`, with the model's recipe but for its length."""
    recipe = model.recipe
    refocus = chosen(recipe.refocus, {"share": 1.0, "max_refinements": MAX_REFINEMENTS}, "refocusing")
    stages(
        "views, refocused",
        steps,
        lambda tell: sample_views(model, PROMPT, seed=0, steps=steps, refocus=refocus, progress=tell),
    )
    views = ball_views(model.image_size)
    fit = chosen(recipe.fit, {"steps": FIT_STEPS}, "the fit")
    field = stages("fit", FIT_STEPS, lambda tell: fit_views(views, fit, tell, device=model.device))
    config = chosen(recipe.refine, {"steps": steps, "milestones": [[0.0, 1.0]], "evaluate_every": steps}, "refinement")
    field = stages("refine", steps, lambda tell: refine(field, views, model, config, tell))
    mesh = chosen(recipe.mesh, MESH, "the mesh")
    stages("mesh", 1, lambda tell: extract_mesh(field, mesh))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help=f"where the model is (default: {DEFAULT_BUNDLE})")
    parser.add_argument("--device", default="auto", help="as everywhere (default: auto)")
    parser.add_argument("--dtype", choices=("auto", *devices.DTYPES), default="fp32")
    parser.add_argument("--steps", type=int, default=2, help="of sampling and of the refinement (default: 2)")
    parser.add_argument("--width", type=int, default=320, help="channels of the UNet's first level (default: 320, MVDream's)")
    parser.add_argument("--nodes", action="store_true", help="through the nodes of a real ComfyUI (COMFY_DIR), not the library")
    args = parser.parse_args()
    device = devices.resolve_device(args.device)
    make_bundle(args.bundle, args.width)
    if args.nodes:
        nodes = graph(PROMPT, args.steps, FIT_STEPS, args.dtype, MESH)
        for row in rehearse(args.bundle, ball_views(256), nodes):
            print(json.dumps(rounded(row)), flush=True)
        return
    stages = Stages(device)
    model = stages("load", 1, lambda tell: load_mvdream(args.bundle, device=device, dtype=args.dtype))
    print(f"{devices.describe(device)}, {model.dtype}", flush=True)
    library(model, args.steps, stages)


if __name__ == "__main__":
    main()
