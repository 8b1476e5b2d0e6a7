"""The edits that answers begin with: a state of the folder, loaded whole, that never changes."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import MARK, EditEntry, EditInfo, read_info
from onceedit_jax.ensemble.preparation import PreparedPlugin, PreparedTarget
from onceedit_jax.errors import InputError

Signature = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Edits:
    """One state of the edited folder.

    Attributes:
      plugin: the plug-in with the edits that answer, and its gate.
      info: all edits, those that do not answer any more included.
    """

    plugin: PreparedPlugin
    info: EditInfo

    @property
    def revision(self) -> int:
        """How many changes the ledger had."""
        return len(self.info.operations)

    @cached_property
    def by_id(self) -> Mapping[int, EditEntry]:
        """All edits in the order of their ids."""
        return dict(sorted(zip(self.info.numbers, self.info.edits, strict=True)))

    @cached_property
    def supersedes(self) -> Mapping[int, list[int]]:
        """The ids of the edits that gave way to an edit, by its id."""
        older: dict[int, list[int]] = {}
        for number, entry in self.by_id.items():
            if entry.superseded_by is not None:
                older.setdefault(entry.superseded_by, []).append(number)
        return older

    @cached_property
    def searched(self) -> Mapping[int, str]:
        """The text of each edit that a search looks at, by its id, in folded case."""
        return {
            number: " ".join(
                [entry.prompt, entry.target, entry.subject or "", *entry.aliases]
            ).casefold()
            for number, entry in self.by_id.items()
        }

    @cached_property
    def states(self) -> Counter[str]:
        """How many edits are in each state."""
        return Counter(entry.state for entry in self.info.edits)

    def id_of(self, place: int) -> int | None:
        """The id of the edit at a place among those that answer; None for no edit."""
        return None if place < 0 else self.plugin.plugin.info.numbers[place]


class EditedFolder:
    """Loads the edited folder, again and again.

    Attributes:
      path: the folder.
      base: the model that was edited; None for the one that the folder names.
    """

    def __init__(
        self,
        path: Path,
        base: str | None,
        first: PreparedPlugin,
        prepare: Callable[[EditedPlugin], PreparedPlugin],
    ) -> None:
        """Remember how the folder was loaded first.

        Args:
          path: the folder.
          base: the model that was edited; None for the one that the folder names.
          first: the plug-in as it was loaded; later ones have to be of the same base.
          prepare: prepares another state of it in the same way.
        """
        self.path: Path = path
        self.base: str | None = base
        self._prepare = prepare
        self._base_hash = first.plugin.base_hash
        self._compute_dtype = first.plugin.config.compute_dtype

    def signature(self) -> Signature | None:
        """What differs after every change; None where there is no artifact any more."""
        try:
            found = (self.path / MARK).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def load(self, first: PreparedPlugin | None = None) -> Edits:
        """The folder as it is now.

        Args:
          first: its plug-in, if it has been loaded and prepared.

        Raises:
          InputError: it cannot be read, or the plug-in is another model now.
        """
        while True:
            plugin = self._loaded() if first is None else first.plugin
            info = read_info(self.path)
            if info.operations == plugin.info.operations:
                break
            first = None  # another program has changed it meanwhile
        if plugin.base_hash != self._base_hash:
            raise InputError(
                f"{self.path}: holds edits of another model now ({plugin.name}); start the server "
                "again for it"
            )
        return Edits(self._prepare(plugin) if first is None else first, info)

    def _loaded(self) -> EditedPlugin:
        return EditedPlugin.load(self.path, base=self.base, compute_dtype=self._compute_dtype)


def warm(edits: Edits, target: PreparedTarget) -> None:
    """Compile what new edits need, by asking for one of them, so that no request waits for it."""
    entries, plugin = edits.plugin.plugin.info.live, edits.plugin
    if entries:
        prompt = entries[-1].prompt
        chosen = plugin.judged([prompt], None, [target]).edits
        if target.rule.reads == "draft":
            target.reader(plugin, [prompt], chosen).ahead([[]], [0])
