"""From a trained adapter to an artifact: the gate's keys, the ledger, its record of the edit."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import EditRecord, contradicting
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import (
    EditEntry,
    EditInfo,
    EditMetrics,
    EditorInfo,
    Operation,
    RelationInfo,
    RuleInfo,
    UnrelatedInfo,
    now,
)
from onceedit_jax.editing.augmentation import TrainingTexts
from onceedit_jax.editing.editor import EditorResult
from onceedit_jax.editing.finalize import RULE, base_info
from onceedit_jax.editing.ledger import adapter_numbers, next_id, renumbered
from onceedit_jax.editing.relation_heads import LearntHead
from onceedit_jax.editing.relation_reading import own_parts, own_subjects, subjects_of
from onceedit_jax.editing.settings import fingerprint
from onceedit_jax.gates.fact import THRESHOLD, TRUST
from onceedit_jax.gates.relation_head import host_vectors
from onceedit_jax.gates.weight_token import init_gate
from onceedit_jax.models.adapters import joined, number_of_adapters
from onceedit_jax.models.parameters import input_embeddings
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.storage.versions import versions
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params


class _Earlier(NamedTuple):
    """What a plug-in that is continued brings.

    Attributes:
      entries: its edits that stay.
      keys: their relation vectors.
      adapters: the adapters of these edits; None for none.
      trained_texts: digests of the texts that it was trained on.
      next_id: the first id that none of its edits has.
    """

    entries: tuple[EditEntry, ...] = ()
    keys: Float[Array, "edits relation"] | None = None
    adapters: Params | None = None
    trained_texts: tuple[str, ...] = ()
    next_id: int = 1

    @classmethod
    def of(cls, start: EditedPlugin | None, kept: Sequence[int]) -> "_Earlier":
        if start is None or start.relation is None:
            return cls()
        texts, first = start.info.trained_texts, next_id(start.info.edits)
        if not kept:
            return cls(trained_texts=texts, next_id=first)
        entries = [start.info.edits[i] for i in kept]
        rows = adapter_numbers(entries)
        return cls(
            tuple(renumbered(entries)),
            jnp.asarray(start.relation["keys"])[jnp.asarray(kept, jnp.int32)],
            jax.tree.map(lambda leaf: leaf[jnp.asarray(rows)], start.adapters),
            texts,
            first,
        )


def finalize_adapter(
    model: LoadedModel,
    tokenizer: Tokenizer,
    result: EditorResult,
    records: Sequence[EditRecord],
    texts: TrainingTexts,
    *,
    spent: float,
    editor: EditorInfo,
    recorded: dict[str, Any],
    head: LearntHead,
    start: EditedPlugin | None = None,
    kept: Sequence[int] = (),
) -> EditedPlugin:
    """Make an edited plug-in of an adapter, beside the adapters and edits of an earlier one.

    Nothing is fitted or calibrated: the gate `fact` reads the unedited model.

    Args:
      model: the base plug-in.
      tokenizer: its tokenizer.
      result: the adapter that was trained.
      records: the edits that it holds.
      texts: what was trained on.
      spent: seconds of editing so far.
      editor: the editing method.
      recorded: settings of the editing stage, as `edit.json` records them.
      head: the base model's relation head.
      start: the plug-in that is continued.
      kept: places of its edits that stay.

    Returns:
      The edited plug-in, not yet saved: the new edits first, then those that stay.
    """
    begun, earlier = time.monotonic(), _Earlier.of(start, kept)
    read = head.reader(model, tokenizer).read(own_parts(records))
    keys = jnp.asarray(host_vectors(head.head, read))
    adapters = joined([part for part in (earlier.adapters, result.adapters) if part])
    row, time_now = number_of_adapters(adapters) - 1, now()
    new = [
        EditEntry.of(record, id=earlier.next_id + i, added=time_now, adapter=row)
        for i, record in enumerate(records)
    ]
    entries = (*new, *earlier.entries)
    every = [entry.record(i) for i, entry in enumerate(entries)]
    seconds = spent + time.monotonic() - begun
    info = EditInfo(
        base=base_info(model),
        edits=entries,
        edited_before=len(earlier.entries),
        contradicting=len(contradicting(every)),
        unrelated=UnrelatedInfo(0, len(texts.held_back), fingerprint([], texts.held_back)),
        trained_texts=tuple(sorted({*earlier.trained_texts, *map(digest, texts.all())})),
        editor=editor,
        settings=recorded,
        rule=RuleInfo(RULE, {"fact": THRESHOLD}, {"fact": TRUST}, 0.0, 0.0),
        metrics=_metrics(result, seconds),
        history=tuple(dict(entry) for entry in result.history),
        versions=versions(),
        relation=RelationInfo(head.layers, head.learnt),
        operations=(Operation.just_done("edit", [e.id for e in new], seconds),),
        in_adapters=True,
    )
    relation = {
        "head": head.head,
        "keys": keys if earlier.keys is None else jnp.concatenate([keys, earlier.keys]),
        "subjects": own_subjects(every, subjects_of(every)),
    }
    return EditedPlugin(
        result.params,
        init_gate(model.config.hidden_size),
        {},
        input_embeddings(result.params),
        model.config,
        tokenizer,
        info,
        relation,
        adapters,
    )


def _metrics(result: EditorResult, seconds: float) -> EditMetrics:
    """What the edit reached on its own rows; it has no gate to measure."""
    last = result.history[-1] if result.history else {}
    return EditMetrics(
        epochs=len(result.history),
        seconds=seconds,
        loss=last.get("loss"),
        reliability=last.get("reliability"),
        gate_accuracy=None,
        alpha_edits={},
        alpha_held_back={},
        reach_held_back={},
    )
