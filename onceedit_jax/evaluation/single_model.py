"""Reliability, generality, locality and portability of a target that was edited by itself."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.editor import EditorResult, Read
from onceedit_jax.editors.layers import Rows
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.ensemble.target import Target
from onceedit_jax.evaluation.asked import average, per_question, questions, with_accepted
from onceedit_jax.evaluation.metrics import token_accuracy
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.types import Params

States = Callable[[Rows], jax.Array]  # from rows to states [B, T, D] after the final norm

BATCH = 8  # bounds the [BATCH, A, V] logits


def score(
    target: Target,
    records: Sequence[EditRecord],
    result: EditorResult,
    *,
    read: Read | None = None,
) -> dict[str, Any]:
    """Teacher-forced scores before and after an edit, by the definitions of `evaluation.protocol`.

    Locality compares the target with itself before the edit, over the tokens of the gold answer.

    Args:
      target: the target before the edit.
      records: the edits with their questions.
      result: what an editor made of the target.
      read: that editor's `read`; None if the edits are in the parameters.

    Returns:
      `{"target", "mode", "before", "after"}`, as `evaluation.protocol.evaluate` gives them.
    """
    asked, config = questions(records), target.model.config
    pairs, owners = with_accepted(asked)
    batches = target_rows(pairs, target.tokenizer, batch_size=BATCH)
    unedited = EditorResult(target.model.params)
    before = _predicted(batches, unedited.params, config, _states_of(unedited, config, None))
    after = _predicted(batches, result.params, config, _states_of(result, config, read))
    gold = np.concatenate([np.asarray(rows.targets) for rows in batches])
    summary: dict[str, Any] = {"target": target.name, "mode": "teacher-forced"}
    is_locality = np.array([q.metric == "loc" for q in asked] + [False] * len(owners), bool)
    # The last batch is filled up with rows that are no texts.
    before, after, gold = (rows[: len(pairs)] for rows in (before, after, gold))
    wanted = np.where(is_locality[:, None], before, gold)
    for when, predicted in (("before", before), ("after", after)):
        shares = token_accuracy(predicted, wanted, gold >= 0).tolist()
        summary[when] = average(asked, per_question(shares, owners), len(records)).as_dict()
    return summary


def _states_of(result: EditorResult, config: ModelConfig, read: Read | None) -> States:
    """How the edited model reads rows."""
    if read is None:
        return lambda rows: _states(result.params, config, rows)

    def states(rows: Rows) -> jax.Array:
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        return read(result.state, result.params, config, *place)

    return states


def _predicted(
    batches: Sequence[Rows], params: Params, config: ModelConfig, states: States
) -> Int[np.ndarray, "rows answer"]:
    """The most likely token before each of the answers' tokens."""
    return np.concatenate([_most_likely(params, config, states(rows), rows) for rows in batches])


@partial(jax.jit, static_argnames="config")
def _states(params: Params, config: ModelConfig, rows: Rows) -> Float[Array, "B T D"]:
    return hidden_states(params, config, rows.tokens, rows.positions)[0]


@partial(jax.jit, static_argnames="config")
def _most_likely(
    params: Params, config: ModelConfig, states: Float[Array, "B T D"], rows: Rows
) -> Int[Array, "B answer"]:
    read = jnp.take_along_axis(states, rows.columns[:, :, None], axis=1)
    return most_likely(unembed(params, config, read))
