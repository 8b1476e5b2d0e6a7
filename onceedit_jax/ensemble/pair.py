"""What a plug-in and one target need of each other: anchors, transfer tables, the token map.

Tables are kept in the cache folder by the content they depend on: the unedited plug-in, the target,
the anchors and the settings. An edit never invalidates one.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from onceedit_jax.data.records import demo_path
from onceedit_jax.decoding.fused import Spelling
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.hosts import all_agree
from onceedit_jax.distributed.mesh import spans_hosts, to_host
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.rules import FusionSettings, Transfer
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import input_embeddings, unembed
from onceedit_jax.models.weights import LoadedModel, load_model
from onceedit_jax.relative.build import Kind, TransferHealth, build_table
from onceedit_jax.relative.tables import ExactTable, TopKTable, held_mass, lookup_table
from onceedit_jax.relative.transfer import Normalization, anchor_coverage, unit_embeddings
from onceedit_jax.storage.sources import cache_folder
from onceedit_jax.text.anchors import Anchors, anchors
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

TABLE_FORMAT = 3  # raised when what a cached table holds changes
LEAST_HELD = 0.9
MOST_PIECES = 4  # plug-in tokens that a target token is spelled with inside a compiled loop
DISTRIBUTIONS = 500  # next-token distributions that a table is checked on
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


def load_target(spec: str | Path, *, dtype: str = "float32", mesh: Mesh | None = None) -> Target:
    """Load a target LLM: a folder, a hub id, a .gguf file or `demo:NAME`.

    Args:
      spec: which.
      dtype: of its weights, as for `load_model`.
      mesh: where they shall lie.
    """
    tokenizer = load_tokenizer(spec)
    model = load_model(spec, dtype=dtype, num_tokens=len(tokenizer.vocabulary), mesh=mesh)
    return Target(model, tokenizer)


def told_apart(targets: Sequence[Target]) -> list[Target]:
    """Targets whose names differ: folders of one name are called by the folder above as well.

    Raises:
      InputError: two targets are the same.
    """
    counts, named = Counter(target.name for target in targets), []
    for target in targets:
        model = target.model
        if counts[target.name] > 1:
            model = dataclasses.replace(model, name=f"{model.source.parent.name}/{model.name}")
        named.append(dataclasses.replace(target, model=model))
    for name, count in Counter(target.name for target in named).items():
        if count > 1:
            raise InputError(f"{count} targets are called {name}: give each once")
    return named


@dataclasses.dataclass(frozen=True)
class Side:
    """One model of a pair, as its table sees it.

    Attributes:
      name: for messages.
      content_hash: of the UNEDITED model, the table's key.
      embeddings: `[V, D]`, the unedited input embeddings.
      params: for real next-token distributions; an edited plug-in's will do.
      config: its configuration.
      tokenizer: its tokenizer.
    """

    name: str
    content_hash: str
    embeddings: jax.Array
    params: Any
    config: ModelConfig
    tokenizer: Tokenizer

    @classmethod
    def of_plugin(cls, plugin: EditedPlugin) -> "Side":
        """An edited plug-in."""
        return cls(
            plugin.name,
            plugin.base_hash,
            plugin.base_embeddings,
            plugin.params,
            plugin.config,
            plugin.tokenizer,
        )

    @classmethod
    def of_model(cls, target: Target) -> "Side":
        """A model as it was loaded."""
        model = target.model
        return cls(
            target.name,
            model.content_hash,
            input_embeddings(model.params),
            model.params,
            model.config,
            target.tokenizer,
        )

    @cached_property
    def reference_rows(self) -> list[list[int]]:
        """The package's reference texts, in this model's tokens."""
        return [self.tokenizer.encode(text) for text in reference_texts()]

    @cached_property
    def reference_states(self) -> NDArray[np.float32]:
        """States after a seeded choice of these texts' beginnings, the same for all pairs."""
        prefixes = [row[:end] for row in self.reference_rows for end in range(1, len(row))]
        chosen = np.random.default_rng(0).permutation(len(prefixes))[:DISTRIBUTIONS]
        return states_after(self.params, self.config, [prefixes[i] for i in chosen])


@dataclasses.dataclass(frozen=True)
class TablePart:
    """One model's table against a pair's anchors, and its health."""

    table: Any
    lookup: jax.Array
    health: TransferHealth


def reference_texts() -> list[str]:
    """The package's texts that tables are checked on."""
    return list(json.loads(demo_path("reference_texts.json").read_text(encoding="utf-8")))


def pair_anchors(plugin: Tokenizer, target: Tokenizer) -> Anchors:
    """Anchors by the `bytes` rule, and the two end-of-answer tokens as one more.

    The end token is special in both vocabularies, so that no rule on text can match it; without
    it a fusion in the relative space could never stop.
    """
    shared = anchors(plugin.vocabulary, target.vocabulary, rule="bytes")
    taken = (shared.ids_a == plugin.end_id) | (shared.ids_b == target.end_id)
    ids_a = np.append(shared.ids_a[~taken], plugin.end_id).astype(np.int32)
    ids_b = np.append(shared.ids_b[~taken], target.end_id).astype(np.int32)
    order = np.argsort(ids_a)
    return Anchors(ids_a[order], ids_b[order])


def pair_spelling(plugin: Tokenizer, target: Tokenizer, vocab_size: int) -> Spelling:
    """The target's tokens as the plug-in spells them; rows that pad its vocabulary have none."""
    tokens, counts = Bridge(target, plugin).spellings(MOST_PIECES)
    padding = vocab_size - len(counts)
    return Spelling(jnp.pad(tokens, ((0, padding), (0, 0))), jnp.pad(counts, (0, padding)))


def build_transfer(
    plugin: Side,
    target: Side,
    settings: FusionSettings,
    *,
    kind: Kind = "topk",
    shared: Anchors | None = None,
    allow_lossy: bool = False,
    on_block: OnBlock = lambda what, done, total: None,
) -> tuple[Transfer, tuple[TransferHealth, TransferHealth] | None]:
    """Everything `fusion_rule(settings)` needs of this pair, from the cache where it is there.

    Args:
      plugin: the plug-in.
      target: the target LLM.
      settings: the fusion rule.
      kind: of the relative tables.
      shared: the pair's anchors (default: `pair_anchors`).
      allow_lossy: take top-k tables that hold too little of p R.
      on_block: told (model name, blocks done, blocks in all) while a table is built.

    Returns:
      The transfer, and the health of both tables where the rule uses tables.

    Raises:
      InputError: if a top-k table holds under .9 of p R over real next-token distributions.
    """
    if settings.proposal == "draft":
        return Transfer(), None
    if settings.proposal == "vocabulary":
        ids = Bridge(plugin.tokenizer, target.tokenizer).first_tokens()
        padding = plugin.config.vocab_size - len(ids)
        return Transfer(vocabulary_ids=jnp.pad(ids, (0, padding), constant_values=-1)), None
    if shared is None:
        shared = pair_anchors(plugin.tokenizer, target.tokenizer)
    parts = [
        cached_table(side, ids, normalization=settings.normalization, kind=kind, on_block=on_block)
        for side, ids in ((plugin, shared.ids_a), (target, shared.ids_b))
    ]
    for side, part in zip((plugin, target), parts, strict=True):
        held = part.health.held_mass
        if held is not None and held < LEAST_HELD and not allow_lossy:
            raise InputError(
                f"the top-k table of {side.name} holds {held:.2f} of p R over real text, under "
                f"{LEAST_HELD}; use normalization=centered, or --table exact, or --table dense "
                "where the matrix fits in memory"
            )
    transfer = Transfer(parts[0].table, parts[1].table, parts[1].lookup)
    return transfer, (parts[0].health, parts[1].health)


def cached_table(
    side: Side,
    anchor_ids: Any,
    *,
    normalization: Normalization,
    kind: Kind,
    on_block: OnBlock = lambda what, done, total: None,
) -> TablePart:
    """A model's table for these anchors, read from the cache folder or built and kept there."""
    ids = np.asarray(anchor_ids, np.int32)
    num_tokens, dtype = side.config.num_tokens, side.embeddings.dtype
    key = hashlib.sha256(
        json.dumps(
            [TABLE_FORMAT, side.content_hash, str(dtype), normalization, num_tokens, kind]
        ).encode()
        + ids.tobytes()
    ).hexdigest()
    path = cache_folder() / "tables" / f"{key}.safetensors"
    # All hosts that a model lies on build its table together, or none of them does.
    if all_agree(spans_hosts(side.embeddings), path.exists()):
        return _read(path, side, ids, normalization)
    table, health = build_table(
        side.embeddings,
        jnp.asarray(ids),
        normalization=normalization,
        num_tokens=num_tokens,
        kind=kind,
        on_block=lambda done, total: on_block(side.name, done, total),
    )
    coverage, held = text_statistics(side, table, ids)
    health = dataclasses.replace(health, coverage=coverage, held_mass=held)
    part = TablePart(table, lookup_table(table), health)
    if isinstance(table, TopKTable):
        kept = {name: getattr(table, name) for name in TopKTable.__dataclass_fields__}
    elif isinstance(table, ExactTable):
        kept = {"scale": table.scale, "log_normalizer": table.log_normalizer}
    else:  # a dense table of a real pair takes 9 GB: it costs less to build than to read back
        return part
    arrays = {name: to_host(array) for name, array in {**kept, "lookup": part.lookup}.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hosts may share the folder, and processes of one host do.
    fresh = path.with_suffix(f".{jax.process_index()}-{os.getpid()}.partial")
    save_file(arrays, fresh, metadata={"health": json.dumps(dataclasses.asdict(part.health))})
    fresh.replace(path)
    return part


def text_statistics(side: Side, table: Any, anchor_ids: Any) -> tuple[float, float | None]:
    """What a table means for real text: its anchors' coverage, and the mass a top-k table holds.

    Over the package's reference texts: the share of their tokens that are anchors, and the mass
    that the table's kept entries hold of p R, p being the model's own next-token distributions.
    """
    counts = np.bincount(
        np.concatenate([row[1:] for row in side.reference_rows]), minlength=side.config.vocab_size
    )
    coverage = anchor_coverage(counts, anchor_ids)
    if not isinstance(table, TopKTable):
        return coverage, None
    states = side.reference_states
    held = [
        to_host(
            held_mass(table, jax.nn.softmax(unembed(side.params, side.config, jnp.asarray(part))))
        )
        for part in np.split(states, range(50, len(states), 50))
    ]
    return coverage, float(np.mean(np.concatenate(held)))


def _read(path: Path, side: Side, ids: np.ndarray, normalization: Normalization) -> TablePart:
    try:
        with safe_open(path, framework="numpy") as file:
            health = TransferHealth(**json.loads(file.metadata()["health"]))
            arrays = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: this cached table cannot be read ({error}); delete it, it is built again"
        ) from error
    lookup = arrays.pop("lookup")
    if "scale" in arrays:
        unit = unit_embeddings(
            side.embeddings, normalization=normalization, num_tokens=side.config.num_tokens
        )
        return TablePart(ExactTable(unit, unit[ids], **arrays), lookup, health)
    return TablePart(TopKTable(**arrays), lookup, health)
