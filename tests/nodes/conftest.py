"""The pack imported as ComfyUI imports it (a package under a made-up name), against the stand-in for ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from gd_core.diffusion.bundle import save_bundle
from tests.random_models import random_mvdream

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
PACK = "a_pack_of_any_name"


def import_pack(base: Path):
    """The pack as a package, its folders below `base`; once, since its routes and folders are registered on import."""
    if PACK not in sys.modules:
        sys.path.insert(0, str(STAND_IN))
        import folder_paths  # noqa: PLC0415

        folder_paths.use(base)
        spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK])
    return sys.modules[PACK]


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """ComfyUI's base directory, with a small random model as `models/mvdream/small`."""
    base = tmp_path_factory.mktemp("comfy")
    save_bundle(random_mvdream(tmp_path_factory.mktemp("tokenizer")), folder(base / "models/mvdream/small"))
    return base


def folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def pack(base):
    return import_pack(base)


@pytest.fixture(scope="session")
def nodes(pack) -> dict[str, type]:
    """Node classes by id."""
    return {node.define_schema().node_id.removeprefix("GroundedDreamer"): node for node in pack.nodes.NODES}


@pytest.fixture
def run(nodes):
    """`run("FitNeRF", views=..., steps=5)`: execute as ComfyUI does, under inference mode, with the schema's defaults."""

    def run(name: str, **inputs):
        node = nodes[name]
        for declared in node.define_schema().inputs:
            if not declared.optional and declared.default is not None:
                value = [declared.default] if node.define_schema().is_input_list else declared.default
                inputs.setdefault(declared.id, value)
        with torch.inference_mode():
            return node.execute(**inputs)

    return run


@pytest.fixture(scope="session")
def ball():
    """Four 32 px images of a red ball of radius 0.5 on white, as ComfyUI hands images over, made under inference mode."""
    with torch.inference_mode():
        y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
        inside = (x**2 + y**2 < 0.46**2)[..., None]  # its silhouette 3 units away, in a view 2.18 units wide there
        image = torch.where(inside, torch.tensor([0.9, 0.1, 0.1]), torch.ones(3))
        return image.repeat(4, 1, 1, 1)
