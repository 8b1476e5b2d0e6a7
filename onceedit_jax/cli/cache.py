"""`onceedit cache`: what the cache folder holds, and removing parts of it."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from onceedit_jax.storage.cache_parts import Clearable


@dataclass(frozen=True)
class CacheOptions:
    """What to remove.

    Attributes:
      clear: remove this part of the cache folder; repeat the flag for several.
    """

    clear: tuple[Clearable, ...] = ()


def cache(options: Annotated[CacheOptions, arg(name="")]) -> None:
    """Show what the cache folder holds and how large it is, or remove parts of it."""
    from rich.table import Table

    from onceedit_jax.cli.console import note, out
    from onceedit_jax.storage.cache_parts import HOLDS, clear, parts
    from onceedit_jax.storage.sources import cache_folder

    for name in options.clear:
        removed = clear(name)
        note(f"removed {name}: {removed.files} files, {_megabytes(removed.size)}")
    table = Table("part", "files", "size", "holds", title=str(cache_folder()))
    for part in parts():
        table.add_row(part.name, f"{part.files:,}", _megabytes(part.size), HOLDS[part.name])
    out.print(table)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
