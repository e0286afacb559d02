"""The layers of DESIGN: imports point one way, the core never knows its host, nodes never do maths."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "nodes", "execution"}
# What each package of gd_core may import from the others; those of `SERVE_ALL` see none.
SERVE_ALL = {"files", "devices"}
ALLOWED = {
    **{name: set() for name in SERVE_ALL},
    "cameras": set(),
    "settings": set(),
    "recipe": {"settings"},
    "rigs": {"cameras"},
    "verdicts": set(),
    "views": {"cameras", "recipe", "verdicts"},
    "video": {"cameras", "views", "nerf"},
    "subject_masks": {"views"},
    "memory": {"settings"},
    "attention": {"settings", "cameras", "views"},
    "diffusion": {"settings", "recipe", "memory", "cameras", "verdicts", "views", "subject_masks", "attention"},
    "nerf": {"settings", "recipe", "cameras", "views", "subject_masks"},
    "distillation": {"settings", "memory", "cameras", "views", "attention", "diffusion", "nerf"},
    "mesh": {"settings", "recipe", "cameras", "views", "nerf"},
    "metrics": {"cameras", "views", "attention", "diffusion", "nerf", "distillation", "mesh"},
}


def _imports(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import in a file; `from . import x` names x."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module)] if node.module else [(node.level, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "gd_core").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_core_imports(path):
    place = path.relative_to(ROOT / "gd_core").with_suffix("").parts
    layer = place[0]
    for level, module in _imports(path):
        top = module.split(".")[0]
        if level == 0:
            assert top not in HOST | {"gd_core", "tools", "tests"}, f"{path.name} imports {module}"
            continue
        climbs_to_root = level == len(place)
        if climbs_to_root and layer in ALLOWED and top not in {layer, *SERVE_ALL}:
            assert top in ALLOWED[layer], f"gd_core/{'/'.join(place)} imports {top}; {layer} may see {sorted(ALLOWED[layer])}"


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=lambda p: p.name)
def test_nodes_are_border_code(path):
    for level, module in _imports(path):
        top = module.split(".")[0]
        assert level > 0 or top not in {"gd_core", "numpy", "scipy", "skimage", "trimesh", "diffusers"}, (
            f"nodes/{path.name} imports {module}: maths and models live in gd_core, imported relatively"
        )


def test_pack_registers_nothing_the_old_way():
    source = (ROOT / "__init__.py").read_text()
    assert "NODE_CLASS_MAPPINGS" not in source and "comfy_entrypoint" in source


def test_no_test_reads_a_clock():
    """A machine that is slow or busy is no error: tests count steps, calls, frames and events. One file notes down a time."""
    clocks = re.compile(r"performance\.now|perf_counter|\bmonotonic\(|\btime\.time|Date\.now|process_time|timeout=\d")
    sources = [path for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".mjs")]
    tests = [path for path in sources if "node_modules" not in path.parts]
    assert len(tests) > 50
    reading = {path.name for path in tests if path != Path(__file__) and clocks.search(path.read_text(encoding="utf-8"))}
    assert reading <= {"test_real_comfyui.py"}
