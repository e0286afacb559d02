"""The answers of `/grounded_dreamer/words` on the widget's test page: those of the real route."""

from __future__ import annotations

from gd_core.attention import read_prompt
from gd_core.attention.vocabulary import unknown_words
from tests.nodes.conftest import import_pack


def answer(base, body: dict) -> dict:
    """What the server says to the body of a request; `base`: a folder for ComfyUI's folders."""
    routes = import_pack(base).nodes.routes
    written = read_prompt(body["text"])
    vocabulary = routes.vocabulary_of(body.get("model"))
    unknown = [] if vocabulary is None else unknown_words(vocabulary, written.text)
    return {
        "words": routes.chips(written),
        "text_clean": written.text,
        "notes": list(written.notes),
        "unknown": [{"word": word, "nearest": nearest} for word, nearest in unknown],
    }
