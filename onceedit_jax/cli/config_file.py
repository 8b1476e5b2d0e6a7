"""`--config FILE.yaml`: flags from a file, as if they were typed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import parse_yaml, read_text


def with_config(arguments: Sequence[str]) -> list[str]:
    """Replace `--config FILE` by the flags in the file, except those that are typed as well.

    Args:
      arguments: the command line, the command's name first.

    Raises:
      InputError: no such file, or one that has no flags.
    """
    arguments = list(arguments)
    if "--config" not in arguments:
        return arguments
    at = arguments.index("--config")
    if at + 1 >= len(arguments):
        raise InputError("--config: expected the name of a YAML file after it")
    values = _read(Path(arguments[at + 1]))
    rest = arguments[:at] + arguments[at + 2 :]
    # Typed flags replace those of the file: a flag that may be repeated would have both.
    typed = {
        part.split("=")[0].removeprefix("--no-").removeprefix("--").replace("_", "-")
        for part in rest
        if part.startswith("--")
    }
    flags = [
        flag
        for name, value in values.items()
        if str(name).replace("_", "-") not in typed
        for flag in _flag(str(name), value)
    ]
    return rest[:1] + flags + rest[1:]


def _read(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such config file")
    values = parse_yaml(read_text(path), path) or {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {type(values).__name__}; expected flags and their values")
    return values


def _flag(name: str, value: Any) -> list[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    if isinstance(value, list):
        return [part for item in value for part in (f"--{dashed}", str(item))]
    return [f"--{dashed}", str(value)]
