"""Makers named by file in `test_benchmark.py`: worker processes load them from here, as they would a user's own."""

import os
import signal
from pathlib import Path

import torch

from gd_core.benchmark.items import Made
from gd_core.cameras import orbit_cameras
from gd_core.views import ViewSet


def spheres(model, settings):
    """A sphere whose place and colour come from prompt and seed; `settings` name items to fail, or to kill the worker, at."""
    if model == "missing":
        raise ValueError("no model 'missing'")
    if model == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    cameras = orbit_cameras(4)
    origins, directions = cameras.rays(32, 32)

    def make(prompt, seed):
        key = f"{prompt.id}__{seed}"
        if key in settings.get("fail", ()):
            raise RuntimeError(f"cannot draw '{prompt.text}'")
        if key in settings.get("kill", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if key == settings.get("kill_once") and not Path(settings["marker"]).exists():
            Path(settings["marker"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(1000 * seed + len(prompt.text))
        centre, colour = torch.rand(2, 3, generator=generator)
        to_centre = 0.6 * (centre - 0.5) - origins
        along = (to_centre * directions).sum(-1, keepdim=True)
        masks = ((to_centre - along * directions).norm(dim=-1) < 0.4).float()
        images = 1 - masks[..., None] * (1 - colour)
        points = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=-1) * 0.4 + 0.6 * (centre - 0.5)
        views = ViewSet(images, masks, cameras, prompt=prompt.text, seed=seed)
        return Made(views, points=points, numbers={"threads": float(torch.get_num_threads())})

    return make
