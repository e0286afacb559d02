"""Mesh Export: a field as a core MESH, as a GLB that remembers its workflow, and in other formats beside it."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

from comfy.cli_args import args
from comfy_api.latest import Types, io

from ..gd_core import mesh as meshes
from ..gd_core.nerf import RadianceField
from ..gd_core.recipe import chosen
from ..gd_core.settings.mesh import MAX_UNWRAP_FACES, PARTS
from .border import NodeProgress, at_the_border, interruptible, tell, while_listening
from .files import new_output, refuse_prefix
from .types import CATEGORY, GDField

log = logging.getLogger(__name__)

MAX_FACES = 1_000_000
OTHER_FORMATS = ["none", "obj", "ply", "stl"]


class ExportMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerExportMesh",
            display_name="Mesh Export",
            category=CATEGORY,
            description="Turns a field into a closed, textured mesh and saves it as GLB. Dropping the file on the canvas "
            "brings this graph back.",
            search_aliases=["nerf to mesh", "glb export", "marching cubes", "save 3d model", "texture bake"],
            is_output_node=True,
            inputs=[
                GDField.Input("field", tooltip="From Sparse NeRF Fit, SDS Refine or Load Field."),
                io.String.Input(
                    "filename_prefix",
                    default="3d/dream",
                    tooltip="Name below the output folder; a number is added. May name subfolders.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=512,
                    step=4,
                    tooltip="Cells a side of the grid that the surface is found in, 16 or more. 0 takes what the field's model "
                    "was made for: 128 for the tiny one, 256 for MVDream.",
                ),
                io.Int.Input(
                    "target_faces",
                    default=-1,
                    min=-1,
                    max=MAX_FACES,
                    tooltip="Simplify to about this many triangles; 0 keeps all, -1 takes what the field's model was made for.",
                ),
                io.Combo.Input(
                    "colour",
                    options=["texture", "vertex"],
                    default="texture",
                    tooltip="'texture' unwraps the mesh and bakes an image; 'vertex' colours the corners, without UVs.",
                ),
                io.Int.Input(
                    "texture_size",
                    default=0,
                    min=0,
                    max=8192,
                    step=64,
                    tooltip="Pixels a side of the texture. 0 takes what the field's model was made for.",
                ),
                io.Combo.Input(
                    "also_save",
                    options=OTHER_FORMATS,
                    default="none",
                    tooltip="A second file beside the GLB, for programs that want another format.",
                ),
                io.Float.Input(
                    "print_size",
                    default=100.0,
                    min=0.0,
                    max=10_000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="STL only: millimetres of the longest side, since slicers read an STL in millimetres. 0 keeps the "
                    "field's own units, in which an object is about 2 across.",
                ),
                io.Combo.Input(
                    "parts",
                    options=list(PARTS),
                    default="none",
                    optional=True,
                    tooltip="'words' makes one closed mesh for each subject of the prompt, named after it; 'pieces' one for "
                    "each connected piece; 'none' one mesh. In the GLB each part is a node of its own, in its place.",
                ),
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="For core mesh nodes: decimate, remesh, bake, Save 3D Model."),
                io.File3DGLB.Output(display_name="glb", tooltip="The saved file, for Preview 3D (Advanced)."),
                io.String.Output(display_name="report", tooltip="Size, pieces and defects of the mesh, as text."),
                io.Mesh.Output(
                    display_name="parts", is_output_list=True, tooltip="Each part as a mesh of its own, one after another."
                ),
                io.String.Output(
                    display_name="part names", is_output_list=True, tooltip="The name of each part, in that order."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:  # core blames every argument: only the one that is looked at
        return (filename_prefix is not None and refuse_prefix(filename_prefix)) or True

    @classmethod
    @at_the_border
    def execute(
        cls,
        field: RadianceField,
        filename_prefix: str,
        resolution: int,
        target_faces: int,
        colour: str,
        texture_size: int,
        also_save: str,
        print_size: float = 100.0,
        parts: str = "none",
    ) -> io.NodeOutput:
        path, shown = new_output(filename_prefix, ".glb")
        changes = mesh_changes(resolution, target_faces, colour, texture_size) | {"parts": parts}
        config = chosen(field.recipe.mesh, changes, "the mesh")
        with interruptible(field):
            mesh = meshes.extract_mesh(field, config, NodeProgress(cls, "making the mesh"))
        wanted = [path] if also_save == "none" else [path, path.with_suffix(f".{also_save}")]
        extras = workflow_metadata(cls.hidden)
        files: dict[Path, bytes] = {}
        for name in wanted:
            files |= while_listening(partial(meshes.encode_mesh, mesh, name, extras, print_size))
        meshes.write_together(files, overwrite=False)
        report = describe(mesh.report)
        tell(cls, report)
        return io.NodeOutput(
            Types.MESH(**mesh.gltf_tensors()),
            Types.File3D(str(path), "glb"),
            report,
            [Types.MESH(**part.gltf_tensors()) for _, part in mesh.parts()],
            [name for name, _ in mesh.parts()],
            ui={"3d": [shown], "text": [report]},
        )


def mesh_changes(resolution: int, target_faces: int, colour: str, texture_size: int) -> dict:
    """What the node changes of the field's recipe; numbers that cannot be are the nearest that can: the field is there by now.

    `target_faces` below 0, and 0 elsewhere, leave the recipe's.
    """
    most = MAX_UNWRAP_FACES if colour == "texture" else MAX_FACES
    asked = {"color": colour}
    if resolution:
        asked["resolution"] = nearest("resolution", resolution, 16, 512, 4)
    if texture_size:
        asked["texture_size"] = nearest("texture_size", texture_size, 64, 8192, 1)
    if target_faces >= 0:
        asked["target_faces"] = nearest("target_faces", target_faces, 100, most, 1) if target_faces else 0
    return asked


def nearest(name: str, value: int, low: int, high: int, step: int) -> int:
    possible = min(high, max(low, round(value / step) * step))
    if possible != value:
        log.warning("%s %d cannot be: it was taken as %d, the nearest from %d to %d that can", name, value, possible, low, high)
    return possible


def workflow_metadata(hidden) -> dict[str, str]:
    """What core's Save 3D Model puts into `asset.extras`, from which the browser restores the graph."""
    if args.disable_metadata:
        return {}
    metadata = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    return metadata | {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}


def describe(report: dict) -> str:
    closed = "watertight" if report["watertight"] else f"not watertight: {report['defects']}"
    lines = [f"{report['faces']} triangles, {report['pieces']} piece{'s' * (report['pieces'] != 1)}, {closed}"]
    if report.get("parts"):
        lines.append("parts: " + ", ".join(part["name"] for part in report["parts"]))
    if report.get("absent"):
        lines.append("no part of the surface belongs to: " + ", ".join(report["absent"]))
    return "\n".join(lines)
