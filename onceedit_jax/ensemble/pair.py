"""What a plug-in and one target need of each other: anchors, transfer tables, the token map.

Tables are kept in the cache folder by the content they depend on: the unedited plug-in, the target,
the anchors and the settings. An edit never invalidates one.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.errors import InputError
from onceedit_jax.fusion import FusionSettings, Transfer
from onceedit_jax.models.decoder import input_embeddings
from onceedit_jax.models.sources import cache_folder
from onceedit_jax.models.weights import LoadedModel, load_model
from onceedit_jax.text.anchors import Anchors, anchors
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer
from onceedit_jax.transfer import (
    ExactTable,
    Kind,
    Normalization,
    TopKTable,
    TransferHealth,
    build_table,
    lookup_table,
    unit_embeddings,
)

TABLE_FORMAT = 1  # raised when what a cached table holds changes
OnBlock = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Target:
    """A target LLM with its tokenizer."""

    model: LoadedModel
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name


def load_target(spec: str | Path, *, dtype: str = "float32") -> Target:
    """Load a target LLM: a folder, a hub id, a .gguf file or `demo:NAME`."""
    tokenizer = load_tokenizer(spec)
    model = load_model(spec, dtype=dtype, num_tokens=len(tokenizer.vocabulary))
    return Target(model, tokenizer)


@dataclasses.dataclass(frozen=True)
class TablePart:
    """One model's table against a pair's anchors, and its health."""

    table: Any
    lookup: jax.Array
    health: TransferHealth


def pair_anchors(plugin: Tokenizer, target: Tokenizer) -> Anchors:
    """Anchors by the `bytes` rule, and the two end-of-answer tokens as one more.

    The end token is special in both vocabularies, so that no rule on text can match it; without
    it a fusion in the relative space could never stop.
    """
    shared = anchors(plugin.vocabulary, target.vocabulary, rule="bytes")
    ids_a = np.append(shared.ids_a, plugin.end_id).astype(np.int32)
    ids_b = np.append(shared.ids_b, target.end_id).astype(np.int32)
    return Anchors(ids_a, ids_b)


def build_transfer(
    plugin: EditedPlugin,
    target: Target,
    settings: FusionSettings,
    *,
    kind: Kind = "topk",
    on_block: OnBlock = lambda what, done, total: None,
) -> tuple[Transfer, tuple[TransferHealth, TransferHealth] | None]:
    """Everything `fusion_rule(settings)` needs of this pair, from the cache where it is there.

    Args:
      plugin: the edited plug-in; its UNEDITED embeddings make R_s.
      target: the target LLM.
      settings: the fusion rule.
      kind: of the relative tables.
      on_block: told (model name, blocks done, blocks in all) while a table is built.

    Returns:
      The transfer, and the health of both tables where the rule uses tables.
    """
    if settings.proposal == "vocabulary":
        ids = Bridge(plugin.tokenizer, target.tokenizer).first_tokens()
        return Transfer(vocabulary_ids=jnp.asarray(ids)), None
    shared = pair_anchors(plugin.tokenizer, target.tokenizer)
    sides = [
        (plugin.name, plugin.base_hash, plugin.base_embeddings, plugin.config, shared.ids_a),
        (
            target.name,
            target.model.content_hash,
            input_embeddings(target.model.params),
            target.model.config,
            shared.ids_b,
        ),
    ]
    parts = [
        cached_table(
            content_hash,
            embeddings,
            ids,
            normalization=settings.normalization,
            num_tokens=config.num_tokens,
            kind=kind,
            on_block=lambda done, total, name=name: on_block(name, done, total),
        )
        for name, content_hash, embeddings, config, ids in sides
    ]
    transfer = Transfer(parts[0].table, parts[1].table, parts[1].lookup)
    return transfer, (parts[0].health, parts[1].health)


def cached_table(
    content_hash: str,
    embeddings: jax.Array,
    anchor_ids: Any,
    *,
    normalization: Normalization,
    num_tokens: int,
    kind: Kind,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> TablePart:
    """A model's table for these anchors, read from the cache folder or built and kept there."""
    ids = np.asarray(anchor_ids, np.int32)
    key = hashlib.sha256(
        json.dumps([TABLE_FORMAT, content_hash, normalization, num_tokens, kind]).encode()
        + ids.tobytes()
    ).hexdigest()
    path = cache_folder() / "tables" / f"{key}.safetensors"
    if path.exists():
        return _read(path, embeddings, ids, normalization, num_tokens)
    table, health = build_table(
        embeddings,
        ids,
        normalization=normalization,
        num_tokens=num_tokens,
        kind=kind,
        on_block=on_block,
    )
    part = TablePart(table, lookup_table(table), health)
    # A dense table is 9 GB for a real pair: it costs less to build than to read back.
    if not isinstance(table, TopKTable | ExactTable):
        return part
    kept = dataclasses.asdict(table) if isinstance(table, TopKTable) else _without_units(table)
    arrays = {name: np.asarray(array) for name, array in {**kept, "lookup": part.lookup}.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    save_file(arrays, fresh, metadata={"health": json.dumps(dataclasses.asdict(health))})
    fresh.replace(path)
    return part


def _without_units(table: ExactTable) -> dict[str, jax.Array]:
    return {"scale": table.scale, "log_normalizer": table.log_normalizer}


def _read(
    path: Path,
    embeddings: jax.Array,
    ids: np.ndarray,
    normalization: Normalization,
    num_tokens: int,
) -> TablePart:
    try:
        with safe_open(path, framework="numpy") as file:
            health = TransferHealth(**json.loads(file.metadata()["health"]))
            arrays = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(
            f"{path}: this cached table cannot be read ({error}); delete it, it is built again"
        ) from error
    lookup = arrays.pop("lookup")
    if "scale" in arrays:
        unit = unit_embeddings(embeddings, normalization=normalization, num_tokens=num_tokens)
        return TablePart(ExactTable(unit, unit[ids], **arrays), lookup, health)
    return TablePart(TopKTable(**arrays), lookup, health)
