"""One model of a pair, as its fusion rule sees it: tokenizer, embeddings, and relative tables.

Tables are cached on disk by the content they depend on: the unedited model, the anchors and the
settings. An edit never invalidates one.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from onceedit_jax.data.records import demo_path
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.hosts import all_agree
from onceedit_jax.distributed.mesh import spans_hosts, to_host
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble.target import Target
from onceedit_jax.errors import RunError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.models.parameters import input_embeddings
from onceedit_jax.relative.build import ModelTable, TransferHealth, build_table
from onceedit_jax.relative.options import Kind, Normalization
from onceedit_jax.relative.tables import ExactTable, TopKTable, held_mass, lookup_table
from onceedit_jax.relative.transfer import anchor_coverage, unit_embeddings
from onceedit_jax.storage.checksums import read_sealed, write_sealed
from onceedit_jax.storage.records import parse_record
from onceedit_jax.storage.sources import cache_folder
from onceedit_jax.text.tokenizer import Tokenizer

TABLE_FORMAT = 4  # raised when what a cached table holds changes
DISTRIBUTIONS = 500  # next-token distributions that a table is checked on
CHUNK = 50  # of these at once
OnBlock = Callable[[str, int, int], None]


@dataclasses.dataclass
class ModelSide:
    """One model of a pair; it satisfies `fusion.PairSide`.

    Attributes:
      name: for messages.
      content_hash: of the UNEDITED model, the key of its tables.
      embeddings: `[V, D]`, the unedited input embeddings.
      params: for real next-token distributions; those of an edited plug-in serve too.
      config: its configuration; it computes in float32, as what is measured with a table is cached.
      tokenizer: its tokenizer.
      on_block: called with (model name, blocks done, all blocks) while a table is built.
      health: of the last table that a rule has used; None if it has used none.
    """

    name: str
    content_hash: str
    embeddings: jax.Array
    params: Any
    config: ModelConfig
    tokenizer: Tokenizer
    on_block: OnBlock = lambda what, done, total: None
    health: TransferHealth | None = None

    @classmethod
    def of_plugin(
        cls, plugin: EditedPlugin, on_block: OnBlock = lambda what, done, total: None
    ) -> "ModelSide":
        """An edited plug-in."""
        return cls(
            plugin.name,
            plugin.base_hash,
            plugin.base_embeddings,
            plugin.params,
            plugin.config.with_compute_dtype("float32"),
            plugin.tokenizer,
            on_block,
        )

    @classmethod
    def of_model(
        cls, target: Target, on_block: OnBlock = lambda what, done, total: None
    ) -> "ModelSide":
        """A model as it was loaded."""
        model = target.model
        return cls(
            target.name,
            model.content_hash,
            input_embeddings(model.params),
            model.params,
            model.config.with_compute_dtype("float32"),
            target.tokenizer,
            on_block,
        )

    def relative_table(
        self, anchor_ids: ArrayLike, *, normalization: Normalization, kind: Kind
    ) -> ModelTable:
        """The model's table over some anchors, read from the cache folder or built and kept there.

        Args:
          anchor_ids: `[A]` int32 token ids.
          normalization: of the matrix.
          kind: how it is held.

        Raises:
          InputError: a cached table is damaged, or an anchor is not a row of the embeddings.
        """
        ids = np.asarray(anchor_ids, np.int32)
        path = self._table_file(ids, normalization, kind)
        # All hosts that a model lies on build its table together, or none of them does.
        if all_agree(spans_hosts(self.embeddings), path.exists()):
            table = _read_table(path, self, ids, normalization)
        else:
            table = self._build(ids, normalization, kind)
            _check_table(table, self.name)
            _write_table(path, table)
        self.health = table.health
        return table

    def _table_file(self, ids: Int[np.ndarray, "anchors"], *key: str) -> Path:
        normalization, kind = key
        parts = [
            TABLE_FORMAT,
            self.content_hash,
            str(self.embeddings.dtype),
            normalization,
            self.config.num_tokens,
            kind,
        ]
        digest = hashlib.sha256(json.dumps(parts).encode() + ids.tobytes()).hexdigest()
        return cache_folder() / "tables" / f"{digest}.safetensors"

    def _build(
        self, ids: Int[np.ndarray, "anchors"], normalization: Normalization, kind: Kind
    ) -> ModelTable:
        table, health = build_table(
            self.embeddings,
            jnp.asarray(ids),
            normalization=normalization,
            num_tokens=self.config.num_tokens,
            kind=kind,
            on_block=lambda done, total: self.on_block(self.name, done, total),
        )
        coverage, held = self.text_statistics(table, ids)
        health = dataclasses.replace(health, coverage=coverage, held_mass=held)
        return ModelTable(table, lookup_table(table), health)

    def text_statistics(
        self, table: Any, anchor_ids: Int[np.ndarray, "anchors"]
    ) -> tuple[float, float | None]:
        """What a table means for real text, over the package's reference texts.

        Returns:
          The share of the texts' tokens that are anchors. And the mass that a top-k table's entries
          hold of p R, p being the model's own next-token distributions; None for other tables.
        """
        tokens = np.concatenate([row[1:] for row in self.reference_rows])
        counts = np.bincount(tokens, minlength=self.config.vocab_size)
        coverage = anchor_coverage(counts, anchor_ids)
        if not isinstance(table, TopKTable):
            return coverage, None
        states = self.reference_states
        held = []
        for part in np.split(states, range(CHUNK, len(states), CHUNK)):
            probs = jax.nn.softmax(unembed(self.params, self.config, jnp.asarray(part)))
            held.append(to_host(held_mass(table, probs)))
        return coverage, float(np.mean(np.concatenate(held)))

    @cached_property
    def reference_rows(self) -> list[list[int]]:
        """The package's reference texts, in this model's tokens."""
        return [self.tokenizer.encode(text) for text in reference_texts()]

    @cached_property
    def reference_states(self) -> Float[np.ndarray, "texts hidden"]:
        """States after a seeded choice of these texts' beginnings, the same for all pairs."""
        prefixes = [row[:end] for row in self.reference_rows for end in range(1, len(row))]
        chosen = np.random.default_rng(0).permutation(len(prefixes))[:DISTRIBUTIONS]
        return states_after(self.params, self.config, [prefixes[i] for i in chosen])


def reference_texts() -> list[str]:
    """The package's texts that tables are checked on."""
    return list(json.loads(demo_path("reference_texts.json").read_text(encoding="utf-8")))


def _check_table(part: ModelTable, name: str) -> None:
    """Refuse a table of values that are not numbers: fusion would go on with them in silence."""
    leaves = jax.tree.leaves(part.table)
    numbers = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in numbers):
        raise RunError(
            f"{name}: its transfer table holds values that are not finite; the model's embeddings "
            "are too large or too small for float32: choose another model"
        )


def _write_table(path: Path, part: ModelTable) -> None:
    table = part.table
    if isinstance(table, TopKTable):
        arrays = table._asdict()
    elif isinstance(table, ExactTable):
        arrays = {"scale": table.scale, "log_normalizer": table.log_normalizer}
    else:  # a dense table of a real pair takes 9 GB: it costs less to build than to read back
        return
    hosted = {name: to_host(array) for name, array in {**arrays, "lookup": part.lookup}.items()}
    write_sealed(path, hosted, dataclasses.asdict(part.health))


def _read_table(
    path: Path, side: ModelSide, ids: Int[np.ndarray, "anchors"], normalization: Normalization
) -> ModelTable:
    read, about = read_sealed(path, remedy="delete it, it is built again")
    health = parse_record(TransferHealth, about, str(path))
    arrays = {name: jnp.asarray(array) for name, array in read.items()}
    lookup = arrays.pop("lookup")
    if "scale" in arrays:
        unit = unit_embeddings(
            side.embeddings, normalization=normalization, num_tokens=side.config.num_tokens
        )
        return ModelTable(ExactTable(unit, unit[ids], **arrays), lookup, health)
    return ModelTable(TopKTable(**arrays), lookup, health)
