"""The GGUF file format: header, metadata, and tensors dequantized block by block.

The header is parsed here because the reader of the gguf package is slow: it creates an array view
for every token string, which takes 13 s for a vocabulary of 262,144. The gguf package dequantizes
the blocks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.types import HostArray

_SCALARS = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_CHUNK = 1 << 18  # elements dequantized at a time: bounds the memory needed besides the tensor


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        shape: slowest axis first.
        kind: number of the ggml type.
        offset: first byte in the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GGUFFile:
    """A parsed header.

    Attributes:
        path: the file.
        metadata: strings, numbers, lists and arrays by their keys.
        tensors: the tensors by their names.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """Value of `general.architecture`."""
        return str(self.metadata.get("general.architecture", "none"))


class _Header:
    """Sequential reader of a header; raises an error if the file ends too early."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.size else b""
        if len(data) != count:
            raise truncated(self.path, f"the header does not end at byte {self.size}")
        return data

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def string(self) -> str:
        # Byte-level tokens of some vocabularies are not UTF-8; their bytes are preserved.
        return self.take(self.u64()).decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, count = self.u32(), self.u64()
            if kind in (_STRING, _ARRAY):
                return [self.value(kind) for _ in range(count)]
            code = self._code(kind)
            return np.frombuffer(self.take(count * np.dtype(code).itemsize), code)
        code = self._code(kind)
        value = np.frombuffer(self.take(np.dtype(code).itemsize), code)[0]
        # The shortest decimal number of the same float32: 1e-06, not 9.999999974752427e-07.
        return float(str(value)) if code == "<f4" else value.item()

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
        InputError: not a GGUF file, an unknown version, or shorter than its header claims.
    """
    from gguf.constants import GGML_QUANT_SIZES

    with path.open("rb") as file:
        header = _Header(path, file)
        magic = file.read(4)
        if magic != b"GGUF":
            raise InputError(
                f"{path}: not a GGUF file: starts with {magic!r}, expected b'GGUF'; fetch it again "
                "(an interrupted download and a Git LFS pointer look like this)"
            )
        version = header.u32()
        if version not in (2, 3):
            raise InputError(
                f"{path}: GGUF version {version}; expected 2 or 3, little endian: convert it again"
            )
        tensor_count, value_count = header.u64(), header.u64()
        metadata = {}
        for _ in range(value_count):
            key = header.string()
            metadata[key] = header.value(header.u32())
        places = []
        for _ in range(tensor_count):
            name = header.string()
            shape = tuple(header.u64() for _ in range(header.u32()))[::-1]
            places.append((name, shape, header.u32(), header.u64()))
        alignment = int(metadata.get("general.alignment", 0)) or 32
        start = -(-file.tell() // alignment) * alignment

    tensors = {}
    for name, shape, kind, offset in places:
        if kind not in list(GGML_QUANT_SIZES):
            raise InputError(
                f"{path}: tensor {name}: the installed gguf package does not know quantization "
                f"type {kind}; upgrade the package or quantize the model differently"
            )
        tensors[name] = info = TensorInfo(shape, kind, start + offset)
        end = info.offset + _byte_count(info)
        if end > header.size:
            raise truncated(
                path, f"tensor {name} ends at byte {end}, the file at byte {header.size}"
            )
    return GGUFFile(path, metadata, tensors)


def _block(kind: int) -> tuple[int, int]:
    """Elements and bytes of one quantization block."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return int(elements), int(size)


def _byte_count(info: TensorInfo) -> int:
    elements, size = _block(info.kind)
    return int(np.prod(info.shape)) // elements * size


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
    with file.path.open("rb") as data:
        data.seek(info.offset)
        for first in range(0, out.size, step * elements):
            count = min(step, (out.size - first) // elements)
            raw = np.fromfile(data, np.uint8, count * size)
            if raw.size != count * size:
                raise truncated(file.path, f"the data of tensor {name} is incomplete")
            try:
                # As one row, because the package is slow with many: it takes 16 rows at a time.
                values = dequantize_blocks(raw[None], kind)[0]
            except NotImplementedError as error:
                raise InputError(
                    f"{file.path}: tensor {name} has type {kind.name}; expected floats or a "
                    "quantization that the gguf package supports; quantize the model differently"
                ) from error
            out[first : first + values.size] = values - np.float32(minus) if minus else values
