"""HTTP routes of the focus widget, under `/grounded_dreamer/`. Every answer is JSON; junk gets status 400 and one sentence."""

from __future__ import annotations

import json

from aiohttp import web
from server import PromptServer

from ..gd_core.attention.subjects import noun_phrases
from ..gd_core.attention.words import is_word, prompt_words, split_with_starts
from . import live

MAX_BODY = 100_000  # bytes
MAX_PROMPT = 20_000  # characters


def register() -> None:
    """Add the routes to ComfyUI's server; called once, before it starts."""
    routes = PromptServer.instance.routes
    routes.post("/grounded_dreamer/words")(words)
    routes.post("/grounded_dreamer/attention")(attention)


async def words(request: web.Request) -> web.Response:
    """`{"prompt": str}` -> the prompt's words, where they stand, and which are its default subjects."""
    try:
        prompt = _text(await _body(request), "prompt", MAX_PROMPT)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    subjects = {(phrase.noun.text, phrase.noun.occurrence) for phrase in noun_phrases(prompt)}
    pieces = [(piece, start) for piece, start in split_with_starts(prompt) if is_word(piece)]
    return web.json_response(
        {
            "words": [
                {
                    "word": word.text,
                    "occurrence": word.occurrence,
                    "start": start,
                    "end": start + len(piece),
                    "subject": (word.text, word.occurrence) in subjects,
                }
                for word, (piece, start) in zip(prompt_words(prompt), pieces, strict=True)
            ]
        }
    )


async def attention(request: web.Request) -> web.Response:
    """`{"node": str, "prompt": str | null}` -> the last event of that Focus Prompt node, or `{"run": null}`."""
    try:
        body = await _body(request)
        node = _text(body, "node", 200)
        prompt = None if body.get("prompt") is None else _text(body, "prompt", MAX_PROMPT)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response(live.remembered(node, prompt) or {"run": None})


async def _body(request: web.Request) -> dict:
    if (request.content_length or 0) > MAX_BODY:
        raise ValueError(f"the request is larger than {MAX_BODY} bytes")
    raw = await request.read()
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("the request is not JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the request is not a JSON object")
    return body


def _text(body: dict, name: str, limit: int) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise ValueError(f"'{name}' must be a text")
    if len(value) > limit:
        raise ValueError(f"'{name}' has {len(value)} characters, more than {limit}")
    return value
