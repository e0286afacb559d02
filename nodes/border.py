"""The border between ComfyUI and `gd_core`: gradients, ownership of tensors, what is said on a node, progress and cancelling.

ComfyUI executes nodes under `torch.inference_mode()`. Tensors made there cannot be saved for a backward pass, not even later
and outside of it. So every node's `execute` runs under `at_the_border`, which leaves inference mode, clones what comes in and
detaches what goes out; and models that ComfyUI moved in between are mended by `leave_inference_mode`.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from PIL import Image
from server import PromptServer
from torch import Tensor, nn

from ..gd_core.files import plain_sentence
from ..gd_core.views import ViewSet

PREVIEW_SIZE = 512  # pixels, the longer side
TEXT_INTERVAL = 0.5  # seconds between two texts of time left
LISTEN_INTERVAL = 0.1  # seconds between two looks whether the user cancelled
STALL = 3.0  # seconds without a step after which no time left is told: nobody knows how long this step takes
SHOWN = {"shown": True}  # `extra` of a warning that the node shows in a way of its own
PACK_LOG = logging.getLogger(__name__.removesuffix(".nodes.border"))  # above all loggers of the pack

Result = TypeVar("Result")


def at_the_border(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Decorate a node's `execute` (below `@classmethod`); see the module's docstring."""

    @functools.wraps(execute)
    def guarded(cls, **inputs) -> io.NodeOutput:
        with torch.inference_mode(False), Notes() as notes:
            try:
                output = execute(cls, **{name: owned(value) for name, value in inputs.items()})
            except (ValueError, OSError) as error:
                PACK_LOG.info("%s ended here:", cls.__name__, exc_info=error)
                raise ValueError(plain_sentence(error)) from None
            said = [notes.report] if notes.report else []
            if (notes.lines or said) and cls.hidden is not None:
                say("\n".join([*said, *notes.lines]), cls.hidden.unique_id)
            return io.NodeOutput(*map(released, output.args), ui=output.ui)

    return guarded


class Notes(logging.Handler):
    """What the pack decided by itself while a node ran: every warning it logged, to be shown on the node.

    Attributes:
        lines: the warnings, each once, in order. report: what the node itself has to say at its end.
    """

    current: Notes | None = None  # ComfyUI runs one node at a time

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.report = ""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line not in self.lines and not hasattr(record, "shown"):
            self.lines.append(line)

    def __enter__(self) -> Notes:
        PACK_LOG.addHandler(self)
        Notes.current = self
        return self

    def __exit__(self, *error) -> None:
        PACK_LOG.removeHandler(self)
        Notes.current = None


def tell(node: type[io.ComfyNode], text: str) -> None:
    """What the node has to say when it is done: a report, the settings in force. What was decided on the way follows."""
    Notes.current.report = text


def say(text: str, node_id: str | None) -> None:
    """Show `text` on a node until it says something else."""
    if node_id is not None:
        PromptServer.instance.send_progress_text(text, node_id)


def owned(value):
    """An input that autograd may save: every tensor of it cloned."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, ViewSet):
        return value.clone()
    if isinstance(value, list):
        return [owned(item) for item in value]
    return value


def released(value):
    """An output without a graph behind it, on the device where ComfyUI keeps intermediate results."""
    if isinstance(value, Tensor):
        return value.detach().to(comfy.model_management.intermediate_device())
    if isinstance(value, list):
        return [released(item) for item in value]
    return value


def leave_inference_mode(module: nn.Module) -> None:
    """Replace parameters and buffers that were made or moved under inference mode by ordinary ones; call outside of it."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.is_inference():
                parameter.data = parameter.data.clone()
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_inference():
                part._buffers[name] = buffer.clone()


@contextmanager
def interruptible(module: nn.Module) -> Iterator[None]:
    """Let the user cancel between any two layers of `module`: a step of a large model on a slow machine takes too long."""

    def check(layer: nn.Module, inputs: tuple) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    hooks = [layer.register_forward_pre_hook(check) for layer in module.modules() if not any(layer.children())]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def while_listening(work: Callable[[], Result]) -> Result:
    """Do what offers no chance to cancel on another thread, and go on at once when the user cancels; `work` then ends unheard,
    so it must leave no trace. For work that lets other threads run: encoding, numpy, scipy."""
    thread = ThreadPoolExecutor(1)
    try:
        future = thread.submit(work)
        while not wait([future], LISTEN_INTERVAL).done:
            comfy.model_management.throw_exception_if_processing_interrupted()
        return future.result()
    finally:
        thread.shutdown(wait=False)


class NodeProgress:
    """A `gd_core.views.Progress` that shows itself on the node from the start: bar, preview and time left. Raises when the user
    cancels."""

    def __init__(self, node: type[io.ComfyNode], doing: str):
        """`doing`: what the text says, for example "sampling views"."""
        self.node_id = node.hidden.unique_id
        self.doing = doing
        self.done, self.of = 0, None
        self.bar: comfy.utils.ProgressBar | None = None
        self.started = self.stepped = time.monotonic()
        self.first_step: int | None = None
        self.last_step: int | None = None
        self.text_due = 0.0
        say(f"{doing}: preparing", self.node_id)

    def begin(self, done: int, of: int) -> None:
        """One of several loops of a node begins, after `done` steps of `of` altogether."""
        self.done, self.of = done, of

    def __call__(self, step: int, total: int, preview: Tensor | None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        step, total = self.done + step, self.of or total
        if self.bar is None:
            self.bar = comfy.utils.ProgressBar(total, node_id=self.node_id)
        self.bar.update_absolute(step, total, None if preview is None else ("JPEG", to_pil(preview), PREVIEW_SIZE))
        self._send_text(step, total)

    def _send_text(self, step: int, total: int) -> None:
        now = time.monotonic()
        if step == 0:
            if now >= self.text_due:
                self.text_due = now + TEXT_INTERVAL
                say(f"{self.doing}: preparing", self.node_id)
            return
        if self.first_step is None:  # a resumed run starts in the middle
            self.first_step, self.started = step, now
        if step != self.last_step:
            self.last_step, self.stepped = step, now
        if step < total and now < self.text_due:
            return
        self.text_due = now + TEXT_INTERVAL
        left = self._seconds_left(step, total, now)
        say(f"{self.doing}: {step} of {total}" + (f", {duration(left)} left" if left else ""), self.node_id)

    def _seconds_left(self, step: int, total: int, now: float) -> float | None:
        """By the pace of the steps so far; while one step stands still the clock runs down, and soon nothing is said."""
        if not self.first_step < step < total or now - self.stepped > STALL:
            return None
        pace = (self.stepped - self.started) / (step - self.first_step)
        return max(0.0, pace * (total - step) - (now - self.stepped)) or None


def duration(seconds: float) -> str:
    """`"8 s"`, `"2 min 5 s"`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def to_pil(image: Tensor) -> Image.Image:
    """A picture from `[H, W, 3]` in 0..1."""
    return Image.fromarray((image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())
