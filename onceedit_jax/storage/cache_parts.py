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

    Returns:
      What was there.

    Raises:
      RunError: it cannot be removed.
    """
    assert name in get_args(Clearable)
    found = _measured(name)
    try:
        if found.files:
            shutil.rmtree(cache_folder() / name)
    except OSError as error:
        raise RunError(
            f"{cache_folder() / name}: cannot be removed ({error.strerror}); check permissions, "
            "and end programs that write there"
        ) from error
    return found


def _measured(name: str) -> Part:
    files = [path for path in (cache_folder() / name).rglob("*") if path.is_file()]
    return Part(name, len(files), sum(map(_size, files)))


def _size(path: Path) -> int:
    """Bytes of a file; 0 if another program has removed it meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
