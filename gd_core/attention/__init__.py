"""Attention refocusing: focus words, capture of cross-attention, objectives and the update."""

from .capture import AttentionCapture as AttentionCapture
from .focus import Focus as Focus
from .focus import FocusWord as FocusWord
from .objectives import OBJECTIVES as OBJECTIVES
from .objectives import RefocusConfig as RefocusConfig
from .objectives import refocus_loss as refocus_loss
from .objectives import word_presence as word_presence
from .record import AttentionRecord as AttentionRecord
from .refocus import Refocuser as Refocuser
from .words import Word as Word
from .words import prompt_words as prompt_words
