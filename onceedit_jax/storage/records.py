"""Read JSON values as frozen dataclasses: the annotations are the schema."""

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onceedit_jax.errors import InputError
from onceedit_jax.storage.schema import shown

_REMEDY = "The file is damaged: edit again"


def parse_record(kind: Any, value: Any, place: str) -> Any:
    """A JSON value as a dataclass or a plain type.

    Args:
      kind: a dataclass, `int`, `float`, `str`, `bool`, a `Literal`, `Any`, or a tuple, a dict or a
        union with None of these.
      value: the value.
      place: where it stands, for messages: a file, or keys in it.

    Raises:
      InputError: naming the place, what is there and what was expected.
    """
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, place)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return parse_record(next(a for a in arguments if a is not type(None)), value, place)
    if origin is Literal:
        if value not in arguments:
            raise _mismatch(place, "one of " + ", ".join(map(str, arguments)), value)
        return value
    if origin is tuple:
        # A tuple stands for a list where the values come from memory.
        items = list(value) if isinstance(value, tuple) else _checked(list, value, place)
        return tuple(
            parse_record(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(items)
        )
    if origin is dict:
        items = _checked(dict, value, place)
        return {
            key: parse_record(arguments[1], item, f"{place}.{key}") for key, item in items.items()
        }
    return value if kind is Any else kind(_checked(kind, value, place))


def _record(kind: Any, value: Any, place: str) -> Any:
    values = _checked(dict, value, place)
    kinds, parsed = _types(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in values:
            where = f"{place}, {field.name}" if place.endswith(".json") else f"{place}.{field.name}"
            parsed[field.name] = parse_record(kinds[field.name], values[field.name], where)
        elif field.default is field.default_factory is dataclasses.MISSING:
            there = ", ".join(values) or "nothing"
            raise InputError(f"{place}: no {field.name}; there are {there:.200}. {_REMEDY}")
    return kind(**parsed)


# A ledger of thousands of edits asks for those of one class each time.
_types = lru_cache(get_type_hints)


def _checked(kind: Any, value: Any, place: str) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise _mismatch(place, _JSON_NAMES.get(kind, kind.__name__), value)
    if kind is float and not _is_finite(value):
        raise _mismatch(place, "a finite number", value)
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _mismatch(place: str, expected: str, value: Any) -> InputError:
    return InputError(f"{place}: expected {expected}, found {shown(value)}. {_REMEDY}")


_JSON_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
