"""Load a model: read a Hugging Face folder or a GGUF file into a tree of stacked arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open

from onceedit_jax.errors import InputError
from onceedit_jax.models.assembly import TensorSource, assemble, some
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.gguf_models import GGUFSource, equivalent_config
from onceedit_jax.models.tensors import Box
from onceedit_jax.storage.gguf import read_header
from onceedit_jax.storage.sources import DEMO_PREFIX, is_path, resolve
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


@dataclass(frozen=True)
class _Stored:
    """Dtype, shape and place of a tensor in a safetensors file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsSource:
    """The tensors of a Hugging Face folder, in one safetensors file or several shards."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.files, index = _weight_files(folder)
        self._stored = {
            name: stored for file in self.files for name, stored in _read_header(file).items()
        }
        for name, file in index.items():
            if name not in self._stored:
                raise InputError(
                    f"{folder / file}: missing tensor {name}, which {_INDEX} lists for this file; "
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
                flat[first:end] = np.fromfile(data, _FLOATS[stored.dtype], end - first)

    def read_box(self, name: str, box: Box, out: HostArray) -> None:
        """Fill `out` with the values in a box of the tensor; the rest is not read.

        Raises:
            InputError: The tensor does not hold floats.
        """
        stored = self._float_tensor(name)
        # Mapped only during the copy, so that the file's pages do not stay in memory.
        dtype = _FLOATS[stored.dtype]
        out[...] = np.memmap(stored.file, dtype, "r", stored.offset, stored.shape)[box]

    def _float_tensor(self, name: str) -> _Stored:
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
        hf_config = _read_json(path / "config.json", _no_config(path))
        source = folder = SafetensorsSource(path)
        files = [path / "config.json", *folder.files]
    else:
        file = read_header(path)
        hf_config, source, files = equivalent_config(file), GGUFSource(file), [path]
    try:
        config = config_from_hf(hf_config)
        if num_tokens is not None:
            config = config.with_num_tokens(num_tokens)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
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
        content_hash=_content_hash(files),
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
    """SHA-256 over the contents of the files and, if there are several, their names."""
    digests = []
    for file in files:
        with file.open("rb") as data:
            digests.append(hashlib.file_digest(data, "sha256").hexdigest())
    if len(files) == 1:
        return digests[0]
    lines = (f"{file.name} {digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_json(path: Path, if_missing: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(if_missing) from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); fetch or write the file again") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: holds a {type(values).__name__}; expected a JSON object: fetch or write the "
            "file again"
        )
    return values


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
        index = _read_json(folder / _INDEX, "").get("weight_map")
        if not isinstance(index, dict) or not index:
            raise InputError(
                f"{folder / _INDEX}: no weight_map; expected the file of every tensor: fetch the "
                "folder again"
            )
        files = [folder / Path(str(name)).name for name in sorted(set(index.values()))]
        if absent := [file.name for file in files if not file.is_file()]:
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


def _read_header(file: Path) -> dict[str, _Stored]:
    """The tensors of a safetensors file.

    The safetensors library checks the header and the length of the file. The data is read by offset
    here, because the library maps the file (its pages count as this process's memory) or reads
    whole tensors.
    """
    try:
        with safe_open(file, framework="np"), file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            header = json.loads(data.read(length))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: truncated or damaged safetensors file ({error}); fetch or copy it again"
        ) from error
    header.pop("__metadata__", None)
    return {
        name: _Stored(
            file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }
