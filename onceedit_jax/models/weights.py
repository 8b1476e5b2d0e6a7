"""Load a model: read a Hugging Face folder or a GGUF file into a tree of stacked arrays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from onceedit_jax.errors import InputError
from onceedit_jax.models.assembly import TensorSource, assemble, some
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.gguf_models import GGUFSource, equivalent_config
from onceedit_jax.models.tensors import Box
from onceedit_jax.storage import gguf
from onceedit_jax.storage.bounded import MEBIBYTE, read_json
from onceedit_jax.storage.checksums import sha256_of
from onceedit_jax.storage.safetensors_files import StoredTensor, read_header
from onceedit_jax.storage.schema import ObjectOf, Record, Text, check, shown
from onceedit_jax.storage.sources import DEMO_PREFIX, is_path, known_sha256, resolve
from onceedit_jax.types import HostArray, Params

# int8 applies to the layers' matrices; the rest of the model is then bfloat16.
_DTYPES = ("float32", "bfloat16", "float16", "int8")
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


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory and where it came from.

    Attributes:
        config: Configuration of the decoder.
        params: Parameter tree of `init_params`, layers stacked.
        name: Short name for tables and messages.
        content_hash: SHA-256 (hex) over the weight files and the configuration.
        source: The folder or `.gguf` file it was read from.
        hf_config: Values of its config.json; for GGUF, of an equivalent one.
        spec: What `load_model` finds it by, wherever it is called from: `demo:NAME`, a hub id or an
            absolute path; None for a model that was not loaded.
    """

    config: ModelConfig
    params: Params
    name: str
    content_hash: str
    source: Path
    hf_config: dict[str, Any]
    spec: str | None = None


class SafetensorsSource:
    """The tensors of a Hugging Face folder, in one safetensors file or several shards."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.files, index = _weight_files(folder)
        self._stored: dict[str, StoredTensor] = {}
        for file in self.files:
            for name, stored in read_header(file, inside=folder).items():
                if name in self._stored:
                    raise InputError(
                        f"{file}: tensor {name} is in {self._stored[name].file.name} too; expected "
                        "it in one shard: fetch the folder again"
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


def load_model(
    spec: str | Path,
    *,
    dtype: str = "float32",
    num_tokens: int | None = None,
    mesh: Mesh | None = None,
) -> LoadedModel:
    """Load a model from a Hugging Face folder, a hub id, a `.gguf` file or `demo:NAME`.

    Args:
        spec: See `storage.sources.resolve`.
        dtype: Memory dtype of the parameters: float32, bfloat16, float16, or int8. With int8, the
            layers' matrices have eight bits and a scale for each output channel, the rest of the
            model is bfloat16.
        num_tokens: Tokens of the tokenizer; later embedding rows are padding, which is never
            predicted (default: every row is a token).
        mesh: Devices for the parameters; each process reads only what its own devices hold
            (default: the default device).

    Raises:
        InputError: No such model; an unsupported architecture; tensors that are missing, unknown,
            of the wrong shape or not floats; a truncated file; more tokens than embedding rows.
        RunError: A demo model could not be fetched.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype is {dtype!r}; use one of {', '.join(_DTYPES)}")
    path = resolve(spec)
    source: TensorSource
    if path.is_dir():
        try:
            hf_config = read_json(path / "config.json", inside=path)
        except FileNotFoundError as error:
            raise InputError(_no_config(path)) from error
        source = folder = SafetensorsSource(path)
        files = [path / "config.json", *folder.files]
    else:
        file = gguf.read_header(path)
        hf_config, source, files = equivalent_config(file), GGUFSource(file), [path]
    try:
        config = config_from_hf(hf_config)
        if num_tokens is not None:
            config = config.with_num_tokens(num_tokens)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    content_hash = _content_hash(files)  # damage is named before the weights are read
    return LoadedModel(
        config=config,
        params=assemble(
            source,
            config,
            jnp.dtype("bfloat16" if dtype == "int8" else dtype),
            eight_bits=dtype == "int8",
            mesh=mesh,
        ),
        name=_name(spec, path),
        content_hash=content_hash,
        source=path,
        hf_config=hf_config,
        spec=str(Path(spec).expanduser().resolve()) if is_path(spec) else str(spec),
    )


def _name(spec: str | Path, path: Path) -> str:
    text = str(spec)
    if text.startswith(DEMO_PREFIX):
        return text.removeprefix(DEMO_PREFIX)
    if not is_path(spec):
        return text  # a hub id
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _content_hash(files: list[Path]) -> str:
    """SHA-256 over the contents of the files and, if there are several, their names.

    Raises:
        InputError: a file is not the one that it was when it was downloaded.
    """
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
    lines = (f"{file.name} {digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _no_config(folder: Path) -> str:
    remedy = "give a Hugging Face model folder"
    if ggufs := sorted(folder.glob("*.gguf")):
        remedy = f"give the file itself: {ggufs[0]}"
    return f"{folder}: this folder has no config.json; {remedy}"


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
