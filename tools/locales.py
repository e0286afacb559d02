"""Write `locales/en/nodeDefs.json` from the nodes' own texts: `python -m tools.locales`; other languages are written by hand.

ComfyUI shows the texts of `locales/<language>/nodeDefs.json` in place of the schema's.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "locales"


def node_texts(node) -> dict:
    """What a locale says of one node class."""
    schema = node.define_schema()
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {entry.id: {"name": entry.id.replace("_", " "), "tooltip": entry.tooltip} for entry in schema.inputs},
        "outputs": {
            str(index): {"name": entry.display_name, "tooltip": entry.tooltip} for index, entry in enumerate(schema.outputs)
        },
    }


def texts(nodes) -> dict[str, dict]:
    return {node.define_schema().node_id: node_texts(node) for node in nodes}


def write(nodes, language: str = "en") -> Path:
    path = FOLDER / language / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(texts(nodes), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
