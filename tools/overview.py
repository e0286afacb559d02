"""The README's picture, from a finished run: its views, where each subject's attention went, and the asset from new angles.

python -m tools.overview out/demo docs/overview.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from gd_core.cameras import orbit_cameras
from gd_core.nerf import load_field
from gd_core.pictures import heat_map_overlays
from gd_core.views import load_views

CELL = 192  # pixels


def row(images: torch.Tensor) -> torch.Tensor:
    """`[n, H, W, 3]` side by side, each CELL pixels."""
    resized = F.interpolate(images.movedim(-1, 1), (CELL, CELL), mode="bicubic", antialias=True).clamp(0, 1)
    return torch.cat(list(resized.movedim(1, -1)), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    views = load_views(args.run / "views.safetensors")
    field = load_field(args.run / "field.safetensors")
    novel = orbit_cameras(4, 25.0, 45.0, distance=3.0, fov_y_deg=float(views.cameras.fov_y_deg[0]))
    rendered = field.render(novel, CELL, CELL)
    rows = [row(views.images)]
    overlays = heat_map_overlays(views, [subject["key"] for subject in views.provenance["subjects"]])
    rows += [row(o) for o in overlays.split(len(views))]
    rows.append(row(rendered.rgb))
    Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
