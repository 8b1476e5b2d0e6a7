"""Write text files so that they are never seen incomplete; needs no JAX, so that it starts fast."""

import os
import tempfile
from pathlib import Path

from onceedit_jax.errors import RunError


def write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that it is never seen incomplete.

    Raises:
      RunError: the file cannot be written.
    """
    path = path.resolve()  # for a link, its target is written, and the link stays
    try:
        handle, sibling = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(sibling, 0o666 & ~umask)  # mkstemp's files are readable only by their owner
            os.replace(sibling, path)
        except BaseException:
            os.unlink(sibling)
            raise
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); check permissions and free space, or "
            "choose another file"
        ) from error
