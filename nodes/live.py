"""What the focus widget shows while views are sampled: events of the run, and a memory of them for a page that is reloaded.

`decodeAttention` in `web/attention_strip.mjs` lists the fields.
"""

from __future__ import annotations

import base64
import io
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import comfy.model_management
from server import PromptServer
from torch import Tensor

from ..gd_core.verdicts import SubjectVerdict
from ..gd_core.views import ViewSet
from .border import to_pil
from .types import FocusedPrompt

if TYPE_CHECKING:
    from ..gd_core.diffusion.sampling import Candidate, StepReport

EVENT = "grounded_dreamer.attention"
VERDICTS = "grounded_dreamer.verdicts"
INTERVAL = 0.12  # seconds between two events
REMEMBERED_RUNS = 32
MAX_WORDS = 48
VIEW_SIZE = 192  # pixels
STRIP_SIZE = 384  # of a candidate's views side by side

_memory: OrderedDict[tuple, dict] = OrderedDict()  # (workflow, node, prompt) -> its newest event with everything in it
_lock = threading.Lock()  # nodes run on a thread of their own, routes on the server's


def remembered(workflow: str | None, node: str, prompt: str | None) -> dict | None:
    """The last event of a workflow's Focus Prompt node with this prompt; no prompt takes the newest of any."""
    with _lock:
        found = [event for key, event in _memory.items() if key[:2] == (workflow, node) and prompt in (None, key[2])]
    return found[-1] if found else None


def _remember(event: dict) -> None:
    with _lock:
        key = (event["workflow"], event["node"], event["prompt"])
        _memory[key] = event
        _memory.move_to_end(key)
        while len(_memory) > REMEMBERED_RUNS:
            _memory.popitem(last=False)


class LiveAttention:
    """Tells the widget of one sampling run, step by step; leaving it by an exception tells that the run was cut short."""

    def __init__(self, prompt: FocusedPrompt, sampler: str, workflow: str | None):
        """
        Args:
            sampler: id of the node that samples.
            workflow: id of the workflow that the nodes stand in, None for a run that a script queued: node ids are counted
                anew in every workflow.
        """
        self.event = {
            "v": 1,
            "run": uuid.uuid4().hex,
            "workflow": workflow,
            "node": prompt.node,
            "sampler": sampler,
            "prompt": prompt.text,
            "state": "running",
            "step": 0,
            "total": 0,
            "threshold": None,
            "words": [],
            "map_size": None,
            "views": None,
        }
        self.report: StepReport | None = None
        self.due = 0.0

    def __enter__(self) -> LiveAttention:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            cancelled = issubclass(kind, comfy.model_management.InterruptProcessingException)
            self._send(state="interrupted" if cancelled else "failed")

    def observe(self, report: StepReport) -> None:
        """What the sampler saw of the words at the step that is about to be told."""
        self.report = report

    def step(self, step: int, total: int, preview: Tensor | None) -> None:
        """Tell one step, at most eight a second and always the first and the last; `preview`: the views side by side."""
        if step not in (1, total) and time.monotonic() < self.due:
            return
        if self.report is not None:
            self._set_maps(self.report.attention, self.report.presence)
            self.event["threshold"] = _number(self.report.threshold)
        if preview is not None:
            self.event["views"] = [jpeg_url(view) for view in preview.split(preview.shape[0], dim=1)]
        self._send(step=step, total=total)
        self.due = time.monotonic() + INTERVAL

    def done(self, views: ViewSet) -> None:
        self._set_maps(views.attention, views.provenance.get("presence", {}))
        self._send(state="done", threshold=None, step=self.event["total"], views=[jpeg_url(view) for view in views.images])

    def _set_maps(self, maps: dict[str, Tensor], presence: dict[str, float]) -> None:
        self.event["words"] = [
            encode_map(key, values) | {"attention": _number(presence.get(key))}
            for key, values in list(maps.items())[:MAX_WORDS]
        ]
        if maps:
            self.event["map_size"] = list(next(iter(maps.values())).shape[1:])

    def _send(self, **changes) -> None:
        self.event |= changes
        event = dict(self.event)  # the server's thread reads it while the next step is being told
        _remember(event)
        PromptServer.instance.send_sync(EVENT, event, PromptServer.instance.client_id)


class LiveCandidates:
    """Tells a sampler's own widget of its candidates, once they are compared, and of the verdicts in the end."""

    def __init__(self, sampler: str, workflow: str | None):
        """Arguments as of `LiveAttention`."""
        self.event = {"v": 1, "workflow": workflow, "node": sampler, "candidates": [], "winner": None, "verdicts": []}

    def compared(self, candidates: list[Candidate], going_on: int) -> None:
        self.event["candidates"] = [
            {
                "seed": str(c.seed),
                "score": _number(c.score),
                "verdicts": _said(c.verdicts),
                "views": jpeg_url(c.preview, STRIP_SIZE),
            }
            for c in candidates
        ]
        self.event["winner"] = str(candidates[going_on].seed)
        PromptServer.instance.send_sync(VERDICTS, dict(self.event), PromptServer.instance.client_id)

    def done(self, views: ViewSet) -> dict:
        """What the node keeps as its result."""
        self.event |= {"winner": str(views.seed), "verdicts": _said(views.verdicts)}
        return self.event


def _said(verdicts: Sequence[SubjectVerdict]) -> list[dict]:
    return [{"name": v.name, "word": v.word, "probability": _number(v.probability), "views": list(v.views)} for v in verdicts]


def workflow_id(extra_pnginfo: dict | None) -> str | None:
    """Which workflow a run belongs to, from what the browser sends along with it."""
    workflow = (extra_pnginfo or {}).get("workflow")
    return workflow.get("id") if isinstance(workflow, dict) else None


def encode_map(key: str, values: Tensor) -> dict:
    """One word's map `[V, h, w]` as bytes, 255 standing for `scale`."""
    word, _, nth = key.partition("#")
    scale = max(float(values.max()), 1e-8)
    quantised = (values.detach().cpu().clamp(min=0) / scale * 255).round().byte().numpy().tobytes()
    return {
        "word": word,
        "occurrence": int(nth) - 1 if nth else 0,
        "scale": scale,
        "map": base64.b64encode(quantised).decode(),
    }


def jpeg_url(view: Tensor, size: int = VIEW_SIZE) -> str:
    """A data URL of one view `[H, W, 3]`, at most `size` pixels a side."""
    picture = to_pil(view)
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _number(value) -> float | None:
    return None if value is None else round(float(value), 4)
