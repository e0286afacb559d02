"""Example workflows as ComfyUI's API takes them, from the files that people open: `python -m tools.workflows FILE.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "example_workflows"
NOTES = {"MarkdownNote", "Note"}  # live in the browser alone
BROWSER_TYPES = {"PREVIEW_3D_ADVANCED": {}}  # widgets that only the browser fills, with what stands for nothing


def to_api(graph: dict) -> dict[str, dict]:
    """The prompt that the browser would send for a saved graph without subgraphs, reroutes or muted nodes."""
    origins = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            continue
        values = node.get("widgets_values_named", {})
        inputs = {}
        for slot in node.get("inputs", []):  # a seed's control has a value but no slot: it is the browser's own
            if slot.get("link") is not None:
                inputs[slot["name"]] = origins[slot["link"]]
            elif "widget" in slot:
                inputs[slot["name"]] = BROWSER_TYPES.get(slot["type"], values[slot["widget"]["name"]])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def load(name: str) -> dict:
    """An example workflow by its name, as it is saved."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


if __name__ == "__main__":
    print(json.dumps(to_api(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), indent=1))
