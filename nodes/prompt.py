"""Focus Prompt: the text and how much attention each of its words must get."""

from __future__ import annotations

from comfy_api.latest import io

from ..gd_core.attention import Focus, prompt_words
from .border import at_the_border
from .types import CATEGORY, FocusedPrompt, GDPrompt

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
                    tooltip="What to make. Name every subject once. The model's own suffix (', 3d asset') is added by itself.",
                ),
                io.String.Input(
                    "negative_prompt",
                    default="",
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
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompt=None, negative_prompt=None, focus=None) -> bool | str:
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if text is not None and len(text) > MAX_CHARACTERS:
                return f"the {name} has {len(text)} characters, but the model reads about {MAX_CHARACTERS} at most: shorten it"
        if prompt is not None and not prompt.strip():
            return "the prompt is empty: say what to make, for example 'a red cube next to a blue sphere'"
        if focus is not None:
            try:
                chosen = read_focus(focus)
                if prompt is not None and chosen is not None:
                    chosen.locate(prompt, prompt_words(prompt), end_token=0)  # refuses words that are not there (any more)
            except ValueError as error:
                return str(error)
        return True

    @classmethod
    @at_the_border
    def execute(cls, prompt: str, negative_prompt: str, focus: str) -> io.NodeOutput:
        valid = cls.validate_inputs(prompt, negative_prompt, focus)  # again, now that linked inputs have their values
        if valid is not True:
            raise ValueError(valid)
        focused = FocusedPrompt(prompt.strip(), negative_prompt.strip(), read_focus(focus), cls.hidden.unique_id)
        return io.NodeOutput(focused, focused.text, ui={"gd_prompt": [prompt]})


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
