"""Radiance fields once they are there: rendered around, saved and loaded."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from ..gd_core.cameras import orbit_cameras
from ..gd_core.nerf import RadianceField, load_field
from ..gd_core.pictures import SHOWS, rendered_picture
from ..gd_core.viewer_camera import camera_of_viewer, turned_about
from .border import NodeProgress, at_the_border, interruptible
from .files import OffersFiles, new_output, refuse_prefix
from .types import CATEGORY, GDField

FIELD_SUFFIX = ".field.safetensors"


class Turntable(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerTurntable",
            display_name="Turntable",
            category=CATEGORY,
            description="Renders a field from all around, as frames for Create Video or Save Animated WEBP.",
            search_aliases=["orbit video", "render field", "360 render", "spin"],
            inputs=[
                GDField.Input("field", tooltip="What to render."),
                io.Int.Input("frames", default=24, min=1, max=480, tooltip="Frames in one turn."),
                io.Int.Input("size", default=256, min=32, max=2048, step=8, tooltip="Pixels a side of each frame."),
                io.Float.Input("elevation", default=15.0, min=-89.0, max=89.0, step=1.0, tooltip="Degrees above the horizon."),
                io.Combo.Input(
                    "show",
                    options=list(SHOWS),
                    default="colour",
                    tooltip="What the pixels show. 'words' paints each subject's part in a colour of its own.",
                ),
                io.Load3DCamera.Input(
                    "camera_info",
                    optional=True,
                    tooltip="The camera of Load 3D, Preview 3D or Create Camera Info: the turn starts there. It takes the "
                    "place of 'elevation'.",
                ),
                io.Load3DModelInfo.Input(
                    "model_3d_info",
                    optional=True,
                    advanced=True,
                    tooltip="From the same viewer as camera_info: how it moved and scaled the model.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="One image a frame, in order."),
                io.Mask.Output(display_name="masks", tooltip="The object's opacity in each frame."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @at_the_border
    def execute(
        cls,
        field: RadianceField,
        frames: int,
        size: int,
        elevation: float,
        show: str,
        camera_info: dict | None = None,
        model_3d_info: list | None = None,
    ) -> io.NodeOutput:
        if camera_info is None:
            cameras = orbit_cameras(frames, elevation)
        else:
            cameras = turned_about(*camera_of_viewer(camera_info, model_3d_info), frames)
        progress = NodeProgress(cls, "rendering")
        images, masks = [], []
        for index in range(frames):
            with interruptible(field):
                rendered = field.render(cameras[index], size, size)
            images.append(rendered_picture(field, cameras[index], rendered, show).cpu())
            masks.append(rendered.alpha.cpu())
            progress(index + 1, frames, images[-1][0])
        return io.NodeOutput(torch.cat(images), torch.cat(masks))


class SaveField(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerSaveField",
            display_name="Save Field",
            category=CATEGORY,
            description="Saves a radiance field to ComfyUI's output folder, so that it can be meshed or refined another day.",
            search_aliases=["save nerf", "export field"],
            is_output_node=True,
            inputs=[
                GDField.Input("field", tooltip="What to save."),
                io.String.Input(
                    "filename_prefix",
                    default="fields/dream",
                    tooltip="Name below the output folder; a number is added. May name subfolders.",
                ),
            ],
            outputs=[GDField.Output(display_name="field", tooltip="The same field, to go on with.")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        return (filename_prefix is not None and refuse_prefix(filename_prefix)) or True

    @classmethod
    @at_the_border
    def execute(cls, field: RadianceField, filename_prefix: str) -> io.NodeOutput:
        path, shown = new_output(filename_prefix, FIELD_SUFFIX)
        field.save(path)
        return io.NodeOutput(field, ui={"files": [shown]})


class LoadField(OffersFiles, io.ComfyNode):
    SUFFIXES = (FIELD_SUFFIX,)
    KIND = "field"
    REMEDY = "save one with Save Field first"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerLoadField",
            display_name="Load Field",
            category=CATEGORY,
            description="Loads a radiance field that Save Field wrote.",
            search_aliases=["load nerf", "open field"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=cls.files(),
                    tooltip=f"Files that end in {FIELD_SUFFIX}, in ComfyUI's output and input folders. Press R to look again.",
                )
            ],
            outputs=[GDField.Output(display_name="field", tooltip="For SDS Refine, Mesh Export and Turntable.")],
        )

    @classmethod
    @at_the_border
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_field(cls.path_of(file), comfy.model_management.get_torch_device()))
