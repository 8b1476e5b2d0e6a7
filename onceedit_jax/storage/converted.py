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
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from onceedit_jax.errors import InputError, RunError
from onceedit_jax.host_array import HostArray
from onceedit_jax.storage.bounded import one_line
from onceedit_jax.storage.checksums import DamagedError, map_sealed, sha256_of, write_sealed
from onceedit_jax.storage.locks import locked
from onceedit_jax.storage.sources import cache_folder, known_sha256

VARIABLE = "ONCEEDIT_CONVERTED_GB"
MOST_GIGABYTES = 20.0
# The packages of this library that read a file and convert it.
_CONVERTING = ("models", "storage", "text")
_SETTLED = 2.0  # seconds: a file that changed later than that may change once more unseen
_NOTES_LAST = 90 * 86400.0  # seconds
_REMEDY = "it is made anew"

Made = TypeVar("Made")
#: What changes when somebody writes to files: size, times, inode and device of each.
States = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Entry:
    """A place for something that is converted.

    Attributes:
      path: its file.
      files: what it is converted from.
      states: of the files, before they were hashed.
      noted_hash: their `content_hash`, where nobody has written to them since it was computed.
    """

    path: Path
    files: tuple[Path, ...]
    states: States
    noted_hash: str

    def read(
        self,
        make: Callable[[dict[str, HostArray], dict[str, Any]], Made],
        *,
        verify: bool = True,
    ) -> Made | None:
        """What is made of the entry; None for no entry, or for one that cannot be read.

        A damaged entry is named in a warning and removed, and then is none.

        Args:
          make: makes it of the arrays, which are views of the mapped file, and of what is said
            about them. Where these are not the expected ones, the entry is damaged.
          verify: check its SHA-256.
        """
        if not _is_trusted(self.path):
            return None
        try:
            made = self._made(make, verify)
        except OSError:  # removed meanwhile
            return None
        except InputError as error:
            warnings.warn(str(error), stacklevel=3)
            if isinstance(error, DamagedError):
                with suppress(OSError):
                    self.path.unlink()
            return None
        with suppress(OSError):  # of a folder that is only read
            os.utime(self.path)
        return made

    def _made(
        self, make: Callable[[dict[str, HostArray], dict[str, Any]], Made], verify: bool
    ) -> Made:
        """What is made of the entry; raises what `map_sealed` raises."""
        arrays, about = map_sealed(self.path, remedy=_REMEDY, verify=verify)
        if about.pop("entry", None) != self.path.stem:
            raise DamagedError(f"{self.path}: was kept under another name; {_REMEDY}")
        try:
            return make(arrays, about)
        except (InputError, LookupError, TypeError, ValueError) as error:
            raise DamagedError(
                f"{self.path}: holds something else than expected ({one_line(error)}); {_REMEDY}"
            ) from error

    def keep(self, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write the entry; where it cannot be written, only a warning says so, once for a folder.

        Nothing is kept if somebody has written to the files since they were hashed, and while
        another program keeps something.

        Args:
          arrays: by their names, as `write_aligned` takes them.
          about: plain JSON values.
        """
        size = sum(array.nbytes for array in arrays.values())
        folder = self.path.parent
        try:
            _make_folder(folder)
            with locked(folder, seconds=0):
                if not _are_still(self.files, self.states) or self.path.exists():
                    return
                _make_room(folder, size)
                own = {"entry": self.path.stem, **about}
                write_sealed(self.path, arrays, own, to_map=True)
        except (OSError, InputError, RunError) as error:
            if isinstance(error.__cause__, TimeoutError):  # of the lock
                return
            reason = (error.strerror or error) if isinstance(error, OSError) else error
            # Where two warnings are the same, Python shows the first.
            warnings.warn(
                f"{folder}: what was converted is not kept, and the next start converts again "
                f"({reason}); {VARIABLE}=0 keeps nothing",
                stacklevel=1,
            )


def entry(files: Sequence[Path], what: str, libraries: Sequence[str]) -> Entry | None:
    """The place for something that is converted from files.

    With another version of a library, or other source code of this one, there are other entries.

    Args:
      files: the source.
      what: is made of it, and how.
      libraries: the packages that take part.

    Returns:
      None where nothing is kept: by `VARIABLE`, without files, or where they, or the source code,
      cannot be read.

    Raises:
      InputError: a file is not the one that it was when it was downloaded.
    """
    if most_bytes() == 0 or not files:
        return None
    try:
        states = _states(files)
        code = [_source_code(), *map(version, libraries)]
        if (digest := _noted(files, states)) is None:
            digest = content_hash(files)
            _write_note(files, states, digest)
    except (OSError, PackageNotFoundError):
        return None
    name = hashlib.sha256(json.dumps([digest, what, *code]).encode()).hexdigest()
    return Entry(converted_folder() / f"{name}.safetensors", tuple(files), states, digest)


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files and, if there are several, their names.

    A process hashes the same files once, unless they change.

    Raises:
      InputError: a file is not the one that it was when it was downloaded.
    """
    states = _states(files)
    compute = _content_hash if _are_settled(states) else _content_hash.__wrapped__
    return compute(tuple(files), states)


@lru_cache(maxsize=64)
def _content_hash(files: tuple[Path, ...], states: States) -> str:
    """The hash of files in these states."""
    digests = []
    for file in files:
        digests.append(sha256_of(file))
        if digests[-1] != (known_sha256(file) or digests[-1]):
            raise InputError(
                f"{file}: is damaged: its SHA-256 is {digests[-1]}, expected {known_sha256(file)}; "
                "delete it, and it is downloaded again"
            )
    if len(files) == 1:
        return digests[0]
    lines = (f"{file.name} {each}\n" for file, each in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
        if (most := int(float(text) * 1e9)) < 0:
            raise ValueError(text)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{VARIABLE}={text}: expected gigabytes as a number, 0 to keep nothing"
        ) from error
    return most


def _make_folder(folder: Path) -> None:
    """Make the folder; nobody else may look into it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _is_trusted(path: Path) -> bool:
    """Whether a file is there and only this user, or root, can have written it.

    A warning names a file that others could have written: they would decide on the weights.
    """
    try:
        found = path.stat()
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    if os.name == "posix" and (found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022):
        warnings.warn(
            f"{path}: belongs to another user, or others may write to it; it is not used: "
            "remove it",
            stacklevel=4,
        )
        return False
    return True


def _make_room(folder: Path, size: int) -> None:
    """Remove what writers that were killed have left, old notes, and entries beyond the bound.

    Nothing is removed in vain: where the oldest entries do not give room enough, all stay.
    """
    for abandoned in folder.glob("*.partial"):  # whoever writes entries holds the lock
        abandoned.unlink(missing_ok=True)
    for note, status in _found(folder, "*.note.*").items():
        if status.st_mtime < time.time() - _NOTES_LAST:
            note.unlink(missing_ok=True)
    entries = _found(folder, "*.safetensors")
    total, free = sum(s.st_size for s in entries.values()), shutil.disk_usage(folder).free
    removed = []
    for path, status in sorted(entries.items(), key=lambda item: item[1].st_mtime):
        if total + size <= most_bytes():
            break
        removed.append(path)
        total, free = total - status.st_size, free + status.st_size
    if total + size > most_bytes():
        raise OSError(f"one entry has {size / 1e9:.1f} GB, the bound is {most_bytes() / 1e9:g} GB")
    if free < 2 * size:
        raise OSError(f"one entry has {size / 1e9:.1f} GB, and only {free / 1e9:.1f} GB are free")
    for path in removed:
        path.unlink(missing_ok=True)


def _found(folder: Path, pattern: str) -> dict[Path, os.stat_result]:
    """The files of a pattern, but those that another program removes meanwhile."""
    found = {}
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            found[path] = path.stat()
    return found


@cache
def _source_code() -> str:
    """A hash of the source code that converts.

    Raises:
      OSError: it cannot be read, or is not there.
    """
    whole = hashlib.sha256()
    for name in _CONVERTING:
        whole.update(_hash_of_code(Path(__file__).parents[1] / name))
    return whole.hexdigest()


def _hash_of_code(folder: Path) -> bytes:
    """A hash of the Python files below a folder, and of their names."""
    whole = hashlib.sha256()
    if not (files := sorted(folder.rglob("*.py"))):
        raise FileNotFoundError(f"{folder}: holds no source code")
    for file in files:
        name = file.relative_to(folder).as_posix()
        whole.update(hashlib.sha256(name.encode()).digest())
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.digest()


def _states(files: Sequence[Path]) -> States:
    found = [file.stat() for file in files]
    return tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in found)


def _are_still(files: Sequence[Path], states: States) -> bool:
    """Whether files are in the states that they were in."""
    try:
        return _states(files) == states
    except OSError:
        return False


def _are_settled(states: States) -> bool:
    """Whether files would show it if they changed once more."""
    return max(max(state[1:3]) for state in states) / 1e9 <= time.time() - _SETTLED


def _note(files: Sequence[Path]) -> Path:
    """Where the hash of files is noted."""
    places = json.dumps([[file.name, str(file.resolve())] for file in files])
    return converted_folder() / f"{hashlib.sha256(places.encode()).hexdigest()}.note.json"


def _noted(files: Sequence[Path], states: States) -> str | None:
    """The hash of files that have not been written to since it was computed."""
    note = _note(files)
    try:
        noted = json.loads(note.read_text(encoding="utf-8")) if _is_trusted(note) else {}
        return str(noted["sha256"]) if noted["states"] == [[*state] for state in states] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_note(files: Sequence[Path], states: States, digest: str) -> None:
    """Note the hash of files, unless they are written to just now."""
    if not (_are_settled(states) and _are_still(files, states)):
        return
    note = _note(files)
    with suppress(OSError):
        _make_folder(note.parent)
        open_file, fresh = tempfile.mkstemp(dir=note.parent, suffix=".note.new")
        try:
            with open(open_file, "w", encoding="utf-8") as file:
                json.dump({"states": states, "sha256": digest}, file)
            Path(fresh).replace(note)
        finally:
            Path(fresh).unlink(missing_ok=True)
