"""The weights of a Hugging Face folder: tensors in one safetensors file or several shards."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.models.assembly import some
from onceedit_jax.models.tensors import Box
from onceedit_jax.storage.bounded import MEBIBYTE, read_json
from onceedit_jax.storage.safetensors_files import StoredTensor, read_header
from onceedit_jax.storage.schema import ObjectOf, Record, Text, check, shown
from onceedit_jax.types import HostArray

_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": jnp.dtype("bfloat16"),
}
_CHUNK = 1 << 18  # elements converted at a time: bounds the memory needed besides the tensor
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_INDEX_SCHEMA = Record({"weight_map": ObjectOf(Text(most=255))}, required=("weight_map",))
_SHARD = re.compile(r"[\w][\w.-]*\.safetensors", re.ASCII)


class SafetensorsSource:
    """The tensors of a Hugging Face folder, in one safetensors file or several shards.

    Args:
        folder: The folder.
        files: The files, if they do not have the usual names of a model's weights.

    Raises:
        InputError: Files that are missing, damaged or not of one model, or FP8 weights.
    """

    def __init__(self, folder: Path, files: list[Path] | None = None) -> None:
        self.path = folder
        self.files, index = _weight_files(folder) if files is None else (files, {})
        self._stored: dict[str, StoredTensor] = {}
        for file in self.files:
            for name, stored in read_header(file, inside=folder).items():
                if name in self._stored:
                    raise InputError(
                        f"{file}: tensor {name} is in {self._stored[name].file.name} too; expected "
                        "it in one shard: fetch the folder again"
                    )
                if stored.dtype.startswith("F8_"):
                    raise InputError(
                        f"{file}: tensor {name} has dtype {stored.dtype}; expected "
                        f"{', '.join(_FLOATS)}: FP8 weights are not read; give the model's "
                        "unquantized checkpoint, or a GGUF file"
                    )
                self._stored[name] = stored
        for name, shard in index.items():
            if name not in self._stored or self._stored[name].file.name != shard:
                raise InputError(
                    f"{folder / shard}: missing tensor {name}, which {_INDEX} lists for this file; "
                    "the shards and the index do not belong together: fetch the folder again"
                )

    def names(self) -> Iterable[str]:
        """The names of all tensors in all shards."""
        return self._stored.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; reads no data."""
        return self._stored[name].shape

    def read(self, name: str, out: HostArray) -> None:
        """Fill `out` with the tensor's values, converted chunk by chunk to its dtype.

        Raises:
            InputError: The tensor does not hold floats.
        """
        stored = self._float_tensor(name)
        flat = out.reshape(-1)
        with stored.file.open("rb") as data:
            data.seek(stored.offset)
            for first in range(0, flat.size, _CHUNK):
                end = min(first + _CHUNK, flat.size)
                values = np.fromfile(data, _FLOATS[stored.dtype], end - first)
                if values.size != end - first:
                    raise InputError(f"{stored.file}: has become shorter; copy it again")
                flat[first:end] = values

    def read_box(self, name: str, box: Box, out: HostArray) -> None:
        """Fill `out` with the values in a box of the tensor; the rest is not read.

        Raises:
            InputError: The tensor does not hold floats.
        """
        stored = self._float_tensor(name)
        # Mapped only during the copy, so that the file's pages do not stay in memory.
        dtype = _FLOATS[stored.dtype]
        out[...] = np.memmap(stored.file, dtype, "r", stored.offset, stored.shape)[box]

    def _float_tensor(self, name: str) -> StoredTensor:
        stored = self._stored[name]
        if stored.dtype not in _FLOATS:
            raise InputError(
                f"{stored.file}: tensor {name} has dtype {stored.dtype}; expected one of "
                f"{', '.join(_FLOATS)}: quantized safetensors are not supported; use an "
                "unquantized checkpoint or a GGUF file"
            )
        return stored


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The safetensors files of a folder, sorted by name, and the index (empty without one)."""
    if (folder / _SINGLE).exists():
        # transformers prefers the single file too.
        return [folder / _SINGLE], {}
    if (folder / _INDEX).exists():
        values = read_json(folder / _INDEX, most=64 * MEBIBYTE, inside=folder)
        check(_INDEX_SCHEMA, values, file=folder / _INDEX, remedy="fetch the folder again")
        index = values["weight_map"]
        names = sorted(set(index.values()))
        if strange := [name for name in names if not _SHARD.fullmatch(name)]:
            raise InputError(
                f"{folder / _INDEX}: weight_map names the file {shown(strange[0])}; expected a "
                ".safetensors file of this folder: fetch the folder again"
            )
        files = [folder / name for name in names]
        if absent := [file.name for file in files if not file.exists()]:
            raise InputError(
                f"{folder}: missing shard {some(absent)} of {len(files)} listed in {_INDEX}; "
                "fetch the folder again"
            )
        return files, index
    pickled = sorted(file.name for file in folder.glob("*.bin"))
    if pickled:
        raise InputError(
            f"{folder}: weights only in {some(pickled)}; expected {_SINGLE}: pickled files can run "
            "code when they are opened and are never read; convert it with transformers "
            "(save_pretrained writes safetensors) or fetch the safetensors version"
        )
    raise InputError(
        f"{folder}: no weights; expected {_SINGLE}, or shards with {_INDEX}: fetch the folder "
        "again, or first convert a model that is published only as pytorch_model.bin"
    )
