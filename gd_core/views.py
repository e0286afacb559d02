"""`ViewSet`: what the diffusion stage hands to the NeRF, the heat maps and the mesh's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from .cameras import Cameras
from .files import read_tensors, write_tensors
from .recipe import Recipe
from .verdicts import SubjectVerdict

Progress = Callable[[int, int, Tensor | None], None]
"""`progress(step, total, preview)`: called after each of `total` steps, `step` counting from 1, with `preview` an image
`[H, W, 3]` in 0..1 on the CPU, or None when there is nothing new to show. While the work prepares it is called with step 0, as
often as it can stop. It may raise: that cancels the work."""

USEFUL_PIXELS = 1024  # of a view's longer side: more are finer than any field that is fitted to them
FORMAT = "grounded-dreamer-views"
FORMAT_VERSION = 2
PINHOLE_VERSION = 1  # without orthographic cameras: what releases before them read
# Of a view's border and of what is within it: an object that is cut off on all sides and has a hole is rarer than a mistake.
INVERTED_BORDER, INVERTED_HOLLOW = 0.8, 0.005


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
        verdicts: for each subject of the prompt what the model itself says of it; none for views that did not come from one.
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
    verdicts: tuple[SubjectVerdict, ...] = ()
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
            verdicts=self.verdicts,
            recipe=self.recipe,
        )

    def at_most(self, side: int) -> ViewSet:
        """These views, scaled down to `side` pixels along the longer side if they are larger; masks and cameras with them."""
        scale = side / max(self.height, self.width)
        if scale >= 1:
            return self
        size = [max(1, round(length * scale)) for length in (self.height, self.width)]
        images = torch.cat([interpolate(image.movedim(-1, 0)[None], size, mode="area") for image in self.images])
        masks = torch.cat([interpolate(mask[None, None], size, mode="area")[0] for mask in self.masks])
        return replace(self, images=images.movedim(1, -1).contiguous(), masks=masks)

    def fingerprinted(self) -> tuple:
        """What makes these views these: not their provenance, which holds timings, nor the maps and the recipe."""
        return self.images, self.masks, self.cameras, self.prompt, self.negative_prompt

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
            "ortho_height": self.cameras.ortho_height,
            **{f"attention.{word}": m for word, m in self.attention.items()},
        }
        if self.latents is not None:
            tensors["latents"] = self.latents
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION if (self.cameras.ortho_height > 0).any() else PINHOLE_VERSION,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "provenance": self.provenance,
            "verdicts": [verdict.to_plain() for verdict in self.verdicts],
            "recipe": json.loads(self.recipe.to_json()),
        }
        write_tensors(path, tensors, header)


def refuse_inverted(masks: Float[Tensor, "V H W"]) -> None:
    """ValueError for masks that are 1 along nearly the whole border of a view and 0 inside, or 1 everywhere: masks are 1 on the
    object, and transparency, which ComfyUI's Load Image hands out as mask, is 1 beside it."""
    solid = masks > 0.5
    edges = (solid[:, 0], solid[:, -1], solid[:, 1:-1, 0], solid[:, 1:-1, -1])
    border = torch.cat([edge.flatten(1) for edge in edges], dim=1).float().mean(1)
    hollow = 1 - solid[:, 1:-1, 1:-1].flatten(1).float().mean(1)
    inverted = ((border > INVERTED_BORDER) & (hollow > INVERTED_HOLLOW)).nonzero()[:, 0]
    if len(inverted):
        which = "" if len(inverted) == len(masks) else f" of view {', '.join(str(int(v) + 1) for v in inverted)}"
        raise ValueError(
            f"the masks{which} are 1 along the border and 0 inside, so the background is marked and not the object: put an "
            "Invert Mask node before 'masks' (Load Image gives 1 where a picture is transparent; here 1 is the object)"
        )
    if solid.all():
        raise ValueError(
            "the masks are 1 everywhere, so they do not say where the object is: leave 'masks' unconnected, or give masks "
            "that are 1 on the object and 0 beside it"
        )


def load_views(path: str | Path) -> ViewSet:
    """Read what `ViewSet.save` wrote. Raises ValueError that names the file when it is not one of ours."""
    tensors, header = read_tensors(path, FORMAT, "views saved by Grounded-Dreamer", newest=FORMAT_VERSION)
    return ViewSet(
        images=tensors["images"],
        masks=tensors["masks"],
        cameras=Cameras(tensors["c2w"], tensors["fov_y_deg"], tensors.get("ortho_height")),
        attention={k.removeprefix("attention."): v for k, v in tensors.items() if k.startswith("attention.")},
        latents=tensors.get("latents"),
        prompt=header["prompt"],
        negative_prompt=header["negative_prompt"],
        seed=header["seed"],
        provenance=header["provenance"],
        verdicts=tuple(SubjectVerdict.from_plain(verdict) for verdict in header.get("verdicts", ())),
        recipe=Recipe.from_json(header.get("recipe", {}), where=f"the recipe in {path}"),  # older files have none
    )
