"""`ViewSet`: what the diffusion stage hands to the NeRF, the heat maps and the mesh's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .cameras import Cameras
from .files import write_tensors
from .recipe import Recipe

Progress = Callable[[int, int, Tensor | None], None]
"""`progress(step, total, preview)`: called after each of `total` steps, `step` counting from 1, with `preview` an image
`[H, W, 3]` in 0..1 on the CPU, or None when there is nothing new to show. It may raise: that cancels the work."""

FORMAT = "grounded-dreamer-views"
FORMAT_VERSION = 1


@dataclass
class ViewSet:
    """V views of one object with everything that is known of them.

    Attributes:
        images: `[V, H, W, 3]` float32 RGB, 0..1.
        masks: `[V, H, W]` float32 foreground, 0..1, soft evidence rather than truth.
        cameras: V cameras.
        attention: focus word key (`"cube"`, `"cube#2"` for a second occurrence) -> `[V, h, w]` float32, the word's
            cross-attention averaged over the captured layers, heads and steps, 0..1.
        latents: `[V, 4, h, w]` float32 final latents, or None for views that did not come from a model.
        prompt, negative_prompt, seed: what they were made from; seed None for views from images.
        provenance: JSON-able settings and reports of the run (model, sampler, refocusing report, timings).
        recipe: of the model that made them, for the stages behind; views that no model made have MVDream's.
    """

    images: Float[Tensor, "V H W 3"]
    masks: Float[Tensor, "V H W"]
    cameras: Cameras
    attention: dict[str, Tensor] = field(default_factory=dict)
    latents: Tensor | None = None
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    provenance: dict = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise ValueError(f"views need images of shape [V, H, W, 3], got {list(self.images.shape)}")
        if self.masks.shape != self.images.shape[:3]:
            raise ValueError(
                f"masks of shape {list(self.masks.shape)} do not fit images of shape {list(self.images.shape)}: "
                "there must be one mask for each view, of the same height and width"
            )
        if len(self.cameras) != len(self.images):
            raise ValueError(f"{len(self.images)} views came with {len(self.cameras)} cameras: give one camera for each view")
        for name, values in (("images", self.images), ("masks", self.masks)):
            if not torch.isfinite(values).all():
                raise ValueError(f"the views' {name} hold NaN or infinite values")

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def height(self) -> int:
        return self.images.shape[1]

    @property
    def width(self) -> int:
        return self.images.shape[2]

    def to(self, device: torch.device) -> ViewSet:
        """These views with every tensor on `device`."""
        return replace(
            self,
            images=self.images.to(device),
            masks=self.masks.to(device),
            cameras=self.cameras.to(device),
            attention={word: maps.to(device) for word, maps in self.attention.items()},
            latents=None if self.latents is None else self.latents.to(device),
        )

    def clone(self) -> ViewSet:
        """A copy that shares no tensor with this one (see the inference-mode note in `nodes/border.py`)."""
        return ViewSet(
            images=self.images.detach().clone(),
            masks=self.masks.detach().clone(),
            cameras=self.cameras.clone(),
            attention={word: m.detach().clone() for word, m in self.attention.items()},
            latents=None if self.latents is None else self.latents.detach().clone(),
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            provenance=json.loads(json.dumps(self.provenance)),
            recipe=self.recipe,
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file; an existing file is replaced only once the new one is whole.

        Raises:
            OSError: the folder does not exist, cannot be written to, or is full.
        """
        tensors = {
            "images": self.images,
            "masks": self.masks,
            "c2w": self.cameras.c2w,
            "fov_y_deg": self.cameras.fov_y_deg,
            **{f"attention.{word}": m for word, m in self.attention.items()},
        }
        if self.latents is not None:
            tensors["latents"] = self.latents
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "provenance": self.provenance,
            "recipe": json.loads(self.recipe.to_json()),
        }
        write_tensors(path, tensors, header)


def load_views(path: str | Path) -> ViewSet:
    """Read what `ViewSet.save` wrote. Raises ValueError that names the file when it is not one of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file or is cut short: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} does not hold views saved by Grounded-Dreamer")
    if header["version"] > FORMAT_VERSION:
        raise ValueError(f"{path} has views format {header['version']}, this release reads up to {FORMAT_VERSION}: update it")
    return ViewSet(
        images=tensors["images"],
        masks=tensors["masks"],
        cameras=Cameras(tensors["c2w"], tensors["fov_y_deg"]),
        attention={k.removeprefix("attention."): v for k, v in tensors.items() if k.startswith("attention.")},
        latents=tensors.get("latents"),
        prompt=header["prompt"],
        negative_prompt=header["negative_prompt"],
        seed=header["seed"],
        provenance=header["provenance"],
        recipe=Recipe.from_json(header.get("recipe", {}), where=f"the recipe in {path}"),  # older files have none
    )
