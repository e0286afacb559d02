"""Attention refocusing: focus words, capture of cross-attention, objectives and the update."""

import lazy_loader

# Resolved when first used: diffusers takes seconds to import, and words and focus need none of it.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "capture": ["AttentionCapture"],
        "focus": ["Focus", "FocusWord"],
        "objectives": ["OBJECTIVES", "RefocusConfig", "refocus_loss", "word_presence"],
        "record": ["AttentionRecord"],
        "refocus": ["Refocuser"],
        "syntax": ["ReadPrompt", "read_prompt"],
        "words": ["Word", "clean_text", "prompt_words"],
    },
)
