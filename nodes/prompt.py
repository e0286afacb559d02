"""Focus Prompt: the text and how much attention each of its words must get."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..gd_core.attention import Focus, ReadPrompt, read_prompt
from ..gd_core.attention.syntax import unresolved_choice
from ..gd_core.attention.vocabulary import refuse_unknown_words
from .border import SHOWN, at_the_border
from .models import connected_model, vocabulary_of
from .types import CATEGORY, FocusedPrompt, GDPrompt

log = logging.getLogger(__name__)

MAX_CHARACTERS = 1000  # the text encoder reads some 75 tokens; the sampler counts them exactly
MAX_STATE = 20_000


class FocusPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GroundedDreamerFocusPrompt",
            display_name="Focus Prompt",
            category=CATEGORY,
            description="A prompt whose important words are held to their share of the model's attention, so that none "
            "of several "
            "subjects is forgotten. Click a word to focus on it, drag it to set its weight.",
            search_aliases=["text prompt 3d", "token weights", "attention words", "attend and excite", "mvdream prompt"],
            has_intermediate_output=True,
            inputs=[
                io.String.Input(
                    "prompt",
                    default="a red cube next to a blue sphere",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to make. Name every subject once. (word:1.2), as Ctrl+Up writes it, sets the word's focus "
                    "weight. The model's own suffix (', 3d asset') is added by itself.",
                ),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    dynamic_prompts=True,
                    tooltip="What to keep away from. Leave empty unless something unwanted shows up.",
                ),
                io.String.Input(
                    "focus",
                    default="",
                    extra_dict={"widgetType": "GD_FOCUS"},
                    tooltip="Focus words, their weights from 0 to 3, as JSON that the word chips write. Empty: the prompt's "
                    "subjects, weight 1 each.",
                ),
            ],
            outputs=[
                GDPrompt.Output(display_name="prompt", tooltip="The prompt with its focus words, for the 4-View Sampler."),
                io.String.Output(display_name="text", tooltip="The prompt as plain text, for core nodes."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, prompt=None) -> bool | str:  # core blames every argument: only the one that is looked at
        try:
            if prompt is not None:
                read_text(prompt, "prompt")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @at_the_border
    def execute(cls, prompt: str, negative_prompt: str, focus: str) -> io.NodeOutput:
        written = read_text(prompt, "prompt")
        negative = read_text(negative_prompt, "negative prompt")
        chosen, notes = written.focus(read_focus(focus))
        notes = [*written.notes, *notes, *negative_notes(negative)]
        notes += filter(None, map(unresolved_choice, (written.text, negative.text)))
        model = connected_model(cls.hidden.prompt, cls.hidden.unique_id)
        vocabulary = vocabulary_of(model)
        if vocabulary is not None:
            refuse_unknown_words(vocabulary, written.text, model)
            refuse_unknown_words(vocabulary, negative.text, model, "negative prompt")
        for note in notes:
            log.warning("Focus Prompt: %s", note, extra=SHOWN)  # the chips say so on the node
        focused = FocusedPrompt(written.text, negative.text, chosen, cls.hidden.unique_id)
        return io.NodeOutput(focused, focused.text, ui={"gd_prompt": [prompt], "gd_notes": notes})


def read_text(text: str, what: str) -> ReadPrompt:
    """The prompt or negative prompt that a user wrote. Raises ValueError for one that no model reads."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"the {what} has {len(text)} characters, but the model reads about {MAX_CHARACTERS} at most: shorten it"
        )
    written = read_prompt(text)
    if what == "prompt" and not written.text:
        left = f" once it is cleaned: {written.notes[0]} Say" if written.notes else ": say"
        raise ValueError(f"the prompt is empty{left} what to make, for example 'a red cube next to a blue sphere'")
    return written


def negative_notes(negative: ReadPrompt) -> list[str]:
    """What is said of a negative prompt, which has no focus."""
    notes = [f"Negative prompt: {note}" for note in negative.notes if "focus" not in note]
    if negative.weights:
        notes.append(f"Weights in the negative prompt ({', '.join(negative.weights)}) change nothing: it has no focus.")
    return notes


def read_focus(state: str) -> Focus | None:
    """Focus words from the widget's JSON; None for "" (the prompt's default subjects). Raises ValueError for anything else."""
    if not state.strip():
        return None
    if len(state) > MAX_STATE:
        raise ValueError(f"focus has {len(state)} characters: list at most a few dozen words")
    try:
        return Focus.from_json(state)
    except RecursionError:
        raise ValueError("focus is nested too deeply to be a list of words") from None
