"""The header of a safetensors file: where each tensor lies, checked against the file's length.

The data is read by offset: the safetensors library maps the file (its pages count as this process's
memory) or reads whole tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import MEBIBYTE, check_regular, parse_json
from onceedit_jax.storage.schema import Integer, ListOf, ObjectOf, Record, Text, check

#: Bytes of one element, by the names that the format gives to dtypes.
ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_MOST_HEADER = 100 * MEBIBYTE  # the format's own bound
_REMEDY = "truncated or damaged safetensors file: fetch or copy it again"
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
    header = parse_json(text, file)
    check(ObjectOf(Text()), header.pop("__metadata__", None) or {}, file=file, remedy=_REMEDY)
    check(ObjectOf(_TENSOR), header, file=file, remedy=_REMEDY)
    _check_places(file, header, size - 8 - length)
    return {
        name: StoredTensor(
            file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


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
