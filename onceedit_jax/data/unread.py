"""Names the keys of a file that no reader has understood, once for the file."""

from collections import Counter
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from onceedit_jax.data.rows import Row

_NAMED = 20  # keys in a message
_ALIKE = 0.7  # for difflib, whose default takes "subjects" for "object"


class Unread:
    """Counts the keys that readers did not ask for, over the rows of a file."""

    def __init__(self, source: str | Path) -> None:
        """Begin to count.

        Args:
          source: the file or hub data set, for the message.
        """
        self._source = source
        self._rows: Counter[str] = Counter()
        self._meant: dict[str, set[str]] = {}

    def add(self, row: Row, unused: Collection[str] = ()) -> None:
        """Count a row's keys that were not read.

        Args:
          row: after it was read.
          unused: keys to pass over, with all that is in them.
        """
        found = dict(row.unread())
        for path, missing in found.items():
            parts = path.split(".")
            if any(".".join(parts[:n]) in unused for n in range(1, len(parts) + 1)):
                continue
            self._rows[path] += 1
            self._meant.setdefault(path, set()).update(missing)

    def message(self) -> str | None:
        """One line that names all these keys; None if every key was understood."""
        if not self._rows:
            return None
        named = [self._named(*each) for each in self._rows.most_common(_NAMED)]
        rest = len(self._rows) - len(named)
        more = f" and {rest} more" if rest else ""
        return f"{self._source}: keys that are not understood: {', '.join(named)}{more}"

    def _named(self, path: str, rows: int) -> str:
        *_, key = path.split(".")
        like = get_close_matches(key.lower(), sorted(self._meant[path]), n=1, cutoff=_ALIKE)
        hint = f"; meant {like[0]}?" if like else ""
        shown = path if len(path) <= 80 else f"{path[:77]}..."
        return f"{shown} ({rows} row{'s' if rows > 1 else ''}{hint})"
