"""The folders of an artifact: its arrays and its tokenizer, checked against `edit.json`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, SingleDeviceSharding

from onceedit_jax.distributed.mesh import sharding
from onceedit_jax.editing.artifact_info import MARK, PARAMS, TOKENIZER, EditInfo
from onceedit_jax.errors import InputError
from onceedit_jax.gates.relation_head import RelationHead
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import FAMILIES
from onceedit_jax.models.finite import check_finite_tree, same_shapes
from onceedit_jax.models.parameters import input_embeddings, param_shapes
from onceedit_jax.models.sharding import param_shardings
from onceedit_jax.storage.checkpoints import load_tree
from onceedit_jax.storage.checksums import check_sums
from onceedit_jax.storage.schema import shown
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

_ARRAYS = ("params", "gate", "memory", "base_embeddings")


def read_tree(
    folder: Path,
    name: str,
    info: EditInfo,
    lay: Callable[[Any], Any] | None = None,
    *,
    verify: bool = True,
) -> Any:
    """The arrays in one of an artifact's folders, all of them finite; see `load_tree`."""
    tree = load_tree(folder / name, lay, verify=verify, digest=info.checksums.get(name))
    check_finite_tree(tree, folder / name)
    return tree


def read_tokenizer(folder: Path, info: EditInfo, *, verify: bool = True) -> Tokenizer:
    """The tokenizer of an artifact, the very one that it was written with."""
    place, digest = folder / TOKENIZER, info.checksums.get(TOKENIZER)
    if verify and digest:
        check_sums(place, digest, remedy="restore the artifact, or edit again")
    return load_tokenizer(place, rows=info.base.config["vocab_size"])


def read_config(folder: Path, info: EditInfo) -> ModelConfig:
    """The configuration of an artifact's model.

    Raises:
      InputError: naming the file and the key.
    """
    try:
        config = ModelConfig.from_dict(info.base.config)
    except InputError as error:
        raise InputError(f"{folder / MARK}, base.config: {error}") from error
    if config.family not in FAMILIES:
        raise InputError(
            f"{folder / MARK}, base.config.family: is {shown(config.family)}; expected one of "
            f"{', '.join(FAMILIES)}: restore the file, or edit again"
        )
    return config


def weight_parts(
    folder: Path, info: EditInfo, mesh: Mesh | None, *, verify: bool
) -> dict[str, Any]:
    """The fields of an edited plug-in whose edits are in its weights.

    Raises:
      InputError: the folder is damaged, or its arrays are not those that `edit.json` describes.
    """
    config = read_config(folder, info)
    tree = read_tree(folder, PARAMS, info, partial(_layout, mesh), verify=verify)
    for name in _ARRAYS:
        if name not in tree:
            raise InputError(f"{folder / PARAMS}: holds no {name}; it is damaged: edit again")
    same_shapes(tree["params"], param_shapes(config), folder / PARAMS)
    if "relation" in tree:
        tree["relation"]["head"] = RelationHead(**tree["relation"]["head"])
    found, expected = input_embeddings(tree["params"]).shape, tree["base_embeddings"].shape
    if found != expected:
        raise InputError(
            f"{folder}: the embedding is {found}, edit.json and base say {expected}; edit again"
        )
    tokenizer = read_tokenizer(folder, info, verify=verify)
    return {**tree, "config": config, "tokenizer": tokenizer, "info": info}


def _layout(mesh: Mesh | None, shapes: dict[str, Any]) -> dict[str, Any]:
    """Where an artifact's arrays lie: parameters by their axes, the rest whole on every device."""
    everywhere = (
        SingleDeviceSharding(jax.local_devices()[0]) if mesh is None else sharding(mesh, ())
    )
    places: dict[str, Any] = jax.tree.map(lambda _: everywhere, shapes)
    if mesh is not None:
        places["params"] = param_shardings(mesh, shapes["params"])
    return places
