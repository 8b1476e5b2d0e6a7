"""The header of a safetensors file: where each tensor lies, checked against the file's length.

The data is read by offset: the safetensors library maps the file (its pages count as this process's
memory) or reads whole tensors. What is written here can be mapped instead.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import MEBIBYTE, check_regular, parse_json
from onceedit_jax.storage.schema import Integer, ListOf, Maybe, ObjectOf, Record, Text, check

#: Bytes of one element, by the names that the format gives to dtypes.
ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
#: The dtypes that are written here.
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
#: XLA on the CPU takes over a host buffer without a copy only if it has this alignment.
ALIGNMENT = 64
_MOST_HEADER = 100 * MEBIBYTE  # the format's own bound
_REMEDY = "truncated or damaged safetensors file: fetch or copy it again"
_METADATA = Maybe(ObjectOf(Text()))
_TENSOR = Record(
    {
        "dtype": Text(tuple(ITEM_SIZES)),
        "shape": ListOf(Integer(), most=8),
        "data_offsets": ListOf(Integer(), least=2, most=2),
    },
    required=("dtype", "shape", "data_offsets"),
    closed=True,
)


@dataclass(frozen=True)
class StoredTensor:
    """Dtype, shape and place of a tensor in a safetensors file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def read_header(file: Path, *, inside: Path | None = None) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file: they lie side by side and fill it.

    Args:
      file: the file.
      inside: the folder of the model, see `check_regular`.

    Raises:
      InputError: it is no regular file, or its header and its length do not agree.
    """
    try:
        size = check_regular(file, inside=inside).st_size
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if not 2 <= length <= min(_MOST_HEADER, size - 8):
                raise InputError(
                    f"{file}: the header has {length} bytes; expected 2 to "
                    f"{max(2, min(_MOST_HEADER, size - 8))}: {_REMEDY}"
                )
            raw = data.read(length)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); {_REMEDY}") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: the header is not UTF-8; {_REMEDY}") from error
    if not text.startswith("{"):  # as the format has it
        raise InputError(f"{file}: the header begins with {text[0]!r}; expected '{{': {_REMEDY}")
    header = parse_json(text, file)
    check(_METADATA, header.pop("__metadata__", None), file=file, remedy=_REMEDY)
    check(ObjectOf(_TENSOR), header, file=file, remedy=_REMEDY)
    _check_places(file, header, size - 8 - length)
    return {
        name: StoredTensor(
            file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


def write_aligned(file: Path, arrays: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """Write arrays so that a mapping of the file can be used in their place.

    The format leaves no gaps between tensors, so those of a whole number of blocks come first; a
    small one after them may not be aligned.

    Args:
      file: the file; it does not exist yet, and nobody else may write to it.
      arrays: by their names, of `DTYPES`: host arrays, or what has their `shape`, `dtype` and
        `nbytes` and becomes one when it is written, one after another.
      metadata: of the header.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    names, end = sorted(arrays, key=lambda name: (arrays[name].nbytes % ALIGNMENT != 0, name)), 0
    for name in names:
        array, first = arrays[name], end
        end += array.nbytes
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [first, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with open(file, "xb", opener=_private) as data:  # an exclusive one follows no link
        data.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = np.ascontiguousarray(np.asarray(arrays[name]))
            data.write(array.reshape(-1).view(np.uint8).data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o644)


def _check_places(file: Path, header: dict[str, Any], size: int) -> None:
    """Check that the tensors follow one another without gaps and end where the file ends."""
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        needed = math.prod(entry["shape"]) * ITEM_SIZES[entry["dtype"]]
        if first != end or last - first != needed:
            raise InputError(
                f"{file}: tensor {name} lies at bytes {first} to {last}; expected {end} to "
                f"{end + needed}, by its dtype, its shape and the tensor before it: {_REMEDY}"
            )
        end = last
    if end != size:
        raise InputError(
            f"{file}: the tensors have {end} bytes, the file has {size} for them: {_REMEDY}"
        )
