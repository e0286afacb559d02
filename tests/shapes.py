"""The shapes that jaxtyping's annotations promise, checked in the whole test run by beartype.

Only arrays are checked, after the call: what a function refuses itself it refuses in its own words, and stand-ins that are no
arrays stay possible.
"""

from __future__ import annotations

import inspect
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

CHECKED: set[str] = set()  # functions whose arrays were looked at since the start


def checked(function):
    """What `jaxtyping.install_import_hook` wraps each function's signature in: twice, for the parameters alone and with the
    result, which has one more parameter, `ret...`. Only the second is kept, and of it the arrays."""
    annotations = function.__annotations__
    has_result = any(name.startswith("ret") and name != "return" for name in annotations)
    kept = {name: kind if holds_array(kind) else Any for name, kind in annotations.items()}
    if not has_result or all(kind is Any for kind in kept.values()):
        return function
    CHECKED.add(f"{function.__module__}.{function.__qualname__}")
    function.__annotations__ = kept
    return beartype(function)


def holds_array(kind) -> bool:
    """Whether an annotation is one of jaxtyping's, or a union or tuple with one."""
    if inspect.isclass(kind) and issubclass(kind, AbstractArray):
        return True
    return any(holds_array(part) for part in get_args(kind))
