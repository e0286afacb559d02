"""Pictures for people: views in a grid, attention over views, and what a field renders besides colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .views import ViewSet

if TYPE_CHECKING:
    from .cameras import Cameras
    from .nerf import RadianceField, RenderedViews

# Colours from cold to hot, evenly spaced; dark to bright, so that they also read in grey (the shape of matplotlib's "inferno").
HEAT = ((0.0, 0.0, 0.02), (0.26, 0.04, 0.41), (0.58, 0.15, 0.40), (0.87, 0.32, 0.23), (0.99, 0.65, 0.04), (0.99, 1.0, 0.64))
SHOWS = ("colour", "normals", "depth", "opacity", "words")
# One colour a word, told apart also by people who see colours otherwise (Okabe and Ito 2008); grey for what has no label.
WORD_COLORS = (
    (0.90, 0.62, 0.0), (0.34, 0.71, 0.91), (0.0, 0.62, 0.45), (0.80, 0.47, 0.65), (0.94, 0.89, 0.26), (0.0, 0.45, 0.70),
)  # fmt: skip
NO_WORD = (0.6, 0.6, 0.6)


def image_grid(images: Float[Tensor, "N H W 3"], columns: int, gap: int = 2) -> Float[Tensor, "GH GW 3"]:
    """N images row by row, `gap` white pixels between them; missing ones at the end are white.

    Raises:
        ValueError: for fewer than one column.
    """
    if columns < 1:
        raise ValueError(f"a grid needs at least 1 column, got {columns}")
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    grid = images.new_ones(rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def view_grid(view_sets: Sequence[ViewSet], columns: int) -> Float[Tensor, "GH GW 3"]:
    """The views of all sets, one set after the other; see `image_grid`."""
    sizes = {(views.height, views.width) for views in view_sets}
    if len(sizes) > 1:
        raise ValueError(f"views of different sizes ({', '.join(f'{w}x{h}' for h, w in sorted(sizes))}) do not fit one grid")
    return image_grid(torch.cat([views.images for views in view_sets]), columns)


def heat_maps(views: ViewSet, words: Sequence[str]) -> Float[Tensor, "N H W"]:
    """Attention maps of `words` at the views' size, 0..1: word by word, view by view; 1 is the word's highest over all views.

    Raises:
        ValueError: the views have no attention, or not of that word.
    """
    if not views.attention:
        raise ValueError("these views have no attention maps: only views from the 4-View Sampler do")
    scaled = []
    for word in words:
        if word not in views.attention:
            raise ValueError(f"there is no attention map of '{word}', only of: {', '.join(views.attention)}")
        maps = views.attention[word].float()
        maps = F.interpolate(maps[:, None], (views.height, views.width), mode="bilinear", align_corners=False)[:, 0]
        scaled.append((maps / maps.max().clamp(min=1e-8)).clamp(0, 1))
    return torch.cat(scaled)


def heat_map_overlays(views: ViewSet, words: Sequence[str], strength: float = 0.7) -> Float[Tensor, "N H W 3"]:
    """`heat_maps` as colours laid over the views; `strength` 0 shows the views alone, 1 the colours alone."""
    maps = heat_maps(views, words)
    grey = views.images.mean(-1, keepdim=True).expand_as(views.images).repeat(len(words), 1, 1, 1)
    return (1 - strength) * grey + strength * heat_colors(maps)


def heat_colors(values: Float[Tensor, "N H W"]) -> Float[Tensor, "N H W 3"]:
    """`HEAT` for values in 0..1, linear in between."""
    table = torch.tensor(HEAT, dtype=values.dtype, device=values.device)
    position = values.clamp(0, 1) * (len(HEAT) - 1)
    low = position.floor().long().clamp(max=len(HEAT) - 2)
    return torch.lerp(table[low], table[low + 1], (position - low)[..., None])


def rendered_picture(field: RadianceField, cameras: Cameras, rendered: RenderedViews, show: str) -> Float[Tensor, "V H W 3"]:
    """What `field` rendered from `cameras`, as images in 0..1.

    Depth goes from near (white) to far (black) within each view; "words" paints each subject's part in a colour of its own.
    """
    if show == "colour":
        return rendered.rgb
    if show == "words":
        return word_picture(field, cameras, rendered)
    if show == "normals":
        return rendered.normal / 2 + 0.5
    if show == "opacity":
        picture = rendered.alpha
    elif show == "depth":
        seen = rendered.alpha > 0.5
        near = torch.where(seen, rendered.depth, torch.inf).amin((1, 2), keepdim=True)
        far = torch.where(seen, rendered.depth, -torch.inf).amax((1, 2), keepdim=True)
        picture = torch.where(seen, 1 - 0.8 * (rendered.depth - near) / (far - near).clamp(min=1e-6), 0.0)
    else:
        raise ValueError(f"cannot show '{show}': choose one of {', '.join(SHOWS)}")
    return picture[..., None].expand(*picture.shape, 3)


def word_picture(field: RadianceField, cameras: Cameras, rendered: RenderedViews) -> Float[Tensor, "V H W 3"]:
    """Each subject's part in one of `WORD_COLORS`, shaded by its normals, on white."""
    palette = [WORD_COLORS[i % len(WORD_COLORS)] for i in range(len(field.label_names))] + [NO_WORD]
    palette = torch.tensor(palette, device=field.device)
    height, width = rendered.alpha.shape[1:]
    origins, directions = cameras.to(field.device).rays(height, width)
    surface = (origins + directions * rendered.depth[..., None]).reshape(-1, 3)
    label = field.labels(surface).view(rendered.alpha.shape)
    facing = -(directions * rendered.normal).sum(-1, keepdim=True).clamp(-1, 0)
    return (palette[label] * (0.4 + 0.6 * facing) * rendered.alpha[..., None] + 1 - rendered.alpha[..., None]).clamp(0, 1)
