"""What a gate is: how it is fitted, and how it gives alpha for a prompt."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

# What a row of `fit` is. Statistics use every row; thresholds use edits and unrelated rows.
EDIT, UNRELATED, UNLABELLED = 1, 0, -1


class GateFeatures(NamedTuple):
    """What a gate may read about B prompts.

    Attributes:
      words: `[B, T]` int32 word ids of each prompt, filled up with `memory.NO_WORD`.
      weight_logit: `[B]` float32, the plug-in's output logit of [WEIGHT] at the last prompt token.
      hidden: `[B, D]` float32, the plug-in's final hidden state there.
      keys: `[B, K]` int32, only for `fit`: word ids that name the subject of each edit, filled up.
      held_out: `[B]` bool, only for `fit`: rows that nothing was trained on.
    """

    words: Int[Array | np.ndarray, "batch words"]
    weight_logit: Float[Array | np.ndarray, "batch"] | None = None
    hidden: Float[Array | np.ndarray, "batch hidden"] | None = None
    keys: Int[Array | np.ndarray, "batch key_words"] | None = None
    held_out: Bool[np.ndarray, "batch"] | None = None


@dataclasses.dataclass(frozen=True)
class Gate:
    """A way to decide the plug-in's weight for a prompt: a record of functions.

    Attributes:
      name: how summaries name the gate.
      fit: from features of N rows and their labels `[N]` int32 (`EDIT`, `UNRELATED`, `UNLABELLED`)
        to the gate's state, a pytree. It runs on the host, once for each edited plug-in.
      score: from state and features of B prompts to alpha `[B]` in [0, 1]; pure, it is compiled.
      reads: the features that `score` needs beside `words`: any of "weight_logit", "hidden". With
        none of them the plug-in is not run for alpha.
      may_open: from state and `words` `[B, T]` to `[B]` bool: where it says False alpha is 0, and
        the plug-in is not run. None: any prompt may open the gate.
      threshold: alphas below it count as 0; None calibrates it on edits and held-out rows.
      settings: the gate's own settings record, for reports.
    """

    name: str
    fit: Callable[[GateFeatures, Int[np.ndarray, "batch"]], Any]
    score: Callable[[Any, GateFeatures], Float[Array, "batch"]]
    reads: frozenset[str] = frozenset()
    may_open: Callable[[Any, Int[Array, "batch words"]], Bool[Array, "batch"]] | None = None
    threshold: float | None = None
    settings: Any = None


@dataclasses.dataclass(frozen=True)
class FittedGate:
    """A gate with its state for one edited plug-in.

    Attributes:
      gate: the gate.
      state: what `gate.fit` returned.
      threshold: alphas below it count as 0, and the target answers by itself.
      trust_threshold: from this alpha on a draft may be taken unchecked; None if alpha does not
        depend on the prompt.
    """

    gate: Gate
    state: Any
    threshold: float
    trust_threshold: float | None = None

    @property
    def name(self) -> str:
        """The gate's name."""
        return self.gate.name
