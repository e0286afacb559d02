"""Score distillation by a multi-view model, timestep schedules, and the hybrid refinement of a fitted field."""

from .config import RefineConfig
from .guidance import Guidance, image_guidance, multiview_guidance
from .memory import MEMORY_PRESETS, MemoryPreset
from .refine import refine
from .schedule import Ramp, TimestepSchedule, mvdream_schedule, warm_start_schedule
from .sds import sds_loss

__all__ = [
    "MEMORY_PRESETS",
    "Guidance",
    "MemoryPreset",
    "Ramp",
    "RefineConfig",
    "TimestepSchedule",
    "image_guidance",
    "multiview_guidance",
    "mvdream_schedule",
    "refine",
    "sds_loss",
    "warm_start_schedule",
]
