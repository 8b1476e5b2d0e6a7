"""Flags from a file (`--config FILE.yaml`) and from the environment, as if they were typed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import parse_yaml, read_text


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
    rest, values = list(arguments), dict[Any, Any]()
    if "--config" in arguments:
        at = rest.index("--config")
        if at + 1 >= len(rest):
            raise InputError("--config: expected the name of a YAML file after it")
        values = {
            str(name).replace("_", "-"): value for name, value in _read(Path(rest[at + 1])).items()
        }
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
    return rest[:1] + flags + rest[1:]


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


def _read(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such config file")
    values = parse_yaml(read_text(path), path) or {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {type(values).__name__}; expected flags and their values")
    return values


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={item}" for item in value]
    # With "=", so that a value may begin with a dash.
    return [f"--{name}={value}"]
