"""The nodes: ComfyUI's types in and out, progress, previews and cancelling around calls of `gd_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import routes
from .evaluate import Compare, Evaluate
from .field import LoadField, SaveField, Turntable
from .mesh import ExportMesh
from .models import LoadLoRA, LoadMVDream
from .nerf import FitNeRF, RefineSDS
from .prompt import FocusPrompt
from .reconstruct import LoadMesh, ProjectViews, ViewsByName
from .sample import SampleViews
from .subjects import SubjectMasks
from .views import AttentionHeatMaps, ViewGrid, ViewsFromImages

NODES: list[type[io.ComfyNode]] = [
    LoadMVDream,
    LoadLoRA,
    FocusPrompt,
    SampleViews,
    FitNeRF,
    RefineSDS,
    ExportMesh,
    ViewsFromImages,
    ViewGrid,
    AttentionHeatMaps,
    SubjectMasks,
    Turntable,
    SaveField,
    LoadField,
    Evaluate,
    Compare,
    ViewsByName,
    LoadMesh,
    ProjectViews,
]


class GroundedDreamerExtension(ComfyExtension):
    async def on_load(self) -> None:
        routes.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> GroundedDreamerExtension:
    return GroundedDreamerExtension()
