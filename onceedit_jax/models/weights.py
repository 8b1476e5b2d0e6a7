"""Load a model: read a Hugging Face folder or a GGUF file into a tree of stacked arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from onceedit_jax.errors import InputError
from onceedit_jax.models.assembly import TensorSource, assemble
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.dtypes import ComputeDtype
from onceedit_jax.models.families import config_from_hf, text_config
from onceedit_jax.models.gguf_models import GGUFSource, equivalent_config
from onceedit_jax.models.kept_weights import (
    Weights,
    in_memory,
    keep_weights,
    place_of,
    read_weights,
)
from onceedit_jax.models.lora_source import LoraSource
from onceedit_jax.models.parameters import usual_compute_dtype
from onceedit_jax.models.safetensors_source import SafetensorsSource
from onceedit_jax.models.tied_head import with_true_head
from onceedit_jax.storage.bounded import read_json
from onceedit_jax.storage.converted import content_hash
from onceedit_jax.storage.gguf_parts import read_model
from onceedit_jax.storage.peft_files import PEFT_CONFIG, PEFT_WEIGHTS, read_adapter
from onceedit_jax.storage.sources import DEMO_PREFIX, is_path, resolve
from onceedit_jax.types import Params

_DTYPES = ("float32", "bfloat16", "float16", "int8")


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


def load_model(
    spec: str | Path,
    *,
    dtype: str = "float32",
    compute_dtype: ComputeDtype | None = None,
    num_tokens: int | None = None,
    mesh: Mesh | None = None,
    verify: bool = True,
) -> LoadedModel:
    """Load a model from a Hugging Face folder, a hub id, a `.gguf` file or `demo:NAME`.

    A folder of a LoRA adapter is read as its base model with the adapter added. A split GGUF is
    read whole, by any of its parts. The head is the one that is there, see `with_true_head`.

    Args:
        spec: See `storage.sources.resolve`.
        dtype: Memory dtype of the parameters: float32, bfloat16, float16, or int8. With int8, all
            matrices have eight bits and a scale for each output channel, embeddings are float16,
            and norms and biases bfloat16.
        compute_dtype: Operands of matrix products, float32 or bfloat16 (default: by
            `models.dtypes.default_compute_dtype`).
        num_tokens: Tokens of the tokenizer; later embedding rows are padding, which is never
            predicted (default: every row is a token).
        mesh: Devices for the parameters; each process reads only what its own devices hold
            (default: the default device).
        verify: Check the SHA-256 of weights that are kept in the cache folder as they were
            dequantized, see `storage.converted`.

    Raises:
        InputError: No such model; an unsupported architecture; tensors that are missing, unknown,
            of the wrong shape or not floats; a truncated file; more tokens than embedding rows; an
            adapter that is not plain LoRA, or whose base is not there.
        RunError: A demo model could not be fetched.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype is {dtype!r}; use one of {', '.join(_DTYPES)}")
    path = resolve(spec)
    place = place_of(path, dtype) if mesh is None and path.is_file() else None
    weights = None if place is None else read_weights(place, dtype, verify=verify)
    if weights is None:
        weights = _converted(path, dtype, num_tokens, mesh)
        if place is not None:
            keep_weights(place, weights)
    config = _config(path, weights.hf_config, num_tokens)
    if weights.warning is not None:
        warnings.warn(f"{path}: {weights.warning}", stacklevel=2)
    return LoadedModel(
        config=config.with_compute_dtype(compute_dtype or usual_compute_dtype(weights.params)),
        params=weights.params,
        name=_name(spec, path),
        content_hash=weights.content_hash,
        source=path,
        hf_config=weights.hf_config,
        spec=str(Path(spec).expanduser().resolve()) if is_path(spec) else str(spec),
    )


def _converted(path: Path, dtype: str, num_tokens: int | None, mesh: Mesh | None) -> Weights:
    """The weights as they are read from the files themselves."""
    hf_config, source, files = _opened(path)
    try:
        hf_config, warning = with_true_head(text_config(hf_config), source)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    config = _config(path, hf_config, num_tokens)
    digest = content_hash(files)  # damage is named before the weights are read
    floats, eight_bits = in_memory(dtype)
    params = assemble(source, config, floats, eight_bits=eight_bits, mesh=mesh)
    return Weights(hf_config, params, digest, warning)


def _config(path: Path, hf_config: dict[str, Any], num_tokens: int | None) -> ModelConfig:
    try:
        config = config_from_hf(hf_config)
        return config if num_tokens is None else config.with_num_tokens(num_tokens)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _opened(path: Path) -> tuple[dict[str, Any], TensorSource, list[Path]]:
    """A checkpoint's values of config.json, its tensors, and its files."""
    if not path.is_dir():
        file = read_model(path)
        return equivalent_config(file), GGUFSource(file), list(file.files)
    if (adapter := read_adapter(path)) is not None:
        hf_config, base, files = _opened(adapter.base_path())
        # As PEFT has it: how the base holds its matrices, and not the adapter's own flag, decides.
        adapter = replace(adapter, transposed=hf_config.get("model_type") == "gpt2")
        weights = SafetensorsSource(path, [path / PEFT_WEIGHTS])
        merged = LoraSource(adapter, weights, base)
        return hf_config, merged, [*files, path / PEFT_CONFIG, path / PEFT_WEIGHTS]
    try:
        hf_config = read_json(path / "config.json", inside=path)
    except FileNotFoundError as error:
        raise InputError(_no_config(path)) from error
    source = SafetensorsSource(path)
    return hf_config, source, [path / "config.json", *source.files]


def _name(spec: str | Path, path: Path) -> str:
    text = str(spec)
    if text.startswith(DEMO_PREFIX):
        return text.removeprefix(DEMO_PREFIX)
    if not is_path(spec):
        return text  # a hub id
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _no_config(folder: Path) -> str:
    remedy = "give a Hugging Face model folder"
    if ggufs := sorted(folder.glob("*.gguf")):
        remedy = f"give the file itself: {ggufs[0]}"
    return f"{folder}: this folder has no config.json; {remedy}"
