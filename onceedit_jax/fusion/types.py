"""What a fusion rule is: how it is prepared for a pair of models, and how it decides a token."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.relative.build import ModelTable
from onceedit_jax.relative.options import Kind, Normalization
from onceedit_jax.text.tokenizer import Tokenizer


class FusionInputs(NamedTuple):
    """Both models' view of the same B texts.

    Attributes:
      plugin_logits: `[B, Vs]`; None where the plug-in contributes a draft.
      target_logits: `[B, Vl]`.
      alpha: `[B]`, the plug-in's weight.
      drafted: `[B]` int32, the next target token of the plug-in's draft, -1 for none.
      probability: `[B]`, the plug-in's probability of the drafted token's text.
    """

    plugin_logits: Float[Array, "batch plugin_vocab"] | None
    target_logits: Float[Array, "batch target_vocab"]
    alpha: Float[Array, "batch"]
    drafted: Int[Array, "batch"] | None = None
    probability: Float[Array, "batch"] | None = None


class FusedStep(NamedTuple):
    """One decision of a rule.

    Attributes:
      tokens: `[B]` int32, the next token of each text, in the target's vocabulary.
      losses: `[B, steps + 1]`, the losses of a search before it and after each step; None for a
        rule without a search.
    """

    tokens: Int[Array, "batch"]
    losses: Float[Array, "batch steps_and_start"] | None = None


@runtime_checkable
class PairSide(Protocol):
    """One model of a pair, as a rule sees it while it is prepared."""

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        ...

    @property
    def embeddings(self) -> jax.Array:
        """The input embeddings `[V, D]` before any edit."""
        ...

    def relative_table(
        self, anchor_ids: ArrayLike, *, normalization: Normalization, kind: Kind
    ) -> ModelTable:
        """The model's relative representation over some anchors, built once and then cached."""
        ...


@dataclasses.dataclass(frozen=True)
class FusionRule:
    """A way to fuse a plug-in with a target: a record of two functions.

    `step` sees arrays only. It must be pure, and it runs under `jit`, `vmap`, `pmap` and shardings.
    Rules are static arguments of compiled functions: make a rule once and use that value.

    A rule that takes the plug-in's most likely token as it is, if the target knows it:

        def prepare(plugin, target):
            ids = Bridge(plugin.tokenizer, target.tokenizer).first_tokens()
            padding = plugin.config.vocab_size - len(ids)
            return jnp.pad(ids, (0, padding), constant_values=-1)

        def step(ids, inputs):
            token = ids[jnp.argmax(inputs.plugin_logits, axis=-1)]
            own = jnp.argmax(inputs.target_logits, axis=-1)
            return FusedStep(jnp.where(token >= 0, token, own))

        rule = FusionRule("plug-in first", prepare, step)

    Attributes:
      name: how tables and summaries name the rule.
      prepare: from the plug-in's side and the target's side to the rule's state, a pytree. It runs
        on the host, once for each pair.
      step: from the state and the inputs of one step to the next tokens.
      reads: what the plug-in contributes: its next-token `logits`, or a `draft` of text that the
        target's tokenizer has read, or `nothing`.
      batch_size: texts that one call of `step` decides at most.
      unchecked: take a whole draft as the answer, without asking the target, where alpha is at
        least the gate's trust threshold. Needs `reads="draft"`.
      tells: from the prompt and the new answer of an edit to a text. The target reads it before a
        prompt that the gate takes for this edit; the plug-in reads the prompt alone.
      settings: the rule's own settings record, for reports.
      distribution: from the state and the inputs of one step to P over the target's vocabulary,
        `[B, Vl]`, up to a factor for each row; `step` takes its largest entry. None for a rule that
        has none: it cannot score given texts, and if it reads logits no token can be drawn.
      tells_when: whether `tells` comes before every such prompt ("always"), or only where it asks
        for more than the fact ("beyond"): for yes or no, something of the answer, or a task. A
        rule that tells and reads drafts has no draft there: the target answers in its own words.
    """

    name: str
    prepare: Callable[[PairSide, PairSide], Any]
    step: Callable[[Any, FusionInputs], FusedStep]
    reads: Literal["logits", "draft", "nothing"] = "logits"
    batch_size: int = 64
    unchecked: bool = False
    tells: Callable[[str, str], str] | None = None
    settings: Any = None
    distribution: Callable[[Any, FusionInputs], Float[Array, "batch target_vocab"]] | None = None
    tells_when: Literal["always", "beyond"] = "always"


def tells_always(rule: FusionRule) -> bool:
    """Whether a target reads the edit before every prompt that asks for it."""
    return rule.tells is not None and rule.tells_when == "always"


def leaves_out(rule: FusionRule) -> bool:
    """Whether the plug-in has no draft for prompts that ask for more than the fact."""
    return rule.reads == "draft" and rule.tells is not None


def plugin_logits_of(inputs: FusionInputs, rule: str) -> Float[Array, "batch plugin_vocab"]:
    """The plug-in's logits, for a rule that reads them.

    Raises:
      InputError: the inputs hold a draft instead.
    """
    if inputs.plugin_logits is None:
        raise InputError(
            f"the rule {rule} reads `plugin_logits`, and the inputs have none; give them, or use a "
            "rule that reads drafts"
        )
    return inputs.plugin_logits
