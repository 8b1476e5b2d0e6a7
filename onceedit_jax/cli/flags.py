"""Makes flags out of settings records: one record of optional flags, and which ones are typed."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import arg


def settings_flags(name: str, records: Mapping[str, type]) -> type:
    """A dataclass with every setting of several records once, each unset by default.

    Settings that are records themselves are left out: they have no place on a command line.

    Args:
      name: the new class's name.
      records: the settings record of each choice, by the choice's name. Choices may share one.

    Returns:
      A frozen dataclass. A flag that is not typed is None, or False where it is a switch.
    """
    owners: dict[str, list[str]] = {}
    settings: dict[str, tuple[Any, bool, str]] = {}
    for choice, record in records.items():
        for field, kind, text in _settings(record):
            owners.setdefault(field.name, []).append(choice)
            settings[field.name] = (kind, field.default is False, text)
    fields = []
    for field_name, (kind, is_switch, text) in settings.items():
        help = f"{' and '.join(owners[field_name])}: {text}"
        flag = arg(help=help) if is_switch else arg(help=help, metavar=_metavar(kind))
        type_ = bool if is_switch else kind | None
        default = dataclasses.field(default=False if is_switch else None)
        fields.append((field_name, Annotated[type_, flag], default))
    return dataclasses.make_dataclass(name, fields, frozen=True)


def typed(flags: Any) -> dict[str, Any]:
    """The flags of a record made by `settings_flags` that were typed, with their values."""
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    # `0` is a value, though it equals False.
    return {
        name: value for name, value in values.items() if value is not None and value is not False
    }


def _settings(record: type) -> Iterator[tuple[dataclasses.Field[Any], Any, str]]:
    """The fields of a record that can be flags, with their types (None left out) and texts."""
    texts, kinds = attribute_texts(record), get_type_hints(record)
    for field in dataclasses.fields(record):
        kind = kinds[field.name]
        if NoneType in get_args(kind):
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        if not dataclasses.is_dataclass(kind):
            yield field, kind, texts.get(field.name, "")


def attribute_texts(record: type) -> dict[str, str]:
    """What the docstring of a record says about each attribute, each on one line."""
    _, _, section = (inspect.getdoc(record) or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line.startswith("  ") and not line.startswith("   "):
            name, _, text = line.strip().partition(": ")
            texts[name] = text
        elif line.startswith("    "):
            texts[name] += f" {line.strip()}"
        elif line:
            break
    return texts


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    return str(getattr(kind, "__name__", kind)).upper()
