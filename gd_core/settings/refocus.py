"""`RefocusConfig`: every setting of attention refocusing."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

OBJECTIVES = ("mean_views", "per_view_mean", "concat_max")
RIVALS = ("subjects", "words")
WHEN = ("always", "doubtful")


@dataclass(frozen=True)
class RefocusConfig:
    """Attention refocusing: what is optimised, when, and how far. The defaults were measured, see docs/refocusing.md.

    Attributes:
        objective: how the views are brought together, one of `OBJECTIVES`.
        rivals: who competes for a pixel: "subjects", the focus words and the prompt's other subjects; or "words", all tokens as
            in Attend-and-Excite.
        sharpening: factor on the probabilities before the softmax among the rivals (Attend-and-Excite: 100).
        temperature: 0 looks at the most neglected word alone; above, a log-sum-exp of this temperature lets every word pull.
        binding: weight of the attribute term, which pulls an adjective's map onto its noun's.
        consistency: weight of the term that evens out a word's presence over the views.
        downscale: the layers used, by how much smaller their token grid is than the latents: 2 is 16x16 for 256 px MVDream.
        layers: of these only the ones that know what is in a picture, by name ("up_blocks.0.attentions.2"); none takes all.
            Heat maps and labels come from them too. `python -m gd_core calibrate` tells which know.
        when: "always", or "doubtful": only for objects of which the early verdict doubts a subject, and only from then on.
        share: of the steps, from the first, 0 to 1, before which the latents are updated.
        step_size: with `normalise` how far the latents move over all altered steps at a neglect of 1, as root mean square in
            units of the noise level, whatever the number of steps; without, the factor on each raw gradient
            (Attend-and-Excite: 20).
        decay: the step size falls as the square root of a line from 1 to this over all steps.
        normalise: scale each object's gradient to unit root mean square, so that one step size serves all latent sizes.
        thresholds: pairs (share of the steps, presence): at that step the update repeats until every word is this present...
        max_refinements: ...but at most so often.
        guard: keep the latents' norm where the noise schedule had it, and no value moved further than the noise is wide.
        checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    objective: str = "per_view_mean"
    rivals: str = "subjects"
    sharpening: float = 30.0
    temperature: float = 0.1
    binding: float = 0.0
    consistency: float = 0.0
    downscale: int = 2
    layers: tuple[str, ...] = ()
    when: Literal["always", "doubtful"] = "always"
    share: float = 0.4
    step_size: float = 0.6
    decay: float = 0.5
    normalise: bool = True
    thresholds: tuple[tuple[float, float], ...] = ()
    max_refinements: int = 20
    guard: bool = True
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"there is no refocusing objective '{self.objective}': choose one of {', '.join(OBJECTIVES)}")
        if self.when not in WHEN:
            raise ValueError(f"refocusing when must be one of {', '.join(WHEN)}, got '{self.when}'")
        if self.rivals not in RIVALS:
            raise ValueError(f"refocusing rivals must be one of {', '.join(RIVALS)}, got '{self.rivals}'")
        for name, low, high in (
            ("sharpening", 1, 1000), ("temperature", 0, 10), ("binding", 0, 10), ("consistency", 0, 10),
            ("share", 0, 1), ("step_size", 0, 1000), ("decay", 0, 1), ("max_refinements", 0, 100),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"refocusing {name} must be between {low} and {high}, got {value}")
        if not isinstance(self.downscale, int) or not 1 <= self.downscale <= 8:
            raise ValueError(f"refocusing downscale must be a whole number between 1 and 8, got {self.downscale}")
        for place, presence in self.thresholds:
            if not (0 <= place <= 1 and 0 <= presence <= 1):
                raise ValueError(f"refocusing thresholds are pairs of shares between 0 and 1, got ({place}, {presence})")

    @classmethod
    def attend_and_excite(cls) -> RefocusConfig:
        """Grounded-Dreamer's: Attend-and-Excite's published settings over the mean of the four views' maps."""
        return cls(
            objective="mean_views",
            rivals="words",
            sharpening=100.0,
            temperature=0.0,
            share=0.5,
            step_size=20.0,
            normalise=False,
            thresholds=((0.0, 0.05), (0.2, 0.5), (0.4, 0.8)),
            guard=False,
        )


CHOICES = ("auto", "paper", "per view")


def refocusing(
    objective: str = "auto",
    thresholds: str | None = None,
    *,
    strength: float | None = None,
    share: float | None = None,
    checkpointing: bool | None = None,
) -> dict:
    """What a node or a command line changes of a recipe's refocusing; None, "auto" or nothing changes nothing.

    Args:
        objective: "paper" for `RefocusConfig.attend_and_excite`, "per view" for `RefocusConfig()`.
        thresholds: see `read_thresholds`.
        strength: how far the latents move over all altered steps at a neglect of 1, in units of the noise level.

    Raises:
        ValueError: there is no such objective, or no such thresholds.
    """
    if objective not in CHOICES:
        raise ValueError(f"there is no refocusing objective '{objective}': choose one of {', '.join(CHOICES)}")
    given = {}
    if objective != "auto":
        whole = RefocusConfig.attend_and_excite() if objective == "paper" else RefocusConfig()
        of_weights = ("downscale", "layers", "checkpointing")
        given = {f.name: getattr(whole, f.name) for f in fields(whole) if f.name not in of_weights}
    if thresholds and thresholds != "auto":
        given["thresholds"] = read_thresholds(thresholds)
    if strength is not None:
        given |= {"step_size": strength, "normalise": True}
    asked = {"share": share, "checkpointing": checkpointing}
    return given | {name: value for name, value in asked.items() if value is not None}


def read_thresholds(text: str) -> tuple[tuple[float, float], ...]:
    """`0:0.05, 0.2:0.5` as pairs (share of the steps, presence); `none` has none. ValueError: it is neither."""
    if text.strip() == "none":
        return ()
    try:
        pairs = [pair.split(":") for pair in text.split(",")]
        return tuple((float(place), float(presence)) for place, presence in pairs)
    except ValueError:
        raise ValueError(
            f"refocusing thresholds '{text[:60]}' are not pairs of a share of the steps and a presence: write "
            "'0:0.05, 0.2:0.5', or 'none'"
        ) from None
