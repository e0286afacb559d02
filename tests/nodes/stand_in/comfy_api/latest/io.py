"""V3 schema classes: what a node declares, kept as it was declared."""

from enum import Enum
from types import SimpleNamespace


class Input:
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
        **more,
    ):
        self.id, self.display_name, self.optional, self.tooltip = id, display_name, optional, tooltip
        self.extra_dict, self.advanced = extra_dict or {}, advanced
        self.default, self.min, self.max, self.options = (more.get(name) for name in ("default", "min", "max", "options"))
        self.more = more


class Output:
    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip, self.is_output_list = id, display_name or id, tooltip, is_output_list


def Custom(io_type):
    return type(
        io_type,
        (),
        {
            "io_type": io_type,
            "Input": type("Input", (Input,), {"io_type": io_type}),
            "Output": type("Output", (Output,), {"io_type": io_type}),
        },
    )


Int, Float, String, Boolean, Combo = map(Custom, ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"))
Image, Mask, Mesh, File3DGLB = map(Custom, ("IMAGE", "MASK", "MESH", "FILE_3D_GLB"))
Load3DCamera, Load3DModelInfo = map(Custom, ("LOAD3D_CAMERA", "LOAD3D_MODEL_INFO"))


class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class ControlAfterGenerate(str, Enum):
    fixed = "fixed"
    randomize = "randomize"


class Schema:
    def __init__(
        self,
        node_id,
        display_name=None,
        category="sd",
        inputs=(),
        outputs=(),
        hidden=(),
        description="",
        search_aliases=(),
        is_input_list=False,
        is_output_node=False,
        has_intermediate_output=False,
    ):
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})


class ComfyNode:
    hidden = SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args, self.ui = args, ui
