"""The settings record of each fusion rule; this module imports no JAX.

The command line makes its flags from these records, so that `--help` needs nothing else.
"""

import dataclasses
from typing import Literal

from onceedit_jax.checks import check_settings
from onceedit_jax.errors import InputError
from onceedit_jax.relative.options import Kind, Normalization

Confidence = Literal["probability", "sure"]
Start = Literal["zeros", "prior"]
Objective = Literal["one-hot", "distribution"]
Search = Literal["lookup", "gradient"]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of DeePEn's search. Torch's defaults, which it uses, are written out here.

    Attributes:
      steps: optimizer steps.
      learning_rate: eta.
      schedule: `cosine` as published: T_max is 10, so 5 steps go half of the way down to eta / 4,
        which is the rate from step 10 on. Or `constant`.
      reduction: of the KL divergence over anchors. Torch's `mean` divides the sum by A. For one
        example at a time, as here, torch's `batchmean` is `sum`.
      optimizer: `adamw` as published, or plain gradient descent.
      eps: AdamW's epsilon.
      weight_decay: AdamW's decoupled decay.
      b1: decay rate of AdamW's first moment.
      b2: decay rate of AdamW's second moment.
    """

    steps: int = 5
    learning_rate: float = 0.15
    schedule: Literal["cosine", "constant"] = "cosine"
    reduction: Literal["mean", "sum"] = "mean"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    eps: float = 1e-8
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self) -> None:
        """Refuse settings that cannot search.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(self, above_zero=["learning_rate"], not_negative=["steps"])


@dataclasses.dataclass(frozen=True)
class DraftSettings:
    """Settings of the rule `draft`.

    Attributes:
      confidence: the weight of a draft: its `probability`, or `sure`, which is 1.
      trust: take a draft as the answer without the target's check, where alpha is at least the
        gate's trust threshold.
    """

    confidence: Confidence = "probability"
    trust: bool = False

    def __post_init__(self) -> None:
        """Refuse values that do not exist.

        Raises:
          InputError: naming the setting, its value and the possible ones.
        """
        check_settings(self)


@dataclasses.dataclass(frozen=True)
class VocabularySettings:
    """The rule `vocabulary` has no settings."""


@dataclasses.dataclass(frozen=True)
class RelativeSettings:
    """Settings of the rules `relative` (ONCE EDIT) and `deepen` (DeePEn).

    Attributes:
      normalization: the normalization of the transfer matrices.
      start: where the search starts: at `zeros`, or at the target's own logits, the `prior`.
      objective: what the search aims at: the whole `distribution` P, or its largest anchor,
        `one-hot`.
      search: `lookup`, the closed form of zeros with one-hot, or `gradient`, the published search.
      gradient: settings of the gradient search.
      table: how the transfer matrices are held; None takes `exact` for the normalization `deepen`
        (its rows are too even for k entries) and `topk` otherwise.
      allow_lossy: accept a top-k table that holds under 0.9 of p R.
    """

    normalization: Normalization = "centered"
    start: Start = "zeros"
    objective: Objective = "one-hot"
    search: Search = "lookup"
    gradient: SearchSettings = SearchSettings()
    table: Kind | None = None
    allow_lossy: bool = False

    def __post_init__(self) -> None:
        """Refuse values that do not exist, and combinations without a meaning.

        Raises:
          InputError: naming the settings and what to set instead.
        """
        check_settings(self)
        closed_form = self.start == "zeros" and self.objective == "one-hot"
        if self.search == "lookup" and not closed_form:
            raise InputError(
                f"search=lookup is the closed form of start=zeros with objective=one-hot, not of "
                f"start={self.start} with objective={self.objective}; set search=gradient"
            )

    @property
    def kind(self) -> Kind:
        """How the matrices are held."""
        return self.table or ("exact" if self.normalization == "deepen" else "topk")


@dataclasses.dataclass(frozen=True)
class ContextSettings:
    """Settings of the rule `context`.

    Attributes:
      draft: the plug-in drafts as well, and the target that has read the fact checks the draft.
    """

    draft: bool = False

    def __post_init__(self) -> None:
        """Refuse values that do not exist.

        Raises:
          InputError: naming the setting, its value and the possible ones.
        """
        check_settings(self)


DEEPEN = RelativeSettings(
    normalization="deepen", start="prior", objective="distribution", search="gradient"
)
RULE_SETTINGS: dict[
    str, DraftSettings | VocabularySettings | RelativeSettings | ContextSettings
] = {
    "draft": DraftSettings(),
    "vocabulary": VocabularySettings(),
    "relative": RelativeSettings(),
    "deepen": DEEPEN,
    "context": ContextSettings(),
}
"""The settings that each of the library's names stands for."""
