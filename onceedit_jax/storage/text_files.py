"""Write text files so that they are never seen incomplete; needs no JAX, so that it starts fast."""

import os
import stat
import tempfile
from pathlib import Path

from onceedit_jax.errors import InputError, RunError


def check_place(path: Path) -> Path:
    """A place to write to, links followed; what is there must be a file or a folder.

    A device or a FIFO would be replaced by a file, for everybody on the machine.

    Raises:
      InputError: something else is there, or no file can have this name.
    """
    try:
        real = path.resolve()
        str(real).encode("utf-8")
        mode = real.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # writing will say it
        return real
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).split(" from ")[0]
        raise InputError(
            f"{str(path)[:200]!r}: cannot be written ({reason}); choose another place"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(
            f"{path}: is a device, a FIFO or a socket; expected a file or a folder, or a new name: "
            "choose another place"
        )
    return real


def write_whole(path: Path, text: str, *, synced: bool = False) -> None:
    """Write a text file under a temporary name and rename it, so that it is never seen incomplete.

    Args:
      path: the file.
      text: what it holds.
      synced: return when it is on the disk itself, so that a power cut does not lose it.

    Raises:
      InputError: as `check_place`.
      RunError: the file cannot be written.
    """
    path = check_place(path)  # for a link, its target is written, and the link stays
    try:
        handle, sibling = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                if synced:
                    file.flush()
                    os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(sibling, 0o666 & ~umask)  # mkstemp's files are readable only by their owner
            os.replace(sibling, path)
        except BaseException:
            os.unlink(sibling)
            raise
        if synced:
            _sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); check permissions and free space, or "
            "choose another file"
        ) from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
