"""What was converted from a model's files and is kept, so that a second start can map it.

An entry of the cache folder is a safetensors file. Its name is a hash of all that it follows from:
the SHA-256 of the source, the code that converts it, and how. It holds its own SHA-256, which is
checked whenever it is read; a damaged entry is made anew. The entries together stay within a bound,
and those that were not used for longest go first.
"""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from onceedit_jax.errors import InputError, RunError
from onceedit_jax.storage.checksums import map_sealed, sha256_of, write_sealed
from onceedit_jax.storage.locks import locked
from onceedit_jax.storage.sources import cache_folder, known_sha256
from onceedit_jax.types import HostArray

VARIABLE = "ONCEEDIT_CONVERTED_GB"
MOST_GIGABYTES = 20.0
_SETTLED = 2.0  # seconds: a file that changed later than that may change once more unseen
_REMEDY = "it is made anew"


@dataclass(frozen=True)
class Entry:
    """A place for something that is converted.

    Attributes:
      path: its file.
      files: what it is converted from.
      noted_hash: their `content_hash`, where nobody has written to them since it was computed.
    """

    path: Path
    files: tuple[Path, ...]
    noted_hash: str

    def read(self, *, verify: bool = True) -> tuple[dict[str, HostArray], dict[str, Any]] | None:
        """The arrays, as views of the mapped file, and what is said about them; None for no entry.

        A damaged entry is named in a warning, removed, and then is none.

        Args:
          verify: check its SHA-256.
        """
        try:
            arrays, about = map_sealed(self.path, remedy=_REMEDY, verify=verify)
            if about.pop("entry", None) != self.path.stem:
                raise InputError(f"{self.path}: was kept under another name; {_REMEDY}")
        except InputError as error:
            if self.path.exists():
                warnings.warn(str(error), stacklevel=3)
            if not isinstance(error.__cause__, OSError):  # it may be sound, and only not be read
                with suppress(OSError):
                    self.path.unlink()
            return None
        with suppress(OSError):  # of a folder that is only read
            os.utime(self.path)
        return arrays, about

    def keep(self, arrays: Mapping[str, HostArray], about: Mapping[str, Any]) -> None:
        """Write the entry; where it cannot be written, only a warning says so, once for a folder.

        Call it only for what was converted from files of this very hash.
        """
        size = sum(array.nbytes for array in arrays.values())
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if self.path.exists():  # another process kept it while this one waited
                    return
                _make_room(folder, size)
                own = {"entry": self.path.stem, **about}
                write_sealed(self.path, arrays, own, to_map=True)
        except (OSError, RunError) as error:
            reason = (error.strerror or error) if isinstance(error, OSError) else error
            # Where two warnings are the same, Python shows the first.
            warnings.warn(
                f"{folder}: what was converted is not kept, and the next start converts again "
                f"({reason}); {VARIABLE}=0 keeps nothing",
                stacklevel=1,
            )


def entry(
    files: Sequence[Path],
    what: str,
    code: Sequence[ModuleType],
    libraries: Sequence[str],
    *,
    least: int,
) -> Entry | None:
    """The place for something that is converted from files; None where nothing is kept.

    Args:
      files: the source.
      what: is made of it, and how.
      code: the modules that convert it: with other code, there are other entries.
      libraries: the packages that take part: with other versions, too.
      least: bytes; a smaller source is converted in no time.

    Raises:
      InputError: a file is not the one that it was when it was downloaded.
    """
    if most_bytes() == 0 or sum(file.stat().st_size for file in files) < least:
        return None
    digest = _noted(files) or content_hash(files)
    key = [digest, what, _version_of(tuple(code)), *map(version, libraries)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return Entry(converted_folder() / f"{name}.safetensors", tuple(files), digest)


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files and, if there are several, their names.

    Raises:
      InputError: a file is not the one that it was when it was downloaded.
    """
    before = _states(files)
    digests = []
    for file in files:
        digests.append(sha256_of(file))
        if digests[-1] != (known_sha256(file) or digests[-1]):
            raise InputError(
                f"{file}: is damaged: its SHA-256 is {digests[-1]}, expected {known_sha256(file)}; "
                "delete it, and it is downloaded again"
            )
    digest = digests[0]
    if len(files) > 1:
        lines = (f"{file.name} {each}\n" for file, each in zip(files, digests, strict=True))
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    _write_note(files, before, digest)
    return digest


def converted_folder() -> Path:
    """The folder of the entries; it may not exist yet."""
    return cache_folder() / "converted"


def most_bytes() -> int:
    """The bound of all entries together, by the environment; 0 keeps nothing.

    Raises:
      InputError: the variable is no number.
    """
    text = os.environ.get(VARIABLE, str(MOST_GIGABYTES))
    try:
        return max(int(float(text) * 1e9), 0)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{VARIABLE}={text}: expected gigabytes as a number, 0 to keep nothing"
        ) from error


def _make_room(folder: Path, size: int) -> None:
    """Remove what writers that were killed have left, and the oldest entries beyond the bound."""
    for abandoned in folder.glob("*.partial"):  # whoever writes holds the lock
        abandoned.unlink(missing_ok=True)
    if size > most_bytes():
        raise OSError(f"one entry has {size / 1e9:.1f} GB, the bound is {most_bytes() / 1e9:g} GB")
    entries = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in entries)
    for path in entries:
        if total + size <= most_bytes():
            break
        total -= path.stat().st_size
        path.unlink()
    if (free := shutil.disk_usage(folder).free) < 2 * size:
        raise OSError(f"one entry has {size / 1e9:.1f} GB, and only {free / 1e9:.1f} GB are free")


@cache
def _version_of(code: tuple[ModuleType, ...]) -> str:
    """A hash of the source of some modules."""
    whole = hashlib.sha256()
    for module in code:
        whole.update(Path(str(module.__file__)).read_bytes())
    return whole.hexdigest()


def _states(files: Sequence[Path]) -> list[list[int]]:
    """What changes when somebody writes to the files."""
    found = [file.stat() for file in files]
    return [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev] for s in found]


def _note(files: Sequence[Path]) -> Path:
    """Where the hash of files is noted."""
    places = json.dumps([str(file.resolve()) for file in files])
    return converted_folder() / f"{hashlib.sha256(places.encode()).hexdigest()}.json"


def _noted(files: Sequence[Path]) -> str | None:
    """The hash of files that have not been written to since it was computed."""
    try:
        note = json.loads(_note(files).read_text(encoding="utf-8"))
        return str(note["sha256"]) if note["states"] == _states(files) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_note(files: Sequence[Path], states: list[list[int]], digest: str) -> None:
    """Note the hash of files, unless they are written to just now."""
    latest = max(max(state[1:3]) for state in states) / 1e9
    if most_bytes() == 0 or latest > time.time() - _SETTLED or states != _states(files):
        return
    note = _note(files)
    fresh = note.with_suffix(f".{os.getpid()}.partial")
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({"states": states, "sha256": digest}), encoding="utf-8")
        fresh.replace(note)
