"""What the nodes say of themselves: ids, texts, locales, help pages, the registry's rules."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FROZEN_IDS = {  # shipped: workflows of users name them
    "GroundedDreamerLoadMVDream",
    "GroundedDreamerLoadLoRA",
    "GroundedDreamerFocusPrompt",
    "GroundedDreamerSampleViews",
    "GroundedDreamerFitNeRF",
    "GroundedDreamerRefineSDS",
    "GroundedDreamerExportMesh",
    "GroundedDreamerViewsFromImages",
    "GroundedDreamerViewGrid",
    "GroundedDreamerAttentionHeatMaps",
    "GroundedDreamerSubjectMasks",
    "GroundedDreamerTurntable",
    "GroundedDreamerSaveField",
    "GroundedDreamerLoadField",
    "GroundedDreamerEvaluate",
    "GroundedDreamerCompare",
    "GroundedDreamerViewsByName",
    "GroundedDreamerLoadMesh",
    "GroundedDreamerProjectViews",
}


@pytest.fixture(scope="module")
def schemas(pack):
    return {node.define_schema().node_id: node.define_schema() for node in pack.nodes.NODES}


def test_the_pack_registers_its_nodes_and_web_directory_and_nothing_else(pack, schemas):
    assert set(schemas) == FROZEN_IDS
    assert (ROOT / pack.WEB_DIRECTORY).is_dir() and not hasattr(pack, "NODE_CLASS_MAPPINGS")


def test_everything_has_a_text(schemas):
    for node_id, schema in schemas.items():
        assert schema.category == "Grounded Dreamer" and schema.description and schema.search_aliases, node_id
        for entry in [*schema.inputs, *schema.outputs]:
            assert entry.tooltip, (node_id, entry.display_name)


def test_every_execute_is_at_the_border(pack):
    for node in pack.nodes.NODES:
        assert hasattr(node.execute, "__wrapped__"), node
        names = {entry.id for entry in node.define_schema().inputs}
        code = node.execute.__func__.__wrapped__.__code__
        assert set(code.co_varnames[1 : code.co_argcount]) == names, node


def test_english_is_the_schemas_own_text(pack):
    from tools.locales import FOLDER, texts  # noqa: PLC0415

    written = json.loads((FOLDER / "en/nodeDefs.json").read_text(encoding="utf-8"))
    assert written == texts(pack.nodes.NODES), "run `python -m tools.locales`"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_language_has_every_text_and_no_sign_that_the_translator_reads(schemas, language):
    defs = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(defs) == set(schemas)
    for node_id, schema in schemas.items():
        assert list(defs[node_id]["inputs"]) == [entry.id for entry in schema.inputs], node_id
        assert list(defs[node_id]["outputs"]) == [str(index) for index in range(len(schema.outputs))], node_id
    for text in all_texts(defs):
        assert text.strip() and not set("{}@|") & set(text), text  # vue-i18n's own syntax


def all_texts(value):
    if isinstance(value, str):
        yield value
    else:
        for item in value.values():
            yield from all_texts(item)


def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(schemas):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "web/docs").glob("*.md")}
    assert set(pages) == set(schemas)
    for node_id, schema in schemas.items():
        assert pages[node_id].startswith(f"# {schema.display_name}\n")
        for entry in [*schema.inputs, *schema.outputs]:
            name = getattr(entry, "id", None) or entry.display_name
            assert f"| `{name}` |" in pages[node_id], (node_id, name)


def test_nodes_are_border_code_and_gd_core_knows_nothing_of_comfyui():
    for path in (ROOT / "gd_core").rglob("*.py"):
        for module in imported_modules(path):
            assert module.split(".")[0] not in {"comfy", "comfy_api", "folder_paths", "server", "nodes"}, path
    for path in (ROOT / "nodes").glob("*.py"):
        for module in imported_modules(path):
            assert module not in {"torch.nn.functional", "numpy", "scipy"}, f"{path} does math"


def imported_modules(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def test_the_registrys_rules_hold():
    """What `comfy node validate` runs, and that no pack may bring its own torch."""
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "S102,S307,E702", "__init__.py", "nodes", "gd_core"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").lower().splitlines()
    assert not [line for line in required if line.startswith(("torch", "torchvision", "torchaudio"))]


def test_comfy_test_lint_is_content():
    """All of it, but for one rule outside of `nodes`: that layers come from `comfy.ops`, which `gd_core` runs without."""
    found = subprocess.run(
        [Path(sys.executable).with_name("comfy-test"), "lint", ROOT], capture_output=True, text=True, encoding="utf-8"
    )
    if found.returncode:
        text = found.stdout
        assert "[JAVASCRIPT] PASSED" in text and "Forbidden patterns found" in text, text
        complaints = [line.strip() for line in text.splitlines() if line.strip().endswith(".py:")]
        assert complaints and all(line.startswith(("gd_core/", "tests/", "tools/")) for line in complaints), text
