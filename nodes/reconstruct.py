"""Doors to other people's nodes: views for the core's reconstructors, meshes from files, views painted onto meshes."""

from __future__ import annotations

import torch
from comfy_api.latest import Types, io

from ..gd_core import mesh as meshes
from ..gd_core.mesh.settings import MESH_SUFFIXES, MIN_AGREEMENT
from ..gd_core.view_names import AZIMUTH_FROM_FRONT, HUNYUAN_MARGIN, named_pictures
from ..gd_core.views import ViewSet
from .border import NodeProgress, at_the_border, while_listening
from .files import OffersFiles
from .types import CATEGORY, GDViews


class ViewsByName(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerViewsByName",
            display_name="Views by Name",
            category=CATEGORY,
            description="Hands out the front, left, back and right view as single images on white, as the nodes of Hunyuan3D "
            "and TRELLIS want them.",
            search_aliases=["hunyuan3d views", "multi-view conditioning", "front left back right", "trellis image"],
            inputs=[
                GDViews.Input("views", tooltip="Views around the object in steps of 90 degrees."),
                io.Float.Input(
                    "front_azimuth",
                    default=90.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Where the camera stands that sees the object's front, in degrees. The 4-View Sampler's first view "
                    "is at 90.",
                ),
                io.Int.Input("size", default=512, min=64, max=4096, step=8, tooltip="Pixels a side of each image."),
                io.Float.Input(
                    "margin",
                    default=HUNYUAN_MARGIN,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    tooltip="Share of the side that stays white. 0.15 is what Hunyuan3D was trained with.",
                ),
            ],
            outputs=[
                *(
                    io.Image.Output(display_name=name, tooltip=f"The object's {name}; its own {name}, not the onlooker's.")
                    for name in AZIMUTH_FROM_FRONT
                ),
                io.Mask.Output(display_name="masks", tooltip="Where the object is in the four images, in the same order."),
            ],
        )

    @classmethod
    @at_the_border
    def execute(cls, views: ViewSet, front_azimuth: float, size: int, margin: float) -> io.NodeOutput:
        made = named_pictures(views, front_azimuth, size, margin)
        return io.NodeOutput(*(image[None] for image, _ in made.values()), torch.stack([mask for _, mask in made.values()]))


class LoadMesh(OffersFiles, io.ComfyNode):
    SUFFIXES = MESH_SUFFIXES
    KIND = "mesh"
    REMEDY = "put the file into the input folder"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerLoadMesh",
            display_name="Load Mesh",
            category=CATEGORY,
            description="Loads a GLB, glTF, OBJ, PLY or STL file as a MESH for core's mesh nodes, with its texture or vertex "
            "colours. All objects of the file become one mesh.",
            search_aliases=["glb to mesh", "import mesh", "load obj", "load stl", "load ply", "load 3d model"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=cls.files(),
                    tooltip="Mesh files in ComfyUI's input and output folders, subfolders too. Press R to look again.",
                )
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="For core mesh nodes, and for Project Views onto Mesh."),
                io.String.Output(display_name="report", tooltip="Its size, and what of the file was left out."),
            ],
        )

    @classmethod
    @at_the_border
    def execute(cls, file: str) -> io.NodeOutput:
        path = cls.path_of(file)
        mesh = while_listening(lambda: meshes.load_mesh(path))
        colour = "vertex colours" if mesh.texture is None else f"a texture of {len(mesh.texture)} pixels"
        report = f"{len(mesh.faces)} triangles, {colour}"
        if mesh.report["left_out"]:
            report += f"; left out: {', '.join(mesh.report['left_out'])}"
        return io.NodeOutput(Types.MESH(**mesh.gltf_tensors()), report, ui={"text": [report]})


class ProjectViews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerProjectViews",
            display_name="Project Views onto Mesh",
            category=CATEGORY,
            description="Paints any mesh with views of the same object: each texel takes the colours of the views that see it. "
            "The mesh may lie on its side and have any size; it comes back where it was.",
            search_aliases=["texture projection", "multiview texture", "bake views", "paint mesh", "hunyuan3d texture"],
            inputs=[
                io.Mesh.Input("mesh", tooltip="From a reconstructor of the core, from Load Mesh, or from Mesh Export."),
                GDViews.Input("views", tooltip="Views of the object that the mesh is of."),
                io.Int.Input(
                    "texture_size", default=1024, min=64, max=8192, step=64, tooltip="Pixels a side of the texture."
                ),
                io.Float.Input(
                    "min_agreement",
                    default=MIN_AGREEMENT,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How well the mesh's silhouettes must agree with the views' masks (intersection over union). Below "
                    "it the views are taken to show another object.",
                ),
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="The mesh with a texture, for core's Save 3D Model and others."),
                io.String.Output(display_name="report", tooltip="The agreement of the silhouettes, and how much is seen."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @at_the_border
    def execute(cls, mesh: Types.MESH, views: ViewSet, texture_size: int, min_agreement: float) -> io.NodeOutput:
        painted = meshes.project_views(
            one_of(mesh),
            views,
            texture_size=texture_size,
            min_agreement=min_agreement,
            progress=NodeProgress(cls, "painting the mesh"),
        )
        found = painted.report
        report = f"silhouettes agree to {found['agreement']:.2f}, the views see {found['seen']:.0%} of the surface"
        return io.NodeOutput(Types.MESH(**painted.gltf_tensors()), report, ui={"text": [report]})


def one_of(mesh: Types.MESH):
    """The only mesh of a batch of one, as `gd_core` holds it."""
    if len(mesh.vertices) != 1:
        raise ValueError(f"'mesh' is a batch of {len(mesh.vertices)}: give one mesh at a time")
    texture, colors = mesh.texture, getattr(mesh, "vertex_colors", None)
    return meshes.from_gltf_tensors(
        mesh.vertices[0],
        mesh.faces[0],
        uvs=None if mesh.uvs is None else mesh.uvs[0],
        texture=None if texture is None else texture[0],
        vertex_colors=None if colors is None else colors[0],
    )
