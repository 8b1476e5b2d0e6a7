"""The parts of the cache folder: what each holds, how much it takes, and removing it."""

import shutil
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from onceedit_jax.errors import RunError
from onceedit_jax.storage.sources import cache_folder

Clearable = Literal["converted", "compiled", "tables", "sentences", "models"]
HOLDS = {
    "converted": "weights and tokenizers as they are loaded; converted again",
    "compiled": "compiled programs; compiled again",
    "tables": "transfer tables; built again",
    "sentences": "sentences that a plug-in wrote for its training; written again",
    "models": "demo models; downloaded again",
    "relation-heads": "relation heads that you learned; not cleared",
}


class Part(NamedTuple):
    """One folder of the cache folder.

    Attributes:
      name: of the folder.
      files: how many there are.
      size: bytes of all of them.
    """

    name: str
    files: int
    size: int


def parts() -> list[Part]:
    """The parts of the cache folder, those too that hold nothing."""
    return [_measured(name) for name in HOLDS]


def clear(name: Clearable) -> Part:
    """Remove a part; programs that use its files keep them until they end.

    Of a part that is a link to a folder, what the folder holds is removed, and the link stays.

    Returns:
      What was there.

    Raises:
      RunError: it cannot be removed.
    """
    assert name in get_args(Clearable)
    found, folder = _measured(name), cache_folder() / name
    try:
        if found.files and folder.is_symlink():
            for inner in folder.iterdir():
                _remove(inner)
        elif found.files:
            _remove(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be removed ({error.strerror or error}); check permissions, "
            "and end programs that write there"
        ) from error
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _measured(name: str) -> Part:
    files = [path for path in (cache_folder() / name).rglob("*") if path.is_file()]
    return Part(name, len(files), sum(map(_size, files)))


def _size(path: Path) -> int:
    """Bytes of a file; 0 if another program has removed it meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
