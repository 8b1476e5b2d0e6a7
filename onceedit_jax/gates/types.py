"""What a gate is: how it is fitted, and how it gives alpha for a prompt."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

# What a row of `fit` is. Statistics use every row; thresholds use edits and unrelated rows.
EDIT, UNRELATED, UNLABELLED = 1, 0, -1
NOTHING = -1  # fills up rows of words or subjects that are shorter than others


class GateFeatures(NamedTuple):
    """What a gate may read about B prompts.

    Attributes:
      words: `[B, T]` int32 word ids of each prompt, filled up with `NOTHING`.
      subjects: `[B, M]` int32, the numbers of the edits' subjects that each prompt names, filled up
        with `NOTHING`; an edit's own prompt names its own subject first.
      weight_logit: `[B]` float32, the plug-in's output logit of [WEIGHT] at the last prompt token.
      hidden: `[B, D]` float32, the plug-in's final hidden state there.
      relation: `[B, M, S]` float32, states of the UNEDITED plug-in after what a prompt asks of each
        subject that it names, see `onceedit_jax.gates.relation_head`.
      qualifiers: `[B, M, 2, W]` int32, the bits of `text.qualifiers.Qualifiers`: what each prompt
        asks of each subject with, and what it mentions; None where none are looked at.
      keys: `[B, K]` int32, only for `fit`: word ids that name the subject of each edit, filled up.
      held_out: `[B]` bool, only for `fit`: rows that nothing was trained on.
    """

    words: Int[Array | np.ndarray, "batch words"]
    subjects: Int[Array | np.ndarray, "batch mentions"] | None = None
    weight_logit: Float[Array | np.ndarray, "batch"] | None = None
    hidden: Float[Array | np.ndarray, "batch hidden"] | None = None
    relation: Float[Array | np.ndarray, "batch mentions states"] | None = None
    qualifiers: Int[Array | np.ndarray, "batch mentions 2 words"] | None = None
    keys: Int[Array | np.ndarray, "batch key_words"] | None = None
    held_out: Bool[np.ndarray, "batch"] | None = None


@dataclasses.dataclass(frozen=True)
class Gate:
    """A way to decide the plug-in's weight for a prompt: a record of functions.

    Attributes:
      name: how summaries name the gate.
      fit: from features of N rows and their labels `[N]` int32 (`EDIT`, `UNRELATED`, `UNLABELLED`)
        to the gate's state, a pytree. It runs on the host, once for each edited plug-in. Gates that
        differ in nothing else are equal.
      score: from state and features of B prompts to alpha `[B]` in [0, 1]; pure, it is compiled.
      reads: the features that `score` needs beside `words`: any of "weight_logit", "hidden" and
        "relation" (with `subjects`). With none of them the plug-in is not run for alpha.
      may_open: from state and the features that cost no model (`words`, and `subjects` if
        "relation" is read) to `[B]` bool: where it says False alpha is 0, and the plug-in is not
        run. None: any prompt may open the gate.
      means: from state and features of B prompts to the place of the edit that each one asks for,
        `[B]` int32, `NOTHING` for none; None for a gate that does not know.
      threshold: alphas below it count as 0; None calibrates it on edits and held-out rows.
      trust_threshold: from this alpha on a draft may be taken unchecked; calibrated with
        `threshold`.
      settings: the gate's own settings record, for reports.
    """

    name: str
    fit: Callable[[GateFeatures, Int[np.ndarray, "batch"]], Any] = dataclasses.field(compare=False)
    score: Callable[[Any, GateFeatures], Float[Array, "batch"]]
    reads: frozenset[str] = frozenset()
    may_open: Callable[[Any, GateFeatures], Bool[Array, "batch"]] | None = None
    means: Callable[[Any, GateFeatures], Int[Array, "batch"]] | None = None
    threshold: float | None = None
    trust_threshold: float | None = None
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
