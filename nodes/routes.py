"""HTTP routes of the focus widget, under `/grounded_dreamer/`. Every answer is JSON; junk gets status 400 and one sentence."""

from __future__ import annotations

import json

from aiohttp import web
from server import PromptServer

from ..gd_core.attention import ReadPrompt, read_prompt
from ..gd_core.attention.subjects import noun_phrases
from ..gd_core.attention.vocabulary import unknown_words
from ..gd_core.attention.words import placed_words
from . import live
from .models import vocabulary_of
from .prompt import read_focus

MAX_BODY = 100_000  # bytes
MAX_PROMPT = 20_000  # characters


def register() -> None:
    """Add the routes to ComfyUI's server; called once, before it starts."""
    routes = PromptServer.instance.routes
    routes.post("/grounded_dreamer/words")(words)
    routes.post("/grounded_dreamer/attention")(attention)


async def words(request: web.Request) -> web.Response:
    """The words of a prompt: where they stand, which are its subjects, and what the text itself says of their weights.

    Request: `{"text": str, "model"?: str, "focus"?: str}`: the prompt as typed, ComfyUI's syntax included; the name chosen at
    the connected Load MVDream; the widget's state.

    Answer:

        {"words": [{"word": "cube", "occurrence": 0,    # the key of the state and of `ViewSet.attention`
                    "label": "Cube",                    # as typed
                    "start": 6, "end": 10,              # in `text_clean`, in UTF-16 units as JavaScript counts
                    "subject": true,
                    "phrase": 0,                        # words of one phrase never compete; null: of none
                    "weight": 1.05,                     # by the text's own (cube:1.05), else null
                    "focus": 1.05}],                    # in automatic mode; null: no focus word
         "text_clean": "a red Cube",                    # what is encoded, and the `prompt` of attention events
         "notes": ["a sentence"],                       # what is left out or changed
         "unknown": [{"word": "spheer", "nearest": "sphere"}]}  # what the model's closed vocabulary lacks; nearest may be null

    With a choice of the user's own its entries count, and words with a `weight` that have no entry.
    """
    try:
        body = await _body(request)
        written = read_prompt(_text(body, "text", MAX_PROMPT))
        model, state = (None if body.get(name) is None else _text(body, name, MAX_PROMPT) for name in ("model", "focus"))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    vocabulary = vocabulary_of(model)
    unknown = [] if vocabulary is None else unknown_words(vocabulary, written.text)
    return web.json_response(
        {
            "words": chips(written),
            "text_clean": written.text,
            "notes": [*written.notes, *_stale(written, state or "")],
            "unknown": [{"word": word, "nearest": nearest} for word, nearest in unknown],
        }
    )


def chips(written: ReadPrompt) -> list[dict]:
    """What the route says of each word."""
    phrases = noun_phrases(written.text)
    phrase_of = {word.key: i for i, phrase in enumerate(phrases) for word in (*phrase.modifiers, phrase.noun)}
    subjects = {phrase.noun.key for phrase in phrases}
    focus = written.automatic_focus()
    return [
        {
            "word": word.text,
            "occurrence": word.occurrence,
            "label": written.text[start:end],
            "start": utf16_length(written.text[:start]),
            "end": utf16_length(written.text[:end]),
            "subject": word.key in subjects,
            "phrase": phrase_of.get(word.key),
            "weight": written.weights.get(word.key),
            "focus": focus.get(word.key),
        }
        for word, start, end in placed_words(written.text)
    ]


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _stale(written: ReadPrompt, state: str) -> list[str]:
    try:
        return written.focus(read_focus(state))[1]
    except ValueError:  # the widget says itself that it cannot read its state
        return []


async def attention(request: web.Request) -> web.Response:
    """`{"workflow": str | null, "node": str, "prompt": str | null}` -> the last event of that workflow's Focus Prompt node with
    that prompt (null: with any), or `{"run": null}`."""
    try:
        body = await _body(request)
        node = _text(body, "node", 200)
        optional = ("workflow", "prompt")
        workflow, prompt = (None if body.get(name) is None else _text(body, name, MAX_PROMPT) for name in optional)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response(live.remembered(workflow, node, prompt) or {"run": None})


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
