"""Messages for names and values a user got wrong: the thing, its value, the rule and the remedy."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable
from numbers import Integral
from typing import Any


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """Message for a name that is not one of `known`, with the nearest known name and the whole list."""
    names = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{what}={name!r} is unknown{hint} Known: {', '.join(names)}"


def plain_type(annotation: Any) -> Any:
    """The type under `Annotated[...]`."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def check_fields(owner: Any) -> None:
    """Check the configuration fields of a module against their annotations.

    Rules: a `Literal` field holds one of its choices, an `int` field a positive integer, an `int | None` field that or
    None, a `float` field a finite number, a `bool` field a bool. Fields of other types are not looked at.

    Raises:
        ValueError: naming the class, the field, its value and the rule.
    """
    hints = typing.get_type_hints(type(owner), include_extras=True)
    for field in dataclasses.fields(owner):
        if field.name in ("parent", "name"):
            continue
        kind, value = plain_type(hints[field.name]), getattr(owner, field.name)
        label = f"{type(owner).__name__}.{field.name}"
        if typing.get_origin(kind) is typing.Literal:
            choices = typing.get_args(kind)
            if value not in choices:
                raise ValueError(unknown_name(label, value, choices))
        elif kind == (int | None) and value is None:
            continue
        elif kind in (int, int | None):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{label}={value!r} must be a positive integer{'' if kind is int else ', or None'}")
        elif kind is float and (
            isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        ):
            raise ValueError(f"{label}={value!r} must be a finite number")
        elif kind is bool and not isinstance(value, bool):
            raise ValueError(f"{label}={value!r} must be True or False")


def check_dt_range(owner: Any) -> None:
    """Raise ValueError unless 0 < dt_min <= dt_max, the initial steps of a state-space layer."""
    if not 0 < owner.dt_min <= owner.dt_max:
        name = type(owner).__name__
        raise ValueError(f"{name}: dt_min={owner.dt_min} and dt_max={owner.dt_max} must satisfy 0 < dt_min <= dt_max")


def check_taps(owner: Any) -> None:
    """Raise ValueError unless the short convolution has a past: d_conv of at least 2."""
    if owner.d_conv < 2:
        raise ValueError(f"{type(owner).__name__}: d_conv={owner.d_conv} must be at least 2")
