"""Reliability, generality, locality and portability of a target that was edited by itself."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editors.layers import Rows
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.ensemble.target import Target
from onceedit_jax.evaluation.metrics import record_means, scores, token_accuracy
from onceedit_jax.evaluation.protocol import METRICS, questions
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, hidden_states, unembed

States = Callable[[Rows], jax.Array]  # rows to states [B, T, D] after the final norm

BATCH = 8  # bounds the [BATCH, A, V] logits


def states_of(params: Params, config: ModelConfig) -> States:
    """How a model reads rows whose edits are in its parameters."""
    return lambda rows: _states(params, config, rows)


def score(
    target: Target, records: Sequence[EditRecord], params: Params, states: States
) -> dict[str, Any]:
    """Teacher-forced scores before and after an edit, by `evaluation.protocol`'s definitions.

    Locality compares the target with itself before, over the tokens of the gold answer.

    Args:
      target: the target, not edited.
      records: the edits with their questions.
      params: the edited target's, for its vocabulary head.
      states: how the edited target reads.

    Returns:
      `{"target", "mode", "before", "after"}`, as `evaluation.protocol.evaluate` gives them.
    """
    asked, config = questions(records), target.model.config
    batches = target_rows([q.pair for q in asked], target.tokenizer, batch_size=BATCH)
    unedited = states_of(target.model.params, config)
    before = _said(batches, target.model.params, config, unedited)
    after = _said(batches, params, config, states)
    gold = np.concatenate([np.asarray(rows.targets) for rows in batches])
    found: dict[str, Any] = {"target": target.name, "mode": "teacher-forced"}
    for when, said in (("before", before), ("after", after)):
        means = {}
        for metric in METRICS:
            chosen = [i for i, q in enumerate(asked) if q.metric == metric]
            wanted = before if metric == "loc" else gold
            shares = token_accuracy(said[chosen], wanted[chosen], gold[chosen] >= 0)
            owners = [asked[i].record for i in chosen]
            means[metric] = record_means(shares, owners, len(records))
        found[when] = scores(*(means[metric] for metric in METRICS)).as_dict()
    return found


def _said(
    batches: Sequence[Rows], params: Params, config: ModelConfig, states: States
) -> NDArray[np.int32]:
    """The most likely token before each of the answers' tokens, [B of all batches, A]."""
    return np.concatenate([_most_likely(params, config, states(rows), rows) for rows in batches])


@partial(jax.jit, static_argnames="config")
def _states(params: Params, config: ModelConfig, rows: Rows) -> jax.Array:
    return hidden_states(params, config, rows.tokens, rows.positions)[0]


@partial(jax.jit, static_argnames="config")
def _most_likely(params: Params, config: ModelConfig, states: jax.Array, rows: Rows) -> jax.Array:
    read = jnp.take_along_axis(states, rows.columns[:, :, None], axis=1)
    return most_likely(unembed(params, config, read))
