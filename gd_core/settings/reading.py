"""Settings from JSON and back: dataclasses and tuples as they were, and a sentence for whatever is not a setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")
RUN = {"of": "run"}  # metadata of a field that belongs to one run and to no model


def to_plain(settings) -> dict:
    """JSON-able, without the fields that belong to a run."""
    if is_dataclass(settings):
        return {f.name: to_plain(getattr(settings, f.name)) for f in fields(settings) if f.metadata != RUN}
    return [to_plain(item) for item in settings] if isinstance(settings, (list, tuple)) else settings


def read_settings(base: Settings, data: object, where: str, *, run: bool = False) -> Settings:
    """`base` with what `data`, an object from JSON, says otherwise.

    Args:
        where: names the settings in errors, for example "recipe.fit".
        run: whether fields that belong to a run may be there too.

    Raises:
        ValueError: an entry that there is not, of another type, not finite, or out of range; names it.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be an object of settings, got {shown(data)}")
    known = {f.name: f for f in fields(base) if run or f.metadata != RUN}
    for name in data:
        if name not in known:
            raise ValueError(f"{where} has an entry '{str(name)[:60]}' that there is not: it takes {', '.join(known)}")
    types = get_type_hints(type(base))
    given = {}
    for name, value in data.items():
        current = getattr(base, name)
        if is_dataclass(current):
            given[name] = read_settings(current, value, f"{where}.{name}", run=run)
        else:
            given[name] = _read(types[name], value, f"{where}.{name}")
    try:
        return replace(base, **given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def shown(value: object) -> str:
    """A value in an error, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _read(kind: Any, value: object, where: str) -> object:
    """`value` from JSON as `kind`, an annotation of a settings field."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = (k for k in get_args(kind) if k is not type(None))
        return _read(kind, value, where)
    if origin is Literal:
        if value in get_args(kind):
            return value
        raise ValueError(f"{where} must be one of {', '.join(map(repr, get_args(kind)))}, got {shown(value)}")
    if origin is tuple:
        kinds = get_args(kind)
        if isinstance(value, (list, tuple)) and (kinds[-1] is ... or len(value) == len(kinds)):
            inner = (kinds[0],) * len(value) if kinds[-1] is ... else kinds
            return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value, strict=True)))
        raise ValueError(f"{where} must be a list of {len(kinds) if kinds[-1] is not ... else 'values'}, got {shown(value)}")
    if is_dataclass(kind):
        if not isinstance(value, Mapping) or set(value) != {f.name for f in fields(kind)}:
            raise ValueError(f"{where} must be an object of {', '.join(f.name for f in fields(kind))}, got {shown(value)}")
        types = get_type_hints(kind)
        return kind(**{name: _read(types[name], item, f"{where}.{name}") for name, item in value.items()})
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number and math.isfinite(value):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    names = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}
    raise ValueError(f"{where} must be {names[kind]}, got {shown(value)}")


def check_ranges(settings, ranges: Mapping[str, tuple[float, float]], what: str) -> None:
    """Raise ValueError for a field outside its range, ends included; None passes, and NaN does not."""
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{what} {name} must be between {low:g} and {high:g}, got {value}")
