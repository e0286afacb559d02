"""Sparse-view NeRF: fields, their rendering, and the fit to a handful of views."""

from ..settings.fit import QUALITIES
from .encodings import EncodingConfig
from .field import FieldConfig, RadianceField, RenderedViews, load_field
from .fit import FitConfig, fit_views
from .match import Match, match_with_views
from .shape import ShapeConfig

__all__ = [
    "QUALITIES",
    "EncodingConfig",
    "FieldConfig",
    "FitConfig",
    "Match",
    "RadianceField",
    "RenderedViews",
    "ShapeConfig",
    "fit_views",
    "load_field",
    "match_with_views",
]
