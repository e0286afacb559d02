"""Score distillation by a multi-view model, timestep schedules, and the hybrid refinement of a fitted field."""

import lazy_loader

from ..settings.refine import RefineConfig as RefineConfig
from ..settings.schedule import Ramp as Ramp
from ..settings.schedule import TimestepSchedule as TimestepSchedule
from ..settings.schedule import cold_schedule as cold_schedule
from ..settings.schedule import warm_schedule as warm_schedule

# Resolved when first used: the guidance needs diffusers, which takes seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "guidance": ["Guidance", "image_guidance", "multiview_guidance"],
        "memory": ["MEMORY_PRESETS", "MemoryPreset"],
        "refinement": ["refine"],
        "sds": ["sds_loss"],
    },
)
