"""Names of editing methods, for the command line and for YAML files."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from inspect import Parameter, signature
from typing import Any

from onceedit_jax.editing.editor import Editor
from onceedit_jax.editing.tuning import adapter, full, last_layers, lora
from onceedit_jax.editors.codebook import grace
from onceedit_jax.editors.ftl import ft_l
from onceedit_jax.editors.multi_layer import alphaedit, memit
from onceedit_jax.editors.rank_one import rome
from onceedit_jax.editors.side_memory import wise
from onceedit_jax.errors import InputError

ENTRY_POINTS = "onceedit_jax.editors"

EDITORS: dict[str, Callable[..., Editor]] = {
    "full": full,
    "lora": lora,
    "last-n-layers": last_layers,
    "adapter": adapter,
    "ft-l": ft_l,
    "rome": rome,
    "memit": memit,
    "alphaedit": alphaedit,
    "grace": grace,
    "wise": wise,
}


def editor_names() -> list[str]:
    """All names that `editor_by_name` knows: this library's, and those of installed packages."""
    return [*EDITORS, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]


def editor_by_name(name: str, options: Mapping[str, Any] | None = None) -> Editor:
    """An editor from its name and settings.

    A package adds a name by an entry point of the group `onceedit_jax.editors`. It leads to an
    `Editor`, which takes no options, or to a function that takes them and gives an `Editor`.

    Args:
      name: one of `editor_names`.
      options: settings by name; those left out have their defaults.

    Raises:
      InputError: no such name, a setting that the editor does not have, or one that is missing.
    """
    make, options = _factory(name), dict(options or {})
    known = signature(make).parameters
    if unknown := [key for key in options if key not in known]:
        has = f"its settings are {', '.join(known)}" if known else "it has no settings"
        raise InputError(f"editor {name}: no setting {unknown[0]}; {has}")
    needed = [key for key, field in known.items() if field.default is Parameter.empty]
    if missing := [key for key in needed if key not in options]:
        raise InputError(f"editor {name}: setting {missing[0]} is missing and has no default")
    return make(**options)


def _factory(name: str) -> Callable[..., Editor]:
    if name in EDITORS:
        return EDITORS[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        value: Editor | Callable[..., Editor] = point.load()
        return partial(_itself, value) if isinstance(value, Editor) else value
    raise InputError(f"editor {name!r}: expected one of {', '.join(editor_names())}")


def _itself(editor: Editor) -> Editor:
    return editor
