"""View sets from images, and pictures of view sets."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gd_core.cameras import DEFAULT_DISTANCE, DEFAULT_FOV_Y_DEG, orbit_cameras
from ..gd_core.diffusion import foreground_masks
from ..gd_core.pictures import heat_map_overlays, heat_maps, view_grid
from ..gd_core.views import ViewSet
from .border import at_the_border
from .types import CATEGORY, GDViews

MAX_VIEWS = 64


class ViewsFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerViewsFromImages",
            display_name="Views from Images",
            category=CATEGORY,
            description="Makes views out of images from anywhere: other packs, renders, photographs. The images go once "
            "around the object "
            "at equal angles.",
            search_aliases=["images to views", "multi-view images", "photos to 3d", "zero123", "wonder3d"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="A batch of square or oblong images of one size, two or more, in the order of their cameras.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Where the object is, one mask an image. Left out, it is what differs from the background.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    optional=True,
                    tooltip="What the images show; SDS Refine needs it, the NeRF fit does not.",
                ),
                io.Float.Input(
                    "elevation",
                    default=15.0,
                    min=-89.0,
                    max=89.0,
                    step=1.0,
                    tooltip="Degrees that the cameras stand above the horizon.",
                ),
                io.Float.Input(
                    "azimuth_start",
                    default=90.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Azimuth of the first image in degrees: 0 is the front (-y), 90 the right (+x), as MVDream counts.",
                ),
                io.Float.Input(
                    "azimuth_span",
                    default=360.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Degrees that the images go around, counter-clockwise seen from above; negative turns the "
                    "other way.",
                ),
                io.Float.Input(
                    "fov",
                    default=DEFAULT_FOV_Y_DEG,
                    min=1.0,
                    max=170.0,
                    step=0.5,
                    advanced=True,
                    tooltip="Vertical field of view of the cameras in degrees.",
                ),
                io.Float.Input(
                    "distance",
                    default=DEFAULT_DISTANCE,
                    min=1.05,
                    max=100.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Of the cameras from the object's centre. The object must lie within 1 unit of it.",
                ),
            ],
            outputs=[
                GDViews.Output(display_name="views", tooltip="For Sparse NeRF Fit, View Grid and Evaluate."),
                io.Mask.Output(display_name="masks", tooltip="The masks that the fit will use."),
            ],
        )

    @classmethod
    @at_the_border
    def execute(
        cls,
        images: Tensor,
        elevation: float,
        azimuth_start: float,
        azimuth_span: float,
        fov: float,
        distance: float,
        masks: Tensor | None = None,
        prompt: str = "",
    ) -> io.NodeOutput:
        count = len(images)
        if not 2 <= count <= MAX_VIEWS:
            raise ValueError(f"'images' holds {count}: batch 2 to {MAX_VIEWS} images of the object, seen from around it")
        if min(images.shape[1:3]) < 16:
            raise ValueError(f"'images' are {images.shape[2]}x{images.shape[1]} pixels: give at least 16x16")
        images = images[..., :3].float().clamp(0, 1).cpu()  # with --gpu-only they are not
        if masks is not None and masks.shape != images.shape[:3]:
            raise ValueError(
                f"'masks' are {len(masks)} of {masks.shape[2]}x{masks.shape[1]} pixels, 'images' {count} of "
                f"{images.shape[2]}x{images.shape[1]}: give one mask of the same size for each image"
            )
        masks = foreground_masks(images) if masks is None else masks.float().clamp(0, 1).cpu()
        cameras = orbit_cameras(count, elevation, azimuth_start, azimuth_span, distance=distance, fov_y_deg=fov)
        return io.NodeOutput(ViewSet(images, masks, cameras, prompt=prompt.strip()), masks)


class ViewGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerViewGrid",
            display_name="View Grid",
            category=CATEGORY,
            description="All views in one image. Several sets (a batch of seeds) go below each other.",
            search_aliases=["contact sheet", "tile views", "montage"],
            is_input_list=True,
            inputs=[
                GDViews.Input("views", tooltip="One set of views, or a list of them."),
                io.Int.Input("columns", default=4, min=1, max=MAX_VIEWS, tooltip="Images in a row. 2 gives MVDream's square."),
            ],
            outputs=[io.Image.Output(display_name="grid", tooltip="One image.")],
        )

    @classmethod
    @at_the_border
    def execute(cls, views: list[ViewSet], columns: list[int]) -> io.NodeOutput:
        return io.NodeOutput(view_grid(views, columns[0])[None])


class AttentionHeatMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerAttentionHeatMaps",
            display_name="Attention Heat Maps",
            category=CATEGORY,
            description="Shows where the model looked for each word: the word's cross-attention, laid over every view.",
            search_aliases=["cross attention map", "daam", "token heat map", "visualize attention"],
            inputs=[
                GDViews.Input("views", tooltip="From the 4-View Sampler."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words to show, separated by commas; 'cube#2' is the second cube of the prompt. Empty: every "
                    "word there is.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 shows the views alone, 1 the attention alone.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="overlays", tooltip="Word by word, view by view."),
                io.Mask.Output(
                    display_name="maps", tooltip="The same maps as masks; 1 is the word's highest attention in any view."
                ),
                io.String.Output(display_name="words", tooltip="The words shown, in order, separated by commas."),
            ],
        )

    @classmethod
    @at_the_border
    def execute(cls, views: ViewSet, words: str, strength: float) -> io.NodeOutput:
        chosen = [word.strip().lower() for word in words.split(",") if word.strip()] or list(views.attention)
        overlays = heat_map_overlays(views, chosen, strength)
        return io.NodeOutput(torch.clamp(overlays, 0, 1), heat_maps(views, chosen), ", ".join(chosen))
