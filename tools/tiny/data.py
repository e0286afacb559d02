"""Stage 1: render shards of four-view training scenes.

    python -m tools.tiny.data --out RUN --shards 16

A shard holds images `[n, 4, 128, 128, 3]` uint8, c2w `[n, 4, 4, 4]` float32, how far the first thing with a front turns it to
each camera, `front` `[n, 4]` (the cosine; 0 where nothing has a front), and, in its header, the prompts. Shard k is made
from seed k alone, so shards can be rendered in any order, in several processes, and again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gd_core.cameras import Cameras, orbit_cameras

from .renderer import render
from .scenes import Scene, random_scene
from .toys import FRONTED

SCENES_PER_SHARD = 1024
IMAGE_SIZE = 128
SINGLE_SHARE = 0.35  # of the scenes; with few of them "a photo of a red ball" became two balls
WORLD_SHARES = {"solids": 0.2, "toys": 0.55, "mixed": 0.25}


def make_shard(index: int, scenes: int = SCENES_PER_SHARD) -> tuple[dict[str, Tensor], list[str]]:
    """Half of the scenes are seen by the default orbit (azimuth 90, elevation 15), the others by any."""
    rng = random.Random(f"train-{index}")
    images, c2w, fronts, prompts = [], [], [], []
    for _ in range(scenes):
        world = rng.choices(tuple(WORLD_SHARES), tuple(WORLD_SHARES.values()))[0]
        scene = random_scene(rng, 1 if rng.random() < SINGLE_SHARE else 2, world=world)
        default = rng.random() < 0.5
        cameras = orbit_cameras(4, 15.0 if default else rng.uniform(0, 30), 90.0 if default else rng.uniform(0, 360))
        grey = 1.0 if rng.random() < 0.5 else rng.uniform(0.6, 1.0)
        views, _ = render(scene.solids, cameras, IMAGE_SIZE, (grey, grey, grey))
        images.append((views * 255).round().byte())
        c2w.append(cameras.c2w)
        fronts.append(front(scene, cameras))
        prompts.append(scene.prompt)
    return {"images": torch.stack(images), "c2w": torch.stack(c2w), "front": torch.stack(fronts)}, prompts


def front(scene: Scene, cameras: Cameras) -> Tensor:
    """`[V]`: cosine of the angle about the vertical between the first fronted thing's front and each camera; 0 without one."""
    thing = next((s for s in scene.solids if s.shape in FRONTED), None)
    if thing is None:
        return torch.zeros(len(cameras))
    toward = torch.nn.functional.normalize(cameras.positions[:, :2] - torch.tensor(thing.center[:2]), dim=1)
    return toward @ torch.tensor([math.cos(thing.yaw), math.sin(thing.yaw)])


def load_shard(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    with safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["prompts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="run folder; shards go into its shards/")
    parser.add_argument("--shards", type=int, default=40, help=f"how many, of {SCENES_PER_SHARD} scenes each")
    parser.add_argument("--first", type=int, default=0, help="index of the first")
    parser.add_argument("--stride", type=int, default=1, help="make every stride-th only, to share the work among processes")
    args = parser.parse_args()
    folder = args.out / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for index in range(args.first, args.shards, args.stride):
        path = folder / f"{index:04d}.safetensors"
        if path.exists():
            continue
        tensors, prompts = make_shard(index)
        save_file(tensors, path.with_suffix(".tmp"), {"prompts": json.dumps(prompts)})
        path.with_suffix(".tmp").replace(path)
        print(f"shard {index}: {len(prompts)} scenes", flush=True)


if __name__ == "__main__":
    main()
