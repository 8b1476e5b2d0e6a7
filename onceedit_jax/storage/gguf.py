"""The GGUF file format: header, metadata, and tensors dequantized block by block.

The header is parsed here because the reader of the gguf package is slow: it creates an array view
for every token string, which takes 13 s for a vocabulary of 262,144. The gguf package dequantizes
the blocks.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.host_array import HostArray
from onceedit_jax.storage.bounded import check_regular
from onceedit_jax.storage.schema import shown

_SCALARS = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_AXES, _LONGEST_NAME = 4, 1 << 16
#: The first bytes of every file.
MAGIC = b"GGUF"
_ALIGNMENT = 32  # where the metadata name no other
_ALIGNMENTS = tuple(8 << n for n in range(10))
_CHUNK = 1 << 18  # elements dequantized at a time: bounds the memory needed besides the tensor


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        shape: slowest axis first.
        kind: number of the ggml type.
        offset: first byte in the file.
        file: the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int
    file: Path


@dataclass(frozen=True)
class GGUFFile:
    """A parsed header.

    Attributes:
        path: the file; of a split model, the first part.
        metadata: strings, numbers, lists and arrays by their keys.
        tensors: the tensors by their names.
        files: all files.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    files: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        """Value of `general.architecture`."""
        return str(self.metadata.get("general.architecture", "none"))


class _Header:
    """Sequential reader of a header: nothing is read or made that the file cannot hold."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.left = self.size = check_regular(path).st_size

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.left else b""
        if len(data) != count:
            raise truncated(self.path, f"the header does not end at byte {self.size}")
        self.left -= count
        return data

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def count(self, what: str, size: int) -> int:
        """A number of things that take at least `size` bytes each."""
        count = self.u64()
        if count * size > self.left:
            raise truncated(self.path, f"{count} {what} do not fit into {self.left} bytes")
        return count

    def string(self) -> str:
        # Byte-level tokens of some vocabularies are not UTF-8; their bytes are preserved.
        return self.take(self.u64()).decode("utf-8", "surrogateescape")

    def strings(self) -> list[str]:
        """An array of strings; a vocabulary has hundreds of thousands, and its merges as many."""
        found, read = [], self.file.read
        for _ in range(self.count("strings", 8)):
            size = int.from_bytes(read(8), "little")
            self.left -= 8 + size
            if self.left < 0:
                raise truncated(self.path, f"the header does not end at byte {self.size}")
            found.append(read(size).decode("utf-8", "surrogateescape"))
        return found

    def key(self) -> str:
        name = self.string()
        if not (name.isascii() and name.isprintable() and 0 < len(name) <= _LONGEST_NAME):
            raise self.damaged(f"a name is {shown(name)}; expected printable ASCII")
        return name

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind = self.u32()
            if kind == _ARRAY:
                raise self.damaged("an array of arrays; expected arrays of numbers or strings")
            if kind == _STRING:
                return self.strings()
            dtype = np.dtype(self._code(kind))
            return np.frombuffer(
                self.take(self.count("values", dtype.itemsize) * dtype.itemsize), dtype
            )
        code = self._code(kind)
        raw = self.take(np.dtype(code).itemsize)
        if code == "?" and raw not in (b"\0", b"\1"):
            raise self.damaged(f"a truth value is {raw[0]}; expected 0 or 1")
        value = np.frombuffer(raw, code)[0]
        # The shortest decimal number of the same float32: 1e-06, not 9.999999974752427e-07.
        return float(str(value)) if code == "<f4" else value.item()

    def tensor(self) -> tuple[tuple[int, ...], int, int]:
        """Shape (slowest axis first), type and offset of a tensor."""
        axes = self.u32()
        if not 1 <= axes <= _MOST_AXES:
            raise self.damaged(f"a tensor has {axes} axes; expected 1 to {_MOST_AXES}")
        shape = tuple(self.u64() for _ in range(axes))[::-1]
        if 0 in shape or math.prod(shape) > 2**48:
            raise self.damaged(f"a tensor has shape {list(shape)}; expected axes of 1 and more")
        return shape, self.u32(), self.u64()

    def damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}: the file is damaged; fetch or convert it again")

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise InputError(
                f"{self.path}: metadata value of type {kind}; expected 0 to 12: the file is "
                "damaged or of a newer format; fetch or convert it again"
            )
        return _SCALARS[kind]


def truncated(path: Path, what: str) -> InputError:
    """The error for a file that is shorter than its header claims."""
    return InputError(f"{path}: truncated file: {what}; fetch or copy it again")


def read_header(path: Path) -> GGUFFile:
    """Parse a GGUF file, except for the data of the tensors.

    Args:
        path: the `.gguf` file, version 2 or 3, little endian.

    Raises:
        InputError: not a GGUF file, an unknown version, or its header and its length do not agree:
            the tensors have to follow one another, aligned, and end where the file ends.
    """
    with path.open("rb") as file:
        header = _Header(path, file)
        magic = header.take(len(MAGIC)) if header.size >= len(MAGIC) else file.read(len(MAGIC))
        if magic != MAGIC:
            raise InputError(
                f"{path}: not a GGUF file: starts with {magic!r}, expected {MAGIC!r}; fetch it "
                "again (an interrupted download and a Git LFS pointer look like this)"
            )
        version = header.u32()
        if version not in (2, 3):
            raise InputError(
                f"{path}: GGUF version {version}; expected 2 or 3, little endian: convert it again"
            )
        tensor_count, value_count = header.count("tensors", 32), header.count("values", 13)
        metadata: dict[str, Any] = {}
        for _ in range(value_count):
            key = header.key()
            if key in metadata:
                raise header.damaged(f"metadata {key} is there twice")
            metadata[key] = header.value(header.u32())
        places: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensor_count):
            name = header.key()
            if name in places:
                raise header.damaged(f"tensor {name} is there twice")
            places[name] = header.tensor()
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment not in _ALIGNMENTS:
            raise header.damaged(
                f"metadata general.alignment is {shown(alignment)}; expected a power of two"
            )
        if any(header.take(min(-file.tell() % alignment, header.left))):
            raise header.damaged("the bytes between header and tensors are not zero")
        tensors = _tensors(header, places, file.tell(), alignment)
    return GGUFFile(path, metadata, tensors, (path,))


def _tensors(
    header: _Header, places: dict[str, tuple[tuple[int, ...], int, int]], start: int, alignment: int
) -> dict[str, TensorInfo]:
    """The tensors, if they lie side by side in the file's order."""
    from gguf.constants import GGML_QUANT_SIZES

    known, tensors, end = {int(kind) for kind in GGML_QUANT_SIZES}, {}, 0
    for name, (shape, kind, offset) in places.items():
        if kind not in known:
            raise InputError(
                f"{header.path}: tensor {name}: the installed gguf package does not know "
                f"quantization type {kind}; upgrade the package or quantize the model differently"
            )
        if shape[-1] % _block(kind)[0]:
            raise header.damaged(
                f"tensor {name} has rows of {shape[-1]} values; expected a multiple of "
                f"{_block(kind)[0]}, as its type has"
            )
        if offset != end:
            raise header.damaged(
                f"tensor {name} lies at byte {offset} of the data; expected {end}, where the "
                "tensor before it ends"
            )
        tensors[name] = info = TensorInfo(shape, kind, start + offset, header.path)
        size = _byte_count(info)
        if start + offset + size > header.size:
            raise truncated(
                header.path,
                f"tensor {name} ends at byte {start + offset + size}, the file at {header.size}",
            )
        end = -(-(offset + size) // alignment) * alignment
    if header.size >= start + end + alignment:
        raise header.damaged(
            f"the tensors end at byte {start + end}, and the file at {header.size}; expected the "
            "same"
        )
    return tensors


def _block(kind: int) -> tuple[int, int]:
    """Elements and bytes of one quantization block."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return int(elements), int(size)


def _byte_count(info: TensorInfo) -> int:
    elements, size = _block(info.kind)
    return math.prod(info.shape) // elements * size


def dequantize(file: GGUFFile, name: str, out: HostArray, *, minus: float = 0.0) -> None:
    """Fill `out` with the values of a tensor less `minus`, computed in float32 block by block.

    Args:
        file: The header.
        name: Tensor name in the file.
        out: Contiguous, with as many elements as the tensor, of any float dtype.
        minus: Subtracted from every value.

    Raises:
        InputError: a type that the gguf package cannot dequantize, or a truncated file.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize as dequantize_blocks

    info = file.tensors[name]
    kind = GGMLQuantizationType(info.kind)
    elements, size = _block(info.kind)
    out = out.reshape(-1)
    step = max(_CHUNK // elements, 1)
    with info.file.open("rb") as data:
        data.seek(info.offset)
        for first in range(0, out.size, step * elements):
            count = min(step, (out.size - first) // elements)
            raw = np.fromfile(data, np.uint8, count * size)
            if raw.size != count * size:
                raise truncated(info.file, f"the data of tensor {name} is incomplete")
            try:
                # As one row, because the package is slow with many: it takes 16 rows at a time.
                values = dequantize_blocks(raw[None], kind)[0]
            except NotImplementedError as error:
                raise InputError(
                    f"{file.path}: tensor {name} has type {kind.name}; expected floats or a "
                    "quantization that the gguf package supports; quantize the model differently"
                ) from error
            out[first : first + values.size] = values - np.float32(minus) if minus else values
