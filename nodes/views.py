"""View sets from images, and pictures of view sets."""

from __future__ import annotations

from functools import partial

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gd_core.attention import clean_text
from ..gd_core.cameras import DEFAULT_DISTANCE, DEFAULT_FOV_Y_DEG
from ..gd_core.image_views import MAX_VIEWS, views_from_images
from ..gd_core.pictures import heat_map_overlays, heat_maps, view_grid
from ..gd_core.rigs import EVEN_ORBIT, RIGS, chosen_cameras, parse_numbers
from ..gd_core.viewer_camera import camera_of_viewer, orbit_of
from ..gd_core.views import ViewSet
from .border import NodeProgress, at_the_border
from .types import CATEGORY, GDViews


class ViewsFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerViewsFromImages",
            display_name="Views from Images",
            category=CATEGORY,
            description="Makes views out of images from anywhere: other packs, renders, photographs. Choose the rig that they "
            "were made with, or describe it.",
            search_aliases=[
                "images to views",
                "multi-view images",
                "photos to 3d",
                "zero123",
                "zero123++",
                "wonder3d",
                "era3d",
                "mv-adapter",
                "hunyuan3d",
                "orthographic cameras",
                "camera rig",
            ],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="A batch of square or oblong images of one size, two or more, in the order of their cameras; or "
                    "one sheet of square pictures, for a rig by name. Transparency (a fourth channel) is the mask.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Where the object is: 1 on it, 0 beside it, one mask an image. Load Image gives the opposite: put "
                    "Invert Mask between. Left out, it is the images' transparency, or what differs from the background.",
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
                    tooltip="Degrees that the cameras stand above the horizon. Even orbit only.",
                ),
                io.Float.Input(
                    "azimuth_start",
                    default=90.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Azimuth of the first image in degrees: 0 is the front (-y), 90 the right (+x), as MVDream counts. "
                    "Even orbit only.",
                ),
                io.Float.Input(
                    "azimuth_span",
                    default=360.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Degrees that the images go around, counter-clockwise seen from above; negative turns the "
                    "other way. Even orbit only.",
                ),
                io.Float.Input(
                    "fov",
                    default=DEFAULT_FOV_Y_DEG,
                    min=1.0,
                    max=170.0,
                    step=0.5,
                    advanced=True,
                    tooltip="Vertical field of view of the cameras in degrees. Even orbit only.",
                ),
                io.Float.Input(
                    "distance",
                    default=DEFAULT_DISTANCE,
                    min=1.05,
                    max=100.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Of the cameras from the object's centre. The object must lie within 1 unit of it. Even "
                    "orbit only.",
                ),
                io.Combo.Input(
                    "rig",
                    options=[EVEN_ORBIT, *RIGS],
                    default=EVEN_ORBIT,
                    optional=True,
                    tooltip="Where the images were seen from: an even orbit, which the numbers above describe, or the rig of "
                    "the model that made them, in its own order, which does not read them.",
                ),
                io.String.Input(
                    "azimuths",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Degrees, one for each image, for example 0, 90, 180, 270. In place of what the rig says.",
                ),
                io.String.Input(
                    "elevations",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Degrees above the horizon, one for all images or one for each. In place of what the rig says.",
                ),
                io.String.Input(
                    "fovs",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Vertical fields of view in degrees, one for all images or one for each. In place of what the "
                    "rig says.",
                ),
                io.String.Input(
                    "ortho_widths",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Orthographic cameras: world units that an image shows from left to right, one for all images or "
                    "one for each; 0 for a camera with perspective. 2 shows the whole box of the field.",
                ),
                io.Load3DCamera.Input(
                    "camera_info",
                    optional=True,
                    tooltip="The camera of the first image, from Load 3D, Preview 3D or Create Camera Info. It takes the place "
                    "of elevation, azimuth_start, fov and distance; the others follow around the object.",
                ),
                io.Load3DModelInfo.Input(
                    "model_3d_info",
                    optional=True,
                    advanced=True,
                    tooltip="From the same viewer as camera_info: how it moved and scaled the model.",
                ),
            ],
            outputs=[
                GDViews.Output(display_name="views", tooltip="For Sparse NeRF Fit, View Grid and Evaluate."),
                io.Mask.Output(display_name="masks", tooltip="The masks that the fit will use."),
            ],
            hidden=[io.Hidden.unique_id],
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
        rig: str = EVEN_ORBIT,
        azimuths: str = "",
        elevations: str = "",
        fovs: str = "",
        ortho_widths: str = "",
        camera_info: dict | None = None,
        model_3d_info: list | None = None,
    ) -> io.NodeOutput:
        orbit = {"elevation_deg": elevation, "azimuth_start_deg": azimuth_start, "distance": distance, "fov_y_deg": fov}
        if camera_info is not None:
            orbit = orbit_of(*camera_of_viewer(camera_info, model_3d_info))
        lists = {"azimuths": azimuths, "elevations": elevations, "fovs": fovs, "ortho_widths": ortho_widths}
        cameras = partial(
            chosen_cameras,
            rig=rig,
            elevation=orbit["elevation_deg"],
            azimuth_start=orbit["azimuth_start_deg"],
            azimuth_span=azimuth_span,
            fov=orbit["fov_y_deg"],
            distance=orbit["distance"],
            **{name: parse_numbers(text, name) for name, text in lists.items()},
        )
        views = views_from_images(
            images,
            masks,
            cameras,
            rig_size=len(RIGS[rig]) if rig in RIGS else None,
            prompt=prompt.strip(),
            progress=NodeProgress(cls, "finding the object"),
        )
        return io.NodeOutput(views, views.masks)


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
        chosen = [word for part in words.split(",") if (word := clean_text(part).lower())] or list(views.attention)
        overlays = heat_map_overlays(views, chosen, strength)
        return io.NodeOutput(torch.clamp(overlays, 0, 1), heat_maps(views, chosen), ", ".join(chosen))
