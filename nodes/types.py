"""What travels along our own links. Everything that core has a type for travels as that type."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io

from ..gd_core.attention import Focus

GDModel = io.Custom("GD_MODEL")  # models.ManagedModel
GDPrompt = io.Custom("GD_PROMPT")  # FocusedPrompt
GDViews = io.Custom("GD_VIEWS")  # gd_core.views.ViewSet
GDField = io.Custom("GD_FIELD")  # gd_core.nerf.RadianceField
GDScores = io.Custom("GD_SCORES")  # dict of numbers, see gd_core.metrics.METRICS

CATEGORY = "Grounded Dreamer"


@dataclass(frozen=True)
class FocusedPrompt:
    """A prompt with its focus words.

    Attributes:
        focus: None leaves the choice to the prompt's default subjects; one without words means no focus at all.
        node: execution id of the Focus Prompt node, whose widget shows what happens to the words.
    """

    text: str
    negative: str
    focus: Focus | None
    node: str
