"""What does a model's cross-attention know of what is in a picture?

    python -m tools.tiny.attention --model tiny --scenes 40
    python -m tools.tiny.attention --run RUN --downscale 1

Ground-truth views of two things, and the same caption over views of one of them alone, are noised and passed through the UNet.
For each cross-attention layer: the area under the ROC curve with which a noun's highest attention (the mean over heads and
views) tells whether its thing is in the picture. 0.5 is nothing. A model whose captions always fit need not know.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gd_core.attention import AttentionCapture, Focus
from gd_core.attention.capture import cross_attention_layers
from gd_core.cameras import orbit_cameras
from gd_core.diffusion import load_mvdream, predict_noise
from gd_core.diffusion.model import MVDream
from gd_core.diffusion.prompts import encode_prompt

from .renderer import render
from .scenes import BASE_RADIUS, Solid, random_scene


class _Layers(AttentionCapture):
    """Keeps each layer's probabilities `[views, heads, pixels, tokens]` instead of their sum."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept: list[Tensor] = []

    def add(self, probabilities: Tensor) -> None:
        self.kept.append(probabilities)


def area_under_curve(score: np.ndarray, there: np.ndarray) -> float:
    a, b = score[there], score[~there]
    return float((a[:, None] > b[None]).mean() + 0.5 * (a[:, None] == b[None]).mean())


@torch.no_grad()
def knowledge(model: MVDream, scenes: int, timestep: int, downscale: int, world: str) -> dict[str, float]:
    """Area under the ROC curve for each cross-attention layer whose tokens are `downscale` times coarser than the latents."""
    names = list(cross_attention_layers(model.unet, downscale))
    cameras, alpha = orbit_cameras(4), model.scheduler.alphas_cumprod[timestep]
    rng = random.Random("attention")
    there, highest = [], []
    for i in range(scenes):
        scene = random_scene(rng, 2, relation="beside", world=world)
        prompt = encode_prompt(model, scene.prompt)
        focus = Focus.of_subjects(scene.prompt).locate(scene.prompt, prompt.words, prompt.end_token)
        for shown in (None, 0, 1):
            images, _ = render(
                scene.solids if shown is None else [_alone(scene.solids[shown])], cameras, model.config.image_size
            )
            clean = model.encode(images)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7 * i + timestep))
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            with _Layers(model.unet, downscale=downscale, num_tokens=prompt.end_token) as capture:
                predict_noise(model.unet, noisy, timestep, prompt.embeddings, cameras.conditioning(), 4)
            for which, word in enumerate(focus.words):
                there.append(shown is None or shown == which)
                highest.append([float(p[..., list(word.tokens)].sum(-1).amax(2).mean()) for p in capture.kept])
    scores = np.array(highest)
    return {name: area_under_curve(scores[:, k], np.array(there)) for k, name in enumerate(names)}


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
    for timestep in args.timesteps:
        for downscale in args.downscale:
            try:
                areas = knowledge(model, args.scenes, timestep, downscale, args.world)
            except ValueError as error:  # a model without cross-attention there
                print(error)
                continue
            for name, area in areas.items():
                print(f"t = {timestep}, 1/{downscale}: {area:.2f} {name}", flush=True)


if __name__ == "__main__":
    main()
