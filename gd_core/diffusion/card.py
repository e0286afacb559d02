"""What a bundle's card says before anything is loaded, for what must answer at once."""

from __future__ import annotations

import json
from pathlib import Path

_WEIGHTS = Path(__file__).parents[1] / "weights"
BUNDLED = {name: _WEIGHTS / name for name in ("toys", "tiny")}
"""The models that come with the pack, by the name that loads them."""
TINY = BUNDLED["tiny"]


def closed_vocabulary(source: str | Path) -> list[str] | None:
    """The only words that the model of `load_mvdream(source)` knows; None where any word will do, or without a card."""
    card = BUNDLED.get(str(source), Path(source)) / "mvdream.json"
    try:
        return json.loads(card.read_text(encoding="utf-8")).get("vocabulary")
    except (OSError, ValueError, AttributeError):  # no bundle, or a damaged one, of which loading says what is wrong
        return None
