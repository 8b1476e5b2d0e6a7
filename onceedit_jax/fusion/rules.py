"""Fusion of plug-in and target, one next-token decision at a time (ONCE EDIT, section 3.3).

A rule is a value: `FusionSettings` names a point on independent axes, `fusion_rule` makes the pure
function, and the paper's, DeePEn's and our own are three presets.
"""

import dataclasses
from functools import cache
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from onceedit_jax.checks import check_settings
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.search import SearchSettings, gradient_search
from onceedit_jax.gates.token import GateKind
from onceedit_jax.models.argmax import likely_tokens, most_likely
from onceedit_jax.relative.tables import EXCLUDED, Table, TopKTable
from onceedit_jax.relative.transfer import LEAST_SHARED, Normalization, to_vocabulary

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class FusionSettings:
    """A fusion rule as a point on independent axes.

    Attributes:
      proposal: where the two distributions meet: `relative` (the anchors' space, as published)
        `vocabulary` (the target's own; needs no search), or `draft` (the plug-in's drafted text
        as the target's tokenizer reads it).
      weight: alpha from the plug-in's `gate`, or the same `fixed_alpha` for every input.
      fixed_alpha: alpha of `weight="fixed"`.
      gate: what alpha is read from: the learnt `token` (as published), the scope `memory`, or
        `both`, weighed by Bayes' rule where the memory finds an edit in reach and 0 elsewhere.
      normalization: of the transfer matrices.
      start: of the search: `zeros`, or the LLM's own logits as `prior`.
      target: of the search: P itself as `distribution`, or `one-hot` at its largest anchor.
      search: `lookup` (the closed form of zeros + one-hot) or `gradient`.
      gradient: settings of the gradient search.
      confidence: of a draft: its `probability`, or `sure`, which takes it as 1.
      trust: answer from the draft alone, without asking the target, where alpha is at least the
        artifact's trust threshold.
    """

    proposal: Literal["relative", "vocabulary", "draft"] = "vocabulary"
    weight: Literal["gate", "fixed"] = "gate"
    fixed_alpha: float = 0.5
    gate: GateKind = "both"
    normalization: Normalization = "centered"
    start: Literal["zeros", "prior"] = "zeros"
    target: Literal["one-hot", "distribution"] = "one-hot"
    search: Literal["lookup", "gradient"] = "lookup"
    gradient: SearchSettings = dataclasses.field(default_factory=SearchSettings)
    confidence: Literal["probability", "sure"] = "probability"
    trust: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing.

        Raises:
          InputError: naming the settings and what to set instead.
        """
        check_settings(self)
        if not 0 <= self.fixed_alpha <= 1:
            raise InputError(f"fixed_alpha={self.fixed_alpha}: expected a weight from 0 to 1")
        if self.weight == "gate" and self.fixed_alpha != FusionSettings.fixed_alpha:
            raise InputError(
                f"fixed_alpha={self.fixed_alpha}: weight=gate takes alpha from the gate; leave it "
                "out, or set weight=fixed"
            )
        if self.proposal != "relative" and self.normalization != FusionSettings.normalization:
            raise InputError(
                f"normalization={self.normalization} is of relative tables, which "
                f"proposal={self.proposal} has none of; leave it out, or set proposal=relative"
            )
        if self.proposal != "draft" and (self.trust or self.confidence == "sure"):
            raise InputError(
                f"trust={self.trust} and confidence={self.confidence} speak of drafts, which "
                f"proposal={self.proposal} has none of; leave them out, or set proposal=draft"
            )
        if self.trust and self.weight == "fixed":
            raise InputError(
                "trust=True goes by what the gate says of a prompt, and weight=fixed asks no gate; "
                "leave one of the two out"
            )
        closed_form = self.start == "zeros" and self.target == "one-hot"
        if self.proposal == "relative" and self.search == "lookup" and not closed_form:
            raise InputError(
                f"search=lookup is the closed form of start=zeros with target=one-hot, not of "
                f"start={self.start} with target={self.target}; set search=gradient"
            )
        if self.proposal != "relative" and not (closed_form and self.search == "lookup"):
            raise InputError(
                f"proposal={self.proposal} has no search, so start={self.start}, "
                f"target={self.target}, search={self.search} would change nothing; leave them "
                "out, or set proposal=relative"
            )

    @property
    def name(self) -> str:
        """How results name the rule: its proposal, and how its drafts are taken."""
        ways = [self.proposal, self.confidence == "sure" and "sure", self.trust and "trusted"]
        return ", ".join(way for way in ways if way)

    @property
    def label(self) -> str:
        """How results name the rule's search: `none` where there is none."""
        return self.search if self.proposal == "relative" else "none"


PRESETS: dict[str, FusionSettings] = {
    "draft": FusionSettings(proposal="draft"),
    "vocabulary": FusionSettings(),
    "relative": FusionSettings(proposal="relative", gate="token"),
    "deepen": FusionSettings(
        proposal="relative",
        weight="fixed",
        normalization="deepen",
        start="prior",
        target="distribution",
        search="gradient",
    ),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transfer:
    """What a pair of models needs to be fused; a rule asks only for its own part.

    Attributes:
      plugin: the plug-in's relative table R_s.
      target: the target's relative table R_l.
      lookup: `[A]` int32 from `tables.lookup_table`.
      vocabulary_ids: `[Vs]` int32, the target token of each plug-in token, -1 for none.
    """

    plugin: Table | None = None
    target: Table | None = None
    lookup: jax.Array | None = None
    vocabulary_ids: jax.Array | None = None


class FusionInputs(NamedTuple):
    """Both models' view of the same text.

    Attributes:
      plugin_logits: `[B, Vs]`; None where the plug-in's view is a draft.
      target_logits: `[B, Vl]`.
      alpha: `[B]`.
      drafted: `[B]` int32, the target token that the plug-in's draft goes on with, -1 for none.
      probability: `[B]`, the plug-in's probability of the drafted token's text.
    """

    plugin_logits: jax.Array | None
    target_logits: jax.Array
    alpha: jax.Array
    drafted: jax.Array | None = None
    probability: jax.Array | None = None


class FusedStep(NamedTuple):
    """The next tokens `[B]` int32, and the search's losses `[B, steps + 1]` if it searched."""

    tokens: jax.Array
    losses: jax.Array | None


@runtime_checkable
class FusionRule(Protocol):
    """A pure function from both models' logits to the next token."""

    def __call__(self, inputs: FusionInputs, transfer: Transfer) -> FusedStep:
        """Decide the next token of every row."""
        ...


def fuse(
    plugin_probs: jax.Array,
    target_probs: jax.Array,
    alpha: jax.Array,
    plugin_table: Table,
    target_table: Table,
) -> jax.Array:
    """`P = alpha * p_s R_s + (1 - alpha) * p_l R_l` (ONCE EDIT, section 3.3).

    Args:
      plugin_probs: p_s, `[B, Vs]`.
      target_probs: p_l, `[B, Vl]`.
      alpha: `[B]`.
      plugin_table: R_s.
      target_table: R_l, over the same anchors.

    Returns:
      `[B, A]` float32 distributions over anchors.
    """
    weight = alpha[:, None]
    plugin = plugin_table.to_relative(plugin_probs)
    return weight * plugin + (1 - weight) * target_table.to_relative(target_probs)


def fused_anchor(
    plugin_logits: jax.Array,
    target_logits: jax.Array,
    alpha: jax.Array,
    plugin_table: TopKTable,
    target_table: TopKTable,
    *,
    top: int = 64,
) -> jax.Array:
    """`argmax fuse(...)` from the rows of a few tokens, wherever these settle it.

    What the tokens left out could add to any one anchor is at most their whole mass: where P of the
    `top` tokens of each side leads by more than that, its argmax is P's. Where that fails for some
    row, all rows are fused in full.

    Args:
      plugin_logits: `[B, Vs]`.
      target_logits: `[B, Vl]`.
      alpha: `[B]`.
      plugin_table: R_s.
      target_table: R_l, over the same anchors.
      top: tokens of each side that are looked at first.

    Returns:
      `[B]` int32.
    """
    sides = _leaders(plugin_logits, alpha, top), _leaders(target_logits, 1 - alpha, top)
    relative = plugin_table.to_relative_of(*sides[0][:2])
    relative += target_table.to_relative_of(*sides[1][:2])
    anchors = most_likely(relative)
    others = jnp.arange(relative.shape[1]) != anchors[:, None]
    second = jnp.max(relative, axis=-1, where=others, initial=0.0)
    return jax.lax.cond(
        _settled(jnp.max(relative, axis=-1) - second, sides),
        lambda: anchors,
        lambda: most_likely(
            _fused(plugin_logits, target_logits, alpha, plugin_table, target_table)
        ),
    )


def _fused(
    plugin_logits: jax.Array,
    target_logits: jax.Array,
    alpha: jax.Array,
    plugin_table: Table,
    target_table: Table,
) -> jax.Array:
    """`fuse`, from logits."""
    probabilities = _probabilities(plugin_logits), _probabilities(target_logits)
    return fuse(*probabilities, alpha, plugin_table, target_table)


class _Leaders(NamedTuple):
    """Some tokens `[B, M]` of one side, their weighted shares, and the mass `[B]` of all others."""

    tokens: jax.Array
    shares: jax.Array
    left_out: jax.Array


def _leaders(logits: jax.Array, weight: jax.Array, top: int) -> _Leaders:
    logits = logits.astype(jnp.float32)
    tokens = likely_tokens(logits, top)
    found = jnp.take_along_axis(logits, tokens, axis=-1)
    # The largest is known already: a log-sum-exp would look for it in another pass.
    highest = found[:, :1]
    total = jnp.sum(jnp.exp(logits - highest), axis=-1, keepdims=True)
    shares = jnp.exp(found - highest) / total
    left_out = weight * jnp.maximum(1 - jnp.sum(shares, axis=-1), 0)
    return _Leaders(tokens, weight[:, None] * shares, left_out)


def _settled(lead: jax.Array, sides: tuple[_Leaders, _Leaders]) -> jax.Array:
    """Whether no token left out can overturn any row's lead `[B]`."""
    # Sums of many float32 terms: a lead within their rounding settles nothing either.
    return jnp.all(lead > sides[0].left_out + sides[1].left_out + 1e-5)


def fuse_vocabulary(
    plugin_probs: jax.Array, target_probs: jax.Array, alpha: jax.Array, ids: jax.Array
) -> jax.Array:
    """`P = alpha * p_s M + (1 - alpha) * p_l`, in the target's vocabulary: `[B, Vl]`.

    Args:
      plugin_probs: p_s, `[B, Vs]`.
      target_probs: p_l, `[B, Vl]`.
      alpha: `[B]`.
      ids: M as one target token for each plug-in token, `[Vs]` int32, -1 for none.
    """
    weight = alpha[:, None]
    moved = to_vocabulary(plugin_probs, ids, target_probs.shape[1])
    return weight * moved + (1 - weight) * target_probs


def fused_token(
    plugin_logits: jax.Array,
    target_logits: jax.Array,
    alpha: jax.Array,
    ids: jax.Array,
    *,
    top: int = 64,
) -> jax.Array:
    """`argmax fuse_vocabulary(...)` from a few tokens of each side, wherever these settle it.

    Arguments are those of `fuse_vocabulary`, with logits in place of probabilities, and `top` of
    `fused_anchor`, which says why a few are enough.

    Returns:
      `[B]` int32.
    """
    # Tokens that go nowhere are left out of p_s, which then sums to one, as in `to_vocabulary`.
    going = jnp.where(ids >= 0, plugin_logits, EXCLUDED)
    shared = jnp.exp(jax.nn.logsumexp(going, axis=-1) - jax.nn.logsumexp(plugin_logits, axis=-1))
    plugin = _leaders(going, alpha * jnp.minimum(shared / LEAST_SHARED, 1), top)
    target = _leaders(target_logits, 1 - alpha, top)
    moved = ids[plugin.tokens]
    candidates = jnp.concatenate([jnp.maximum(moved, 0), target.tokens], axis=1)
    shares = jnp.concatenate([jnp.where(moved >= 0, plugin.shares, 0), target.shares], axis=1)
    # A target token that leads on both sides, or that several plug-in tokens go to, stands here
    # more than once: each of its places holds the whole of what was found for it.
    same = candidates[:, :, None] == candidates[:, None, :]
    scores = jnp.sum(same * shares[:, None, :], axis=-1)
    best = jnp.max(scores, axis=1, keepdims=True)
    token = jnp.min(jnp.where(scores == best, candidates, target_logits.shape[1]), axis=1)
    second = jnp.max(scores, axis=1, where=candidates != token[:, None], initial=0.0)
    return jax.lax.cond(
        _settled(best[:, 0] - second, (plugin, target)),
        lambda: token,
        lambda: most_likely(
            fuse_vocabulary(
                _probabilities(plugin_logits), _probabilities(target_logits), alpha, ids
            )
        ),
    )


def drafted_token(
    drafted: jax.Array, probability: jax.Array, target_logits: jax.Array, alpha: jax.Array
) -> jax.Array:
    """`argmax_v alpha * pi * [v = d] + (1 - alpha) * p_l(v)`, without a distribution over v.

    Only two tokens can win: the draft's and the target's own.

    Args:
      drafted: d, `[B]` int32 target tokens, -1 for none.
      probability: pi, `[B]`, the plug-in's probability of d's text.
      target_logits: `[B, Vl]`.
      alpha: `[B]`.

    Returns:
      `[B]` int32.
    """
    logits = target_logits.astype(jnp.float32)
    own, rows = most_likely(logits), jnp.arange(drafted.shape[0])
    token = jnp.where(drafted >= 0, drafted, own)
    total = jax.nn.logsumexp(logits, axis=-1)
    of_own, of_draft = ((1 - alpha) * jnp.exp(logits[rows, t] - total) for t in (own, token))
    lead = of_draft + alpha * probability - of_own
    wins = (lead > 0) | ((lead == 0) & (token < own))
    return jnp.where(wins & (drafted >= 0), token, own).astype(jnp.int32)


@cache
def fusion_rule(settings: FusionSettings) -> FusionRule:
    """The rule that the settings name, as a pure function to be jitted.

    Equal settings give the same function, which is compiled once.

    Where alpha is 0 the token is the target's own: its logits pass through untouched, whatever
    the rule would make of them.
    """
    propose = {"vocabulary": _vocabulary, "relative": _relative, "draft": _draft}[settings.proposal]

    def rule(inputs: FusionInputs, transfer: Transfer) -> FusedStep:
        if settings.weight == "fixed":
            inputs = inputs._replace(alpha=jnp.full_like(inputs.alpha, settings.fixed_alpha))
        step = propose(inputs, transfer, settings)
        speaks = inputs.alpha > 0
        tokens = jax.lax.cond(
            jnp.all(speaks),
            lambda: step.tokens.astype(jnp.int32),
            lambda: jnp.where(speaks, step.tokens, most_likely(inputs.target_logits)),
        )
        return step._replace(tokens=tokens)

    return rule


def _probabilities(logits: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)


def _vocabulary(inputs: FusionInputs, transfer: Transfer, settings: FusionSettings) -> FusedStep:
    plugin_logits = _needed(inputs.plugin_logits, "the plug-in's logits")
    ids = _needed(transfer.vocabulary_ids, "the vocabulary map")
    return FusedStep(fused_token(plugin_logits, inputs.target_logits, inputs.alpha, ids), None)


def _relative(inputs: FusionInputs, transfer: Transfer, settings: FusionSettings) -> FusedStep:
    logits = _needed(inputs.plugin_logits, "the plug-in's logits"), inputs.target_logits
    plugin = _needed(transfer.plugin, "the plug-in's table")
    target = _needed(transfer.target, "the target's table")
    if settings.target == "distribution":
        goal = _fused(*logits, inputs.alpha, plugin, target)
    elif isinstance(plugin, TopKTable) and isinstance(target, TopKTable):
        goal = fused_anchor(*logits, inputs.alpha, plugin, target)
    else:
        goal = most_likely(_fused(*logits, inputs.alpha, plugin, target))
    if settings.search == "lookup":
        return FusedStep(_needed(transfer.lookup, "the lookup table")[goal], None)
    prior = inputs.target_logits
    start = jnp.zeros_like(prior) if settings.start == "zeros" else prior
    found = gradient_search(goal, target, start, settings=settings.gradient)
    return FusedStep(most_likely(found.logits), found.losses)


def _draft(inputs: FusionInputs, transfer: Transfer, settings: FusionSettings) -> FusedStep:
    drafted, probability = (
        _needed(inputs.drafted, "a draft"),
        _needed(inputs.probability, "its probability"),
    )
    if settings.confidence == "sure":
        probability = jnp.ones_like(probability)
    return FusedStep(drafted_token(drafted, probability, inputs.target_logits, inputs.alpha), None)


def _needed(part: T | None, name: str) -> T:
    if part is None:
        raise InputError(f"this fusion rule needs {name}: build the transfer for this rule")
    return part
