"""Parts of `benchmarks.accelerator` with both models: fused steps, and drafts that are checked."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator_bench import Bench, Measurement, Model, Pair, Part, Row
from benchmarks.measure import seconds_each
from benchmarks.steps import never, random_prompts, writing
from onceedit_jax.decoding.greedy import greedy_continuation
from onceedit_jax.decoding.prefix_batching import CachedRows, head_of
from onceedit_jax.distributed.bucketing import batch_of
from onceedit_jax.fusion.context_rule import context
from onceedit_jax.fusion.draft_rule import draft
from onceedit_jax.fusion.relative_rule import RelativeState, deepen, relative
from onceedit_jax.fusion.step import fused_step
from onceedit_jax.fusion.types import FusionInputs, FusionRule
from onceedit_jax.fusion.vocabulary_rule import vocabulary
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.models.parameters import input_embeddings
from onceedit_jax.planning.costs import least_seconds
from onceedit_jax.relative.build import build_table
from onceedit_jax.relative.tables import lookup_table
from onceedit_jax.types import Params

CLEAR = 20.0  # by which the shared token's logit is above the noise where few tokens settle
SHARES = (0.0, 0.5, 1.0)  # of a draft, accepted


@partial(jax.jit, static_argnames=("rule", "steps"))
def fused_steps(rule: FusionRule, state: Any, inputs: FusionInputs, *, steps: int) -> jax.Array:
    """Tokens after `steps` fused steps, one after another in one compiled loop.

    Each step's logits depend on the tokens of the step before, by a number that all logits of a
    row get: so no step can be left out, and every step does the same work.
    """

    def step(_: Any, tokens: jax.Array) -> jax.Array:
        shift = 1e-6 * tokens[:, None].astype(jnp.float32)
        logits = [
            None if logits is None else logits + shift
            for logits in (inputs.plugin_logits, inputs.target_logits)
        ]
        shifted = inputs._replace(plugin_logits=logits[0], target_logits=logits[1])
        return fused_step(rule, state, shifted).tokens

    rows = inputs.target_logits.shape[0]
    tokens: jax.Array = jax.lax.fori_loop(0, steps, step, jnp.zeros(rows, jnp.int32))
    return tokens


def random_inputs(pair: Pair, rule: FusionRule, rows: int, *, clear: bool) -> FusionInputs:
    """Random logits at alpha .5; `clear` lets one shared token lead by far on both sides."""
    plugin, target = (
        jax.random.normal(jax.random.key(i), (rows, model.config.num_tokens))
        for i, model in enumerate((pair.plugin, pair.target))
    )
    anchors = pair.anchors()
    if clear:
        places = np.arange(rows) % len(anchors[0])
        plugin = plugin.at[np.arange(rows), anchors[0][places]].add(CLEAR)
        target = target.at[np.arange(rows), anchors[1][places]].add(CLEAR)
    half = jnp.full(rows, 0.5)
    if rule.reads == "logits":
        return FusionInputs(plugin, target, half)
    drafted = jnp.asarray(anchors[1][:1].repeat(rows))
    return FusionInputs(None, target, half, drafted, half)


def state_of(bench: Bench, pair: Pair, rule: FusionRule) -> Any:
    """A rule's state for a pair without tokenizers: the shared tokens are those of `anchors`."""
    anchors = pair.anchors()
    if rule.name == "vocabulary":
        column = np.full(pair.plugin.config.vocab_size, -1, np.int32)
        column[anchors[0]] = anchors[1]
        return jnp.asarray(column)
    if rule.name == "relative":
        plugin, target = (built.table for built in bench.tables(pair))
        return RelativeState(plugin, target, lookup_table(target))
    return ()


def _fused(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    for rule in (draft(), vocabulary(), relative(), context()):
        cases = {"few tokens settle it": True, "all tokens are mixed": False}
        if rule.reads != "logits":
            cases = {"": True}
        for rows in bench.sizes.batches:
            for case, clear in cases.items():
                labels = {"pair": pair.name, "rule": rule.name, "batch": rows, "case": case}
                yield Measurement(labels, partial(_fused_row, bench, pair, rule, rows, clear))


def _fused_row(bench: Bench, pair: Pair, rule: FusionRule, rows: int, clear: bool) -> Row:
    state, inputs = state_of(bench, pair, rule), random_inputs(pair, rule, rows, clear=clear)
    return _beside_decoding(bench, pair, rows, rule, state, inputs, bench.sizes.fused)


def _beside_decoding(
    bench: Bench,
    pair: Pair,
    rows: int,
    rule: FusionRule,
    state: Any,
    inputs: FusionInputs,
    steps: int,
) -> Row:
    run = partial(fused_steps, rule, state, inputs, steps=steps)
    taken = seconds_each({"run": run}, repeats=bench.sizes.repeats)["run"] / steps
    decoding = bench.step_seconds(pair.target, rows)
    found: Row = {
        "fused step, ms": 1e3 * taken,
        "decoding step, ms": 1e3 * decoding,
        "ratio": taken / decoding,
    }
    if bench.chip is not None:
        least = least_seconds(bench.step_costs(pair.target, rows), bench.chip)
        found["ratio to the plan's step"] = taken / least
    return found


def _searched(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    labels = {"pair": pair.name, "rule": "deepen", "batch": 1}
    yield Measurement(labels, partial(_searched_row, bench, pair))


def _searched_row(bench: Bench, pair: Pair) -> Row:
    tables = [
        build_table(
            input_embeddings(bench.params(model)),
            jnp.asarray(anchors),
            normalization="deepen",
            num_tokens=model.config.num_tokens,
            kind="exact",
        )[0]
        for model, anchors in zip((pair.plugin, pair.target), pair.anchors(), strict=True)
    ]
    rule = deepen()
    state = RelativeState(*tables, jnp.zeros(len(pair.anchors()[0]), jnp.int32))  # no lookup
    inputs = random_inputs(pair, rule, 1, clear=True)
    return _beside_decoding(bench, pair, 1, rule, state, inputs, bench.sizes.searched)


class Drafted(NamedTuple):
    """An answer by drafts: its tokens, and how many drafts were written and checked."""

    tokens: list[int]
    rounds: int


@partial(jax.jit, static_argnames="config")
def _decide(
    head: Params, config: ModelConfig, states: jax.Array, alpha: jax.Array, drafted: jax.Array
) -> jax.Array:
    """The rule's token at each of a draft's tokens, from the target's states before them."""
    logits = unembed(head, config, states)
    inputs = FusionInputs(None, logits, alpha, drafted, jnp.ones_like(alpha))
    return fused_step(draft(), (), inputs).tokens


def drafted_answer(
    bench: Bench, plugin: Model, target: Model, *, accepted: int, length: int
) -> Drafted:
    """An answer as `checked_answers` writes it, with a known part of every draft accepted.

    The plug-in writes each draft in its compiled loop, the target runs over it in one pass and
    keeps its cache, and the rule `draft` decides every token. How much it accepts is set by alpha:
    at 1 the rule takes the draft's token whatever the target says, at 0 the target's own one. So
    alpha is 1 at the first `accepted` tokens of a draft and 0 after them, and the first token of
    the target's own ends the draft. All is the work of a real answer but the words. The prompt and
    the drafts stand for text in both models' tokens: a token is taken modulo the vocabulary.

    Args:
      bench: sizes and weights.
      plugin: writes the drafts.
      target: checks them.
      accepted: tokens of each draft that are accepted.
      length: tokens of the answer.
    """
    params, count = bench.params(target, stacked=False), bench.sizes.draft
    prompt = random_prompts(plugin.config, 1, bench.sizes.prompt).tokens[0].tolist()
    alpha = (jnp.arange(count) < accepted).astype(jnp.float32)
    cached = CachedRows(params, target.config, room=2 * length)
    answer: list[int] = []
    rounds = 0
    while len(answer) < length:
        proposed = _proposed(bench, plugin, prompt + answer, count)
        proposed = [token % target.config.num_tokens for token in proposed]
        states = cached.advance([prompt + answer + proposed[:-1]], [count])[0, :count]
        drafted = jnp.asarray(proposed, jnp.int32)
        decided = np.asarray(_decide(head_of(params), target.config, states, alpha, drafted))
        rounds += 1
        for token, other in zip(decided.tolist(), proposed, strict=True):
            answer.append(token)
            if token != other or len(answer) == length:
                break
    return Drafted(answer, rounds)


def _proposed(bench: Bench, plugin: Model, text: list[int], count: int) -> list[int]:
    """A draft: the plug-in's greedy continuation of a text."""
    row = [token % plugin.config.num_tokens for token in text]
    written = greedy_continuation(
        bench.params(plugin),
        plugin.config,
        *batch_of([row], largest=1),
        never(plugin.config),
        steps=count,
    )
    tokens: list[int] = np.asarray(written.tokens)[0].tolist()
    return tokens


def _drafts(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    for share in SHARES:
        labels = {"pair": pair.name, "acceptance": share}
        yield Measurement(labels, partial(_drafts_row, bench, pair, share))


def _drafts_row(bench: Bench, pair: Pair, share: float) -> Row:
    sizes, (plugin, target, _) = bench.sizes, pair
    accepted, length = round(share * sizes.draft), sizes.answer
    prompts = random_prompts(target.config, 1, sizes.prompt)
    params = bench.params(target, stacked=False)
    alone = writing(params, target.config, prompts, steps=length)["whole"]
    write = partial(drafted_answer, bench, plugin, target, accepted=accepted, length=length)
    rounds = write().rounds
    taken = seconds_each({"alone": alone, "drafted": write}, repeats=sizes.repeats)
    found: Row = {
        "tokens": length,
        "drafts": rounds,
        "alone, tokens/s": length / taken["alone"],
        "drafted, tokens/s": length / taken["drafted"],
        "times as fast": taken["alone"] / taken["drafted"],
    }
    if bench.chip is not None:
        steps = [
            least_seconds(bench.step_costs(model, 1), bench.chip) for model in (plugin, target)
        ]
        found["plan, times as fast"] = (
            length * steps[1] / (rounds * (sizes.draft * steps[0] + steps[1]))
        )
    return found


FUSED = Part(
    "fused-step",
    "A fused step beside the target's decoding step",
    _fused,
    "From both models' logits to a token, at alpha .5, in a compiled loop of such steps. Where one "
    "token leads on both sides, few tokens settle the rules `vocabulary` and `relative`; with "
    "logits that are only noise they mix all of both vocabularies, which text seldom needs. The "
    "shared tokens of a pair are made up, in the number of the real ones.",
)
DRAFTS = Part(
    "drafts",
    "Draft and check beside the target alone",
    _drafts,
    "One prompt; the target's layers are unstacked. Acceptance is set by alpha: 1 at the accepted "
    "tokens of every draft, 0 after them. Both sides read the prompt first; the plug-in reads the "
    "text anew for each draft, as in the library. The plan has neither: it counts the plug-in's "
    "steps and one step of the target for each draft.",
)
SEARCHED = Part(
    "search",
    "A fused step by DeePEn's search, with matrices that are computed when used",
    _searched,
    "The rule `deepen`: five steps of gradient search.",
)
