"""MVDream on stock diffusers: model, loaders, prompt encoding, sampling."""

import lazy_loader

from ..settings.sampling import SAMPLERS as SAMPLERS

# Resolved when first used: diffusers and transformers take seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "denoising": ["sample_latents"],
        "foreground": ["foreground_masks"],
        "loaders": ["convert", "load_mvdream", "load_unet"],
        "lora": ["apply_lora"],
        "multiview": ["predict_noise"],
        "prompts": ["PromptEmbedding", "encode_prompt"],
        "sampling": ["sample_objects", "sample_views"],
    },
)
