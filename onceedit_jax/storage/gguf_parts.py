"""A GGUF model in one file, or split into parts that lie side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.storage.gguf import MAGIC, GGUFFile, TensorInfo, read_header
from onceedit_jax.storage.schema import Integer, check, shown

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)
_MOST = 4096
_REMEDY = "fetch the file again"
#: Bytes of a model from which on it pays to keep what was converted from it.
LARGE = 16 << 20


def large_files(path: Path) -> list[Path]:
    """The files of a GGUF model; none if they are small, cannot be read, or are no GGUF files.

    Raises:
        InputError: a part is missing.
    """
    files = model_files(path)
    try:
        large = sum(file.stat().st_size for file in files) >= LARGE
        return files if large and all(_begins_as_gguf(file) for file in files) else []
    except OSError:
        return []


def _begins_as_gguf(file: Path) -> bool:
    with file.open("rb") as data:
        return data.read(len(MAGIC)) == MAGIC


def model_files(path: Path) -> list[Path]:
    """The files of a GGUF model: the file, or all parts if it is a part by its name.

    Raises:
        InputError: a part is missing.
    """
    name = _PART.fullmatch(path.name)
    if name is None:
        return [path]
    count = int(name[3])
    if not 1 <= count <= _MOST:
        raise InputError(f"{path}: {count} parts; expected 1 to {_MOST}: fetch the files again")
    paths = [path.with_name(f"{name[1]}-{n:05d}-of-{name[3]}.gguf") for n in range(1, count + 1)]
    if absent := [part.name for part in paths if not part.is_file()]:
        raise InputError(
            f"{path}: a split GGUF of {count} parts, of which {absent[0]} is missing; expected all "
            "parts in one folder: fetch it too"
        )
    return paths


def read_model(path: Path) -> GGUFFile:
    """The header of a GGUF model; of a split one, that of the first part with all tensors.

    Args:
        path: the file, or any of the parts.

    Raises:
        InputError: a file is not GGUF or is damaged; a part is missing or of another model.
    """
    files = model_files(path)
    if _PART.fullmatch(path.name):
        return _joined([read_header(part) for part in files])
    first = read_header(path)
    count = first.metadata.get("split.count", 1)
    check(Integer(0, _MOST), count, file=f"{path}: metadata split.count", remedy=_REMEDY)
    if count > 1:
        raise InputError(
            f"{path}: one of {count} parts of a split GGUF; expected the name that the parts "
            f"have, such as {path.stem}-00001-of-{count:05d}.gguf: give them their names back"
        )
    return first


def _joined(parts: list[GGUFFile]) -> GGUFFile:
    tensors: dict[str, TensorInfo] = {}
    for number, part in enumerate(parts):
        _expect(part, "split.count", len(parts))
        _expect(part, "split.no", number)
        for key, value in part.metadata.items():
            if not key.startswith("split.") and not _is_same(value, parts[0].metadata.get(key)):
                _expect(part, key, parts[0].metadata.get(key))
        for name, info in part.tensors.items():
            if name in tensors:
                raise InputError(
                    f"{part.path}: tensor {name} is in {tensors[name].file.name} too; expected it "
                    "in one part: fetch the files again"
                )
            tensors[name] = info
    _expect(parts[0], "split.tensors.count", len(tensors))
    return GGUFFile(parts[0].path, parts[0].metadata, tensors, tuple(p.path for p in parts))


def _is_same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(np.array_equal(value, other))


def _expect(part: GGUFFile, key: str, expected: Any) -> None:
    found = part.metadata.get(key)
    if not _is_same(found, expected):
        raise InputError(
            f"{part.path}: metadata {key} is {shown(found)}; expected {shown(expected)}: the "
            "parts do not belong together; fetch the files again"
        )
