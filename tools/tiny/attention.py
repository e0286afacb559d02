"""What does a model's cross-attention know of what is in a picture?

    python -m tools.tiny.attention --model tiny --scenes 40
    python -m tools.tiny.attention --run RUN --downscale 1

Ground-truth views of two things, and the same caption over views of one of them alone, are noised and passed through the UNet.
For each cross-attention layer: the area under the ROC curve with which a noun's highest attention (the mean over heads, views
and timesteps) tells whether its thing is in the picture. 0.5 is nothing. A model whose captions always fit need not know.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch

from gd_core.attention.subjects import noun_phrases
from gd_core.calibration import Labelled, gate, knowing_layers
from gd_core.cameras import orbit_cameras
from gd_core.diffusion import load_mvdream
from gd_core.diffusion.model import MVDream
from gd_core.views import ViewSet

from .renderer import render
from .scenes import BASE_RADIUS, Solid, random_scene


def shown_and_not(model: MVDream, scenes: int, world: str) -> list[Labelled]:
    """Ground-truth views of two things, and under the same caption of one of them alone."""
    cameras, rng = orbit_cameras(4), random.Random("attention")
    labelled = []
    for _ in range(scenes):
        scene = random_scene(rng, 2, relation="beside", world=world)
        keys = [phrase.noun.key for phrase in noun_phrases(scene.prompt)]
        for shown in (None, 0, 1):
            things = scene.solids if shown is None else [_alone(scene.solids[shown])]
            images, coverage = render(things, cameras, model.config.image_size)
            views = ViewSet(images, coverage.sum(1).clamp(0, 1), cameras, prompt=scene.prompt)
            labelled.append(Labelled(views, {key: shown is None or shown == k for k, key in enumerate(keys)}))
    return labelled


def _alone(thing: Solid) -> Solid:
    """As large, and where, a scene of one thing has it."""
    return replace(thing, radius=thing.radius * BASE_RADIUS[1] / BASE_RADIUS[2], center=(0.0, 0.0, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="anything load_mvdream takes")
    parser.add_argument("--run", type=Path, help="a training run; its averaged checkpoint instead of --model")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--timesteps", type=int, nargs="*", default=[550, 750])
    parser.add_argument("--downscale", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--world", default="solids", choices=("solids", "toys", "mixed"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.run:
        from .export import assemble  # noqa: PLC0415

        model = assemble(args.run)
    else:
        model = load_mvdream(args.model, device="cpu", dtype=torch.float32)
    labelled = shown_and_not(model, args.scenes, args.world)
    areas = {}
    for downscale in args.downscale:
        try:
            areas[downscale] = gate(model, labelled, downscale, args.timesteps)
        except ValueError as error:  # a model without cross-attention there
            print(error)
            continue
        for name, area in areas[downscale].items():
            print(f"1/{downscale}: {area:.2f} {name}", flush=True)
    print("layers that know:", knowing_layers(areas))


if __name__ == "__main__":
    main()
