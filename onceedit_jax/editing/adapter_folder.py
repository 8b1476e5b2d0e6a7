"""Adapters on disk: one folder for each, beside `edit.json`, so that one comes without the rest."""

import dataclasses
import shutil
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from onceedit_jax.editing.artifact_folder import read_config, read_tokenizer, read_tree
from onceedit_jax.editing.artifact_info import (
    ADAPTERS,
    HEAD,
    MARK,
    EditEntry,
    EditInfo,
    read_info,
)
from onceedit_jax.editing.ledger import adapter_numbers, renumbered
from onceedit_jax.editing.relation_reading import own_subjects, subjects_of
from onceedit_jax.errors import InputError
from onceedit_jax.gates.relation_head import RelationHead
from onceedit_jax.gates.weight_token import init_gate
from onceedit_jax.models.adapters import joined
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.parameters import input_embeddings
from onceedit_jax.models.weights import LoadedModel, load_model
from onceedit_jax.storage.checkpoints import save_tree
from onceedit_jax.storage.schema import shown
from onceedit_jax.types import Params

Keys = Float[np.ndarray, "edits relation"]


def write_head(folder: Path, head: RelationHead) -> None:
    """Write the relation head of an artifact."""
    save_tree(folder / HEAD, head._asdict())


def read_head(folder: Path, info: EditInfo, *, verify: bool = True) -> RelationHead:
    """The relation head of an artifact."""
    tree = read_tree(folder, HEAD, info, verify=verify)
    return RelationHead(**jax.tree.map(jnp.asarray, tree))


def write_adapter(
    folder: Path, number: int, factors: Params, keys: Keys, entries: Sequence[EditEntry]
) -> None:
    """Write one adapter; it is complete when it appears.

    Args:
      folder: the artifact.
      number: of the adapter.
      factors: its factors, of one row.
      keys: the relation vectors of its edits.
      entries: these edits.
    """
    ids = np.array([entry.id for entry in entries], np.int32)
    (folder / ADAPTERS).mkdir(exist_ok=True)
    save_tree(_place(folder, number), {"factors": factors, "keys": np.asarray(keys), "ids": ids})


def read_adapters(
    folder: Path, info: EditInfo, *, verify: bool = True
) -> tuple[Params | None, Keys]:
    """The adapters of the edits that answer, in the order of their numbers, and the edits' keys.

    Args:
      folder: the artifact.
      info: what its `edit.json` says.
      verify: check the hashes of all files.

    Returns:
      Factors with the adapters in place of rows, None for no edits; and `[E, R]`.

    Raises:
      InputError: an adapter is not there, or does not hold an edit that the ledger says it has.
    """
    entries = info.live
    numbers = adapter_numbers(entries)
    trees: dict[int, Any] = {
        number: read_tree(folder, _name(number), info, verify=verify) for number in numbers
    }
    keys = []
    for entry in entries:
        tree = trees[entry.adapter]  # type: ignore[index]
        places = np.flatnonzero(np.asarray(tree["ids"]) == entry.id)
        if len(places) != 1:
            raise InputError(
                f"{_place(folder, entry.adapter or 0)}: does not hold edit {entry.id}, which "
                "edit.json says it has; the folder is damaged: edit again"
            )
        keys.append(np.asarray(tree["keys"])[places[0]])
    if not trees:
        return None, np.zeros(
            (0, read_head(folder, info, verify=verify).projection.shape[1]), np.float32
        )
    factors = joined([trees[number]["factors"] for number in numbers])
    return factors, np.stack(keys)


def remove_other_adapters(folder: Path, needed: Collection[int]) -> None:
    """Remove adapters that no edit needs, and what an interrupted write has left."""
    keep = {_place(folder, number).name for number in needed}
    for path in (folder / ADAPTERS).glob("*/"):
        if path.name not in keep:
            shutil.rmtree(path)


def _name(number: int) -> str:
    return f"{ADAPTERS}/{number:04d}"


def _place(folder: Path, number: int) -> Path:
    return folder / _name(number)


# Artifacts of one base share its parameters.
_loaded = lru_cache(maxsize=2)(load_model)


def base_model(
    folder: Path, info: EditInfo, base: str | Path | None = None, mesh: Mesh | None = None
) -> LoadedModel:
    """The model that an artifact of adapters was made for, which does not hold its weights.

    Args:
      folder: the artifact.
      info: what its `edit.json` says.
      base: the model (default: the one that was edited, where it was then).
      mesh: where its parameters shall lie.

    Raises:
      InputError: it is not there, or is another one.
    """
    spec = info.base.spec if base is None else str(base)
    holds = f"{folder}: holds adapters without the weights of {info.base.name}"
    if spec is None:
        raise InputError(f"{holds}, and does not say where these are; name the model (--base)")
    try:
        model = _loaded(spec, mesh=mesh)
    except InputError as error:
        raise InputError(
            f"{holds}, and these are not where they were ({error}); name the model (--base)"
        ) from error
    if model.content_hash != info.base.content_hash:
        raise InputError(
            f"{folder}: was made for {info.base.name} with hash {info.base.content_hash[:12]}; "
            f"{spec} has {model.content_hash[:12]}: name the model that was edited (--base)"
        )
    return model


def adapted_parts(
    folder: Path, info: EditInfo, base: str | Path | None, mesh: Mesh | None, *, verify: bool
) -> dict[str, Any]:
    """The fields of an edited plug-in whose edits are in adapters: those that answer."""
    info, adapters, keys = _read_consistently(folder, info, verify=verify)
    entries = info.live
    model = base_model(folder, info, base, mesh)
    entries = tuple(renumbered(entries))
    records = [entry.record() for entry in entries]
    return {
        "params": model.params,
        "gate": init_gate(model.config.hidden_size),
        "memory": {},
        "base_embeddings": input_embeddings(model.params),
        "config": _config_on(model, folder, info),
        "tokenizer": read_tokenizer(folder, info, verify=verify),
        "info": dataclasses.replace(info, edits=entries),
        "relation": {
            "head": read_head(folder, info, verify=verify),
            "keys": jnp.asarray(keys),
            "subjects": own_subjects(records, subjects_of(records)),
        },
        "adapters": adapters,
    }


def _config_on(model: LoadedModel, folder: Path, info: EditInfo) -> ModelConfig:
    """The artifact's configuration, which is that of its base but for the number of tokens.

    Raises:
      InputError: naming the key that differs.
    """
    config = read_config(folder, info)
    said, true = config.to_dict(), model.config.to_dict()
    for key in sorted(said.keys() - {"num_tokens"}):
        if said[key] != true[key]:
            raise InputError(
                f"{folder / MARK}, base.config.{key}: is {shown(said[key])}; expected "
                f"{shown(true[key])}, as {model.name} has it: restore the file, or edit again"
            )
    return config


def _read_consistently(
    folder: Path, info: EditInfo, *, verify: bool
) -> tuple[EditInfo, Params | None, Keys]:
    """The adapters and what the artifact says of itself, of one state of the folder.

    Readers take no lock. Where `compact` has removed an adapter meanwhile, the ledger has changed.
    """
    while True:
        try:
            return info, *read_adapters(folder, info, verify=verify)
        except InputError:
            changed = read_info(folder, verify=verify)
            if changed == info:
                raise
            info = changed
