"""Reads prompts with an edited plug-in, as far as a gate needs it."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from onceedit_jax.data.records import EditRecord
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.editing.relation_reading import RelationReader, own_parts, own_subjects
from onceedit_jax.gates.fitting import Verdicts, score_prompts
from onceedit_jax.gates.types import EDIT, NOTHING, UNLABELLED, UNRELATED, Gate, GateFeatures
from onceedit_jax.gates.weight_token import gate_logit
from onceedit_jax.gates.words import edit_keys, word_ids
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptReader:
    """What reads prompts for a gate.

    Attributes:
      params: the edited plug-in's parameters.
      kernel: [WEIGHT]'s output row, `{"kernel": [D]}`.
      config: the plug-in's configuration.
      tokenizer: the plug-in's tokenizer.
      relations: reads what a prompt asks of an edit's subject; None for a plug-in without a
        relation head.
      max_tokens: longer prompts are cut there (default: not at all).
    """

    params: Any
    kernel: Any
    config: ModelConfig
    tokenizer: Tokenizer
    relations: RelationReader | None = None
    max_tokens: int | None = None

    def verdicts(self, gate: Gate, state: Any, prompts: Sequence[str]) -> Verdicts:
        """What a gate says of N prompts; models read only those that may open it."""
        if not prompts:
            return Verdicts(np.zeros(0, np.float32), np.zeros(0, np.int32))
        cheap = self.words(gate.reads, prompts)

        def read(chosen: np.ndarray) -> GateFeatures:
            return self.features(gate.reads, [prompts[i] for i in chosen.tolist()])

        return score_prompts(gate, state, cheap, read)

    def words(self, reads: Collection[str], prompts: Sequence[str]) -> GateFeatures:
        """The features that cost no model: words, and the subjects if relations are read."""
        features = GateFeatures(word_ids(prompts))
        if "relation" in reads:
            assert self.relations is not None
            subjects, qualifiers = self.relations.named(prompts)
            features = features._replace(subjects=subjects, qualifiers=qualifiers)
        return features

    def features(self, reads: Collection[str], prompts: Sequence[str]) -> GateFeatures:
        """All that `reads` names."""
        features = self.words(reads, prompts)
        if "relation" in reads:
            assert self.relations is not None
            features = features._replace(relation=self.relations.asked(prompts))
        if {"weight_logit", "hidden"} & set(reads):
            logits, hidden = self._last_states(prompts)
            features = features._replace(weight_logit=logits, hidden=hidden)
        return features

    def _last_states(
        self, prompts: Sequence[str]
    ) -> tuple[Float[np.ndarray, "batch"], Float[np.ndarray, "batch hidden"]]:
        """logit_w `[N]` and the final hidden states `[N, D]` at the last tokens, float32."""
        encoded = [self.tokenizer.encode(prompt)[: self.max_tokens] for prompt in prompts]
        # A gate's thresholds hold for states in float32.
        hidden = states_after(self.params, self.config.with_compute_dtype("float32"), encoded)
        return to_host(gate_logit(self.kernel, jnp.asarray(hidden))), hidden


def gate_rows(
    reads: Collection[str],
    records: Sequence[EditRecord],
    reader: PromptReader,
    *,
    trained: Sequence[str] = (),
    held_back: Sequence[str] = (),
    ungated: Collection[int] = (),
) -> tuple[GateFeatures, Int[np.ndarray, "batch"]]:
    """The rows that a gate is fitted on: edits, unrelated texts, and texts that were held back.

    Args:
      reads: features that the gate reads beside words; models are run only for these.
      records: the edits.
      reader: reads them.
      trained: unrelated texts that were trained on.
      held_back: unrelated texts that were not.
      ungated: positions of edits that the gate is not told of: they are `UNLABELLED`.

    Returns:
      Features of N rows, and their labels `[N]` int32. Rows that were trained on carry zeros where
      a model would have to read them, since no threshold is calibrated on them.
    """
    texts = [*(record.prompt for record in records), *trained, *held_back]
    labels = np.full(len(texts), UNRELATED, np.int32)
    labels[: len(records)] = EDIT
    labels[sorted(ungated)] = UNLABELLED
    held_out = np.zeros(len(texts), bool)
    held_out[len(records) + len(trained) :] = True
    own = edit_keys(records)
    keys = np.full((len(texts), own.shape[1]), NOTHING, np.int32)
    keys[: len(records)] = own
    features = reader.words(reads, texts)
    if reads and texts:
        read = np.flatnonzero((labels == EDIT) | held_out)
        some = reader.features(reads, [texts[i] for i in read.tolist()])
        features = features._replace(
            weight_logit=_spread(some.weight_logit, read, len(texts)),
            hidden=_spread(some.hidden, read, len(texts)),
            relation=_spread(some.relation, read, len(texts)),
        )
    if "relation" in reads:
        features = _with_own_subjects(features, records, reader)
    return features._replace(keys=keys, held_out=held_out), labels


def _with_own_subjects(
    features: GateFeatures, records: Sequence[EditRecord], reader: PromptReader
) -> GateFeatures:
    """The features of edits as if each prompt named its own subject alone."""
    assert reader.relations is not None and records
    subjects, relation = np.array(features.subjects), np.array(features.relation)
    edits = len(records)
    subjects[:edits], relation[:edits] = NOTHING, 0
    subjects[:edits, 0] = own_subjects(records, reader.relations.subjects)
    relation[:edits, 0] = reader.relations.read(own_parts(records))
    return features._replace(subjects=subjects, relation=relation)


def _spread(rows: Any, places: Int[np.ndarray, "rows"], count: int) -> Any:
    """Rows at their places among `count` rows of zeros; None for None."""
    if rows is None:
        return None
    spread = np.zeros((count, *np.shape(rows)[1:]), np.float32)
    spread[places] = rows
    return spread
