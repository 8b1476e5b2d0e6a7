"""Flags from a file (`--config FILE.yaml`) and from the environment, as if they were typed."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import parse_yaml, read_text
from onceedit_jax.storage.schema import shown

_FLAG = re.compile(r"[a-z][a-z0-9_-]{0,99}", re.ASCII)


def with_config(
    arguments: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Replace `--config FILE` by the flags in the file, except those that are typed as well.

    Flags come from the environment too: `ONCEEDIT_SERVE_PORT` is `--port` of `serve`. What is typed
    comes before the environment, and that before the file.

    Args:
      arguments: the command line, the command's name first.
      environment: variables and their values.

    Raises:
      InputError: no such file, or one that has no flags.
    """
    rest, values = list(arguments), dict[str, Any]()
    if "--config" in arguments:
        at = rest.index("--config")
        if at + 1 >= len(rest):
            raise InputError("--config: expected the name of a YAML file after it")
        values = _read(Path(rest[at + 1]))
        rest = rest[:at] + rest[at + 2 :]
    values |= _of_environment(rest[:1], environment)
    # Typed flags replace those of the file: a flag that may be repeated would have both.
    typed = {
        part.split("=")[0].removeprefix("--no-").removeprefix("--").replace("_", "-")
        for part in rest
        if part.startswith("--")
    }
    flags = [
        flag for name, value in values.items() if name not in typed for flag in _flag(name, value)
    ]
    return [_checked(argument) for argument in rest[:1] + flags + rest[1:]]


def _checked(argument: str) -> str:
    """An argument that is text: no file has a name that is none."""
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"argument {shown(argument)}: is not UTF-8; rename the file") from error
    if "\0" in argument:
        raise InputError(f"argument {shown(argument)}: holds a NUL character; leave it out")
    return argument


def _of_environment(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The flags of a command in the environment.

    A value is text as it is, but for true and false, and for lists, as in "[a, b]": a token may
    look like a number.
    """
    if not command:
        return {}
    prefix = f"ONCEEDIT_{command[0].upper().replace('-', '_')}_"
    return {
        name.removeprefix(prefix).lower().replace("_", "-"): _text_value(value)
        for name, value in environment.items()
        if name.startswith(prefix)
    }


def _text_value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text[:1] == "[" and text[-1:] == "]":
        return [item.strip() for item in text[1:-1].split(",") if item.strip()]
    return text


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_text(path), path) or {}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such config file") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {type(values).__name__}; expected flags and their values")
    flags: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not _FLAG.fullmatch(name):
            raise InputError(f"{path}: {shown(name)} is no flag; expected one such as out")
        if (flag := name.replace("_", "-")) in flags:
            raise InputError(f"{path}: --{flag} is there twice; expected it once")
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, str | bool | int | float | date | None):
                raise InputError(
                    f"{path}: {name} is {shown(each)}; expected a text, a number, true or false, "
                    "or a list of these"
                )
        flags[flag] = value
    return flags


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={item}" for item in value]
    # With "=", so that a value may begin with a dash.
    return [f"--{name}={value}"]
