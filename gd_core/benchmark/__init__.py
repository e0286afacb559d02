"""The benchmark: prompt sets, workers, scoring with intervals, and a report."""

from .prompt_sets import Prompt, PromptSet, bundled_sets, load_prompts
from .resources import Resources
from .statistics import Estimate, bootstrap_mean, paired_difference, wilson_interval

__all__ = [
    "Estimate",
    "Prompt",
    "PromptSet",
    "Resources",
    "bootstrap_mean",
    "bundled_sets",
    "load_prompts",
    "paired_difference",
    "wilson_interval",
]
