"""Reads prompts with an edited plug-in, as far as a gate needs it."""

from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from onceedit_jax.data.records import EditRecord
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.gates.fact_memory import NO_WORD
from onceedit_jax.gates.fitting import score_prompts
from onceedit_jax.gates.types import EDIT, UNLABELLED, UNRELATED, Gate, GateFeatures
from onceedit_jax.gates.weight_token import gate_logit
from onceedit_jax.gates.words import edit_keys, word_ids
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.tokenizer import Tokenizer


def prompt_features(
    params: Any, kernel: Any, config: ModelConfig, prompts: Sequence[Sequence[int]]
) -> tuple[Float[np.ndarray, "batch"], Float[np.ndarray, "batch hidden"]]:
    """The plug-in's view of prompts (token ids) at their last token.

    Args:
      params: the plug-in's parameters.
      kernel: [WEIGHT]'s output row, `{"kernel": [D]}`.
      config: the plug-in's configuration.
      prompts: N token sequences, none empty.

    Returns:
      logit_w `[N]` and the final hidden states `[N, D]`, float32.
    """
    if not prompts:
        return np.zeros(0, np.float32), np.zeros((0, config.hidden_size), np.float32)
    hidden = states_after(params, config, prompts)
    return to_host(gate_logit(kernel, jnp.asarray(hidden))), hidden


def prompt_alphas(
    gate: Gate,
    state: Any,
    prompts: Sequence[str],
    *,
    params: Any,
    kernel: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
) -> Float[np.ndarray, "batch"]:
    """Alpha of each prompt, `[N]` float32; the plug-in reads only prompts that may open the gate.

    Args:
      gate: the gate.
      state: its state.
      prompts: N texts.
      params: the plug-in's parameters.
      kernel: [WEIGHT]'s output row, `{"kernel": [D]}`.
      config: the plug-in's configuration.
      tokenizer: the plug-in's tokenizer.
    """

    def read(chosen: np.ndarray) -> tuple[Any, Any]:
        encoded = [tokenizer.encode(prompts[i]) for i in chosen.tolist()]
        return prompt_features(params, kernel, config, encoded)

    if not prompts:
        return np.zeros(0, np.float32)
    return score_prompts(gate, state, word_ids(prompts), read)


def gate_rows(
    reads: Collection[str],
    records: Sequence[EditRecord],
    *,
    trained: Sequence[str] = (),
    held_back: Sequence[str] = (),
    ungated: Collection[int] = (),
    max_tokens: int | None = None,
    params: Any,
    kernel: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
) -> tuple[GateFeatures, Int[np.ndarray, "batch"]]:
    """The rows that a gate is fitted on: edits, unrelated texts, and texts that were held back.

    Args:
      reads: features that the gate reads beside words; the plug-in is run only for these.
      records: the edits.
      trained: unrelated texts that were trained on.
      held_back: unrelated texts that were not.
      ungated: positions of edits that the gate is not told of: they are `UNLABELLED`.
      max_tokens: longer prompts are cut there (default: not at all).
      params: the plug-in's parameters.
      kernel: [WEIGHT]'s output row, `{"kernel": [D]}`.
      config: the plug-in's configuration.
      tokenizer: the plug-in's tokenizer.

    Returns:
      Features of N rows, and their labels `[N]` int32. Rows that were trained on carry no
      `weight_logit` and `hidden` of their own (zeros), since no threshold is calibrated on them.
    """
    prompts = [record.prompt for record in records]
    texts = [*prompts, *trained, *held_back]
    labels = np.full(len(texts), UNRELATED, np.int32)
    labels[: len(records)] = EDIT
    labels[sorted(ungated)] = UNLABELLED
    held_out = np.zeros(len(texts), bool)
    held_out[len(records) + len(trained) :] = True
    own = edit_keys(records)
    keys = np.full((len(texts), own.shape[1]), NO_WORD, np.int32)
    keys[: len(records)] = own
    weight_logit: Any = None
    hidden: Any = None
    if reads:
        calibrated = np.flatnonzero((labels == EDIT) | held_out)
        encoded = [tokenizer.encode(texts[i])[:max_tokens] for i in calibrated.tolist()]
        logits, states = prompt_features(params, kernel, config, encoded)
        weight_logit = np.zeros(len(texts), np.float32)
        hidden = np.zeros((len(texts), config.hidden_size), np.float32)
        weight_logit[calibrated], hidden[calibrated] = logits, states
    return GateFeatures(word_ids(texts), weight_logit, hidden, keys, held_out), labels
