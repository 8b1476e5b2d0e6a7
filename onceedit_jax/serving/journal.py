"""Changes of the edits that were accepted and are not made yet, on disk beside the folder.

They are written down before the client is told that they were accepted. So a server that is
stopped, or killed, makes them when it starts again. One server at a time holds the journal.
"""

import threading
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from onceedit_jax.errors import InputError, RunError
from onceedit_jax.serving.edit_schemas import EditsRequest, RevertRequest
from onceedit_jax.storage.text_files import write_whole

TITLE = 300  # characters of a fact in the title of its change


class Pending(BaseModel):
    """A change that is not made yet.

    Attributes:
      id: of its job.
      created: when it was accepted.
      add: facts to be learnt; None for edits to be taken back.
      revert: edits to be taken back.
      by: who asked for it.
      starts: how many times its making began, and a server was killed meanwhile.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    created: str
    add: EditsRequest | None = None
    revert: RevertRequest | None = None
    by: str = ""
    starts: int = 0

    @property
    def kind(self) -> Literal["add", "revert"]:
        """What the change does."""
        return "revert" if self.add is None else "add"

    @property
    def title(self) -> str:
        """What it changes: the first fact, or the first ids, and how many there are beyond."""
        if self.add is not None:
            first = self.add.edits[0]
            shown, more = f"{first.prompt} → {first.target}", len(self.add.edits) - 1
        else:
            ids = self.revert.ids if self.revert is not None else []
            shown, more = ", ".join(f"#{number}" for number in ids[:10]), len(ids[10:])
        shown = shown if len(shown) <= TITLE else f"{shown[: TITLE - 1]}…"
        return f"{shown} and {more} more" if more else shown


_LIST = TypeAdapter(list[Pending])


class Journal:
    """The changes that are not made yet, oldest first."""

    def __init__(self, folder: Path) -> None:
        """Hold the journal until `close`, and read what an earlier server has left.

        Args:
          folder: the edited folder.

        Raises:
          InputError: the file is damaged, or the folder is a link.
          RunError: another server holds it, or the lock cannot be written.
        """
        if folder.is_symlink():
            raise InputError(
                f"{folder}: is a link, which may lead elsewhere tomorrow; a server with a token "
                "needs the folder itself"
            )
        place = folder.resolve()
        self.path: Path = place.with_name(f".{place.name}.jobs")
        # Not of a thread: another one than this releases it.
        self._held = FileLock(f"{self.path}.lock", timeout=0, thread_local=False)
        try:
            self._held.acquire()
        except Timeout as error:
            raise RunError(
                f"{folder}: another server changes these edits already; stop it, or start this one "
                "without --token, which only reads them"
            ) from error
        except OSError as error:
            raise RunError(
                f"{self._held.lock_file}: cannot be written ({error.strerror}); check permissions "
                "and free space, or start the server without --token"
            ) from error
        self._lock = threading.Lock()
        self._pending: dict[str, Pending] = {}
        if self.path.exists():
            try:
                found = _LIST.validate_json(self.path.read_bytes())
            except (ValidationError, OSError) as error:
                raise InputError(
                    f"{self.path}: holds changes of the edits that are not made yet, and cannot be "
                    f"read ({error}); correct the file, or remove it to drop them"
                ) from error
            self._pending = {pending.id: pending for pending in found}

    @property
    def pending(self) -> list[Pending]:
        """The changes."""
        return list(self._pending.values())

    def close(self) -> None:
        """Let another server have it."""
        self._held.release()

    def write(self, pending: Pending) -> None:
        """Add a change, or put it in the place of what is known of it; then it is on disk.

        Raises:
          RunError: it cannot be written.
        """
        with self._lock:
            self._save({**self._pending, pending.id: pending})

    def remove(self, job: str) -> None:
        """Strike out a change that is made, or cannot be.

        Raises:
          RunError: it cannot be written.
        """
        with self._lock:
            self._save({name: each for name, each in self._pending.items() if name != job})

    def _save(self, pending: dict[str, Pending]) -> None:
        if pending:
            text = _LIST.dump_json(list(pending.values())).decode() + "\n"
            write_whole(self.path, text, synced=True)
        else:
            self.path.unlink(missing_ok=True)
        self._pending = pending
