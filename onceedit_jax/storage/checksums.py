"""SHA-256 of files: of every file of a folder, and of one safetensors file inside itself.

A folder's hashes are in `SHA256SUMS`, which `sha256sum -c` reads too. A file that is mapped rather
than read is hashed in parts, by all cores at once: its own hash is that of the parts' hashes.
"""

import hashlib
import json
import math
import mmap
import os
import platform
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from onceedit_jax.errors import InputError
from onceedit_jax.host_array import HostArray
from onceedit_jax.storage.bounded import check_regular, foreign, parse_json, read_text
from onceedit_jax.storage.safetensors_files import DTYPES, read_header, write_aligned
from onceedit_jax.storage.text_files import check_place

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_UNSEALED = "0" * 64
_PART = 32 << 20  # bytes that are hashed together
_PARTED = f'"part":"{_PART}"'.encode()


class DamagedError(InputError):
    """A file was read, and is not as it was written."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """Write the hashes of all files in a folder beside them."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def digest_of_sums(folder: Path) -> str:
    """One hash for everything in a folder that has its hashes beside it."""
    return sha256_of(folder / SUMS)


def check_sums(folder: Path, digest: str | None, *, remedy: str) -> None:
    """Check every file of a folder.

    Args:
      folder: with its hashes beside its files.
      digest: `digest_of_sums` when it was written, where that is known.
      remedy: what to do about damage.

    Raises:
      InputError: naming a file that has changed, is missing, or was not there.
    """
    try:
        _check_sums(folder, digest, remedy)
    except OSError as error:  # removed meanwhile, or not to be read
        place = error.filename or folder
        raise InputError(f"{place}: cannot be read ({error.strerror}); {remedy}") from error


def _check_sums(folder: Path, digest: str | None, remedy: str) -> None:
    try:
        text = read_text(folder / SUMS)
    except FileNotFoundError as error:
        raise InputError(f"{folder / SUMS}: is missing; {remedy}") from error
    found = hashlib.sha256(text.encode()).hexdigest()
    sums = {name: digest for digest, name in _LINE.findall(text)}
    if digest not in (None, found) or "".join(f"{s}  {n}\n" for n, s in sums.items()) != text:
        raise InputError(
            f"{folder / SUMS}: has changed since it was written (its SHA-256 is {found}, expected "
            f"{digest or 'lines of a hash and a name'}); {remedy}"
        )
    there = _names(folder)
    for name in sorted(sums.keys() ^ set(there)):
        state = "is missing" if name in sums else f"is not one of the files of {SUMS}"
        raise InputError(f"{folder / name}: {state}; {remedy}")
    for name in there:
        check_regular(folder / name, inside=folder)
        if (found := sha256_of(folder / name)) != sums[name]:
            raise InputError(
                f"{folder / name}: is damaged: its SHA-256 is {found}, expected {sums[name]}; "
                f"{remedy}"
            )


def _names(folder: Path) -> list[str]:
    """All files below a folder but its hashes, in order."""
    names = [
        PurePosixPath((Path(parent) / name).relative_to(folder)).as_posix()
        for parent, _, files in os.walk(folder)
        for name in files
    ]
    return sorted(name for name in names if name != SUMS)


def write_sealed(
    path: Path,
    arrays: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    to_map: bool = False,
) -> None:
    """Write arrays as a safetensors file that holds its own hash; it appears when complete.

    Args:
      path: the file.
      arrays: by their names; what is to be mapped, as `write_aligned` takes it.
      about: plain JSON values.
      to_map: for `map_sealed`: aligned, hashed in parts, and on the disk before it appears, since
        nobody may check it.
    """
    path = check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hosts may share the folder, and processes of one host do.
    fresh = path.with_suffix(f".{platform.node()}-{os.getpid()}.partial")
    try:
        metadata = {"about": json.dumps(about), "sha256": _UNSEALED}
        if to_map:
            write_aligned(fresh, arrays, {**metadata, "part": str(_PART)})
        else:
            save_file(dict(arrays), fresh, metadata)
        place = _place_of_seal(fresh)
        data, start = _mapped(fresh)
        digest = _sealed_digest(data, place, start)
        data.close()  # an open file cannot be replaced on every system
        with fresh.open("r+b") as file:
            file.seek(place)
            file.write(digest.encode())
            if to_map:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read_sealed(
    path: Path, *, remedy: str, older: bool = False
) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """The arrays of a file that `write_sealed` wrote, and what is said about them.

    Args:
      path: the file.
      remedy: what to do about damage.
      older: take a file without a hash too, as earlier versions of this library wrote it.

    Raises:
      InputError: the file is damaged, or was not written by `write_sealed`.
    """
    if not (older and _is_unsealed(path, remedy)):
        check_sealed(path, remedy=remedy)
    with foreign(path, remedy), safe_open(path, framework="numpy") as file:
        about = parse_json(file.metadata()["about"], path)
        arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    return arrays, about


def map_sealed(
    path: Path, *, remedy: str, verify: bool = True
) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """The arrays of a file that `write_sealed` wrote to be mapped, and what is said about them.

    Args:
      path: the file; it is replaced and removed, but never changed, while it is mapped.
      remedy: what to do about damage.
      verify: check its hash before.

    Returns:
      Views of the mapped file, which cannot be written to; processes share their memory.

    Raises:
      DamagedError: the file is damaged, or was not written to be mapped.
      InputError: it cannot be read, whether it is sound or not.
      OSError: there is no such file.
    """
    check_regular(path)
    with foreign(path, remedy):
        with _damage(remedy):
            tensors = read_header(path)
        data, start = _checked(path, remedy) if verify else _mapped(path)
        if hasattr(mmap, "MADV_DONTNEED"):  # pages that were only hashed are none of our memory
            data.madvise(mmap.MADV_DONTNEED)
        about = parse_json(json.loads(data[8:start])["__metadata__"]["about"], path)
        arrays = {}
        for name, stored in tensors.items():
            dtype, count = DTYPES[stored.dtype], math.prod(stored.shape)
            arrays[name] = np.frombuffer(data, dtype, count, stored.offset).reshape(stored.shape)
    return arrays, about


def check_sealed(path: Path, *, remedy: str) -> None:
    """Check a file of `write_sealed`.

    Raises:
      DamagedError: the file is damaged, or was not written by `write_sealed`.
      InputError: it cannot be read.
    """
    _checked(path, remedy)


def _checked(path: Path, remedy: str) -> tuple[mmap.mmap, int]:
    """A sound file of `write_sealed`, mapped, and where its data begin."""
    with _damage(remedy):
        read_header(path)
        place = _place_of_seal(path)
    data, start = _mapped(path)
    kept = data[place : place + len(_UNSEALED)].decode()
    if (found := _sealed_digest(data, place, start)) != kept:
        raise DamagedError(f"{path}: is damaged: its SHA-256 is {found}, expected {kept}; {remedy}")
    return data, start


@contextmanager
def _damage(remedy: str) -> Iterator[None]:
    """Say what to do about a file whose header is wrong; one that cannot be read may be sound."""
    try:
        yield
    except InputError as error:
        unread = isinstance(error.__cause__, OSError)
        kind = InputError if unread else DamagedError
        raise kind(f"{error}; {remedy}") from error.__cause__


def is_sealed(path: Path) -> bool:
    """Whether a file holds its own hash; not one that cannot be read."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _SEAL.search(file.read(1 << 16)) is not None
    except OSError:
        return False


def _is_unsealed(path: Path, remedy: str) -> bool:
    """Whether a file has what `write_sealed` writes but the hash, and nothing else."""
    with _damage(remedy):
        read_header(path)
    with foreign(path, remedy), safe_open(path, framework="numpy") as file:
        return {*(file.metadata() or ())} == {"about"}


def _place_of_seal(path: Path) -> int:
    """Where in a file the digits of its own hash begin."""
    with path.open("rb") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
    places = [match.start(1) for match in _SEAL.finditer(header)]
    if len(places) != 1:
        raise InputError(
            f"{path}: holds no SHA-256 of itself; it is damaged or of an older version"
        )
    return 8 + places[0]


def _sealed_digest(data: mmap.mmap, place: int, start: int) -> str:
    """SHA-256 of a mapped file with zeros for the digits of its own hash."""
    with memoryview(data) as view, view[start:] as body:
        head = bytes(view[:place]) + _UNSEALED.encode()
        head += bytes(view[place + len(_UNSEALED) : start])
        whole = hashlib.sha256(head)
        if _PARTED in head:
            for digest in _digests(body):
                whole.update(digest)
        else:
            whole.update(body)
    return whole.hexdigest()


def _digests(data: memoryview) -> list[bytes]:
    """SHA-256 of each part of some data; hashing leaves Python's lock to other threads."""

    def digest(first: int) -> bytes:
        with data[first : first + _PART] as part:
            return hashlib.sha256(part).digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(digest, range(0, len(data), _PART)))


def _mapped(path: Path) -> tuple[mmap.mmap, int]:
    """A mapped safetensors file, and where its data begin."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return data, 8 + int.from_bytes(data[:8], "little")
