"""One finished item on disk: what was made, small enough to keep for every prompt and whole enough to be scored again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..metrics.scorecard import evaluate_views, layout_offsets
from ..views import ViewSet
from .prompt_sets import Prompt


@dataclass
class Made:
    """What a maker hands over.

    Attributes:
        views: the stage-1 views.
        renders: the finished asset seen from its own cameras, or None when only views were made. What CLIP and the judge see.
        points: `[n, 3]` points on the asset's surface, world units, for Chamfer distances between seeds; or None.
        numbers: measurements that only the maker can take (PSNR to the views, faces, seconds of each stage).
    """

    views: ViewSet
    renders: ViewSet | None = None
    points: Float[Tensor, "n 3"] | None = None
    numbers: dict[str, float | bool] | None = None


@dataclass
class SavedItem:
    """An item read back: `record` is its JSON, `images` the pictures that are scored."""

    record: dict
    images: UInt8[Tensor, "V H W 3"]
    views: UInt8[Tensor, "v h w 3"]
    points: Float[Tensor, "n 3"] | None


def save_item(made: Made, prompt: Prompt, seed: int, resources: dict[str, float], folder: Path) -> None:
    """Write `item.safetensors` and then `item.json` into an existing folder.

    Pictures are kept as bytes: what is scored is what a PNG would show.
    """
    seen = made.renders if made.renders is not None else made.views
    tensors = {"images": as_bytes(seen.images), "views": as_bytes(made.views.images)}
    if made.points is not None:
        tensors["points"] = made.points.detach().float().cpu().contiguous()
    record = {
        "prompt": prompt.text,
        "id": prompt.id,
        "group": prompt.group,
        "subjects": list(prompt.subjects),
        "seed": seed,
        "numbers": evaluate_views(seen) | (made.numbers or {}),
        "resources": resources,
        "layout": layout_offsets(made.views),
        "provenance": made.views.provenance,
    }
    save_file(tensors, folder / "item.safetensors")
    (folder / "item.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def load_item(folder: Path) -> SavedItem:
    tensors = load_file(folder / "item.safetensors")
    record = json.loads((folder / "item.json").read_text(encoding="utf-8"))
    return SavedItem(record, tensors["images"], tensors["views"], tensors.get("points"))


def as_bytes(images: Float[Tensor, "V H W 3"]) -> UInt8[Tensor, "V H W 3"]:
    return (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
