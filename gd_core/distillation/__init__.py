"""Score distillation by a multi-view model, timestep schedules, and the hybrid refinement of a fitted field."""

import lazy_loader

# Resolved when first used: the guidance needs diffusers, which takes seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["RefineConfig"],
        "guidance": ["Guidance", "image_guidance", "multiview_guidance"],
        "memory": ["MEMORY_PRESETS", "MemoryPreset"],
        "refinement": ["refine"],
        "schedule": ["Ramp", "TimestepSchedule", "mvdream_schedule", "warm_start_schedule"],
        "sds": ["sds_loss"],
    },
)
