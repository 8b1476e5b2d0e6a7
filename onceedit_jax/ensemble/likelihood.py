"""How likely given answers are: by a target alone, and by the fused system."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from onceedit_jax.decoding.answers import View
from onceedit_jax.decoding.prefix_batching import head_of, padded
from onceedit_jax.decoding.sampling import log_probabilities
from onceedit_jax.distributed.mesh import mesh_of, to_host, using
from onceedit_jax.ensemble.beyond import as_told, asks_beyond
from onceedit_jax.ensemble.decisions import inputs_of
from onceedit_jax.ensemble.preparation import PreparedPlugin, PreparedTarget
from onceedit_jax.ensemble.scoring import Text, states_before_answers, views_of
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.step import fused_step
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import Params

CHUNK = 64  # tokens scored at once; it bounds the [CHUNK, V] distributions
LEAST = 1e-30  # a probability below it counts as this, so that its logarithm is a number


class Likelihood(NamedTuple):
    """How likely an answer is.

    Attributes:
      log_probability: the sum over its tokens, in nats; each at least log `LEAST` by a fused
        system, which may give a token no probability at all.
      greedy: whether each token is the one that is taken after the true ones before it.
    """

    log_probability: float
    greedy: bool


def own_likelihoods(params: Params, config: ModelConfig, texts: Sequence[Text]) -> list[Likelihood]:
    """How likely a model by itself finds each answer.

    Args:
      params: its parameters.
      config: its configuration.
      texts: N prompts with their answers, in its tokens; no prompt is empty.

    Raises:
      InputError: a text is longer than the model's context.
    """
    states = states_before_answers(params, config, texts)
    return _of_texts(texts, *_own(params, config, states, _answers(texts)))


def fused_likelihoods(
    plugin: PreparedPlugin,
    target: PreparedTarget,
    prompts: Sequence[str],
    texts: Sequence[Text],
) -> list[Likelihood]:
    """How likely the fused system finds each answer, by its rule's distribution.

    A prompt that the gate does not open for has the target's own likelihood. No hop is taken.

    Args:
      plugin: the prepared plug-in.
      target: a target that was prepared for it.
      prompts: N prompts as the gate and the plug-in read them; where one is empty, or its answer
        is, the gate is not asked.
      texts: each prompt with its answer in the target's tokens, in plain text.

    Raises:
      InputError: a rule without a distribution, or a text is longer than a model's context.
    """
    check_distribution(target.rule)
    model = target.target.model
    # Of all texts, in the same batches as without a plug-in: so the others' numbers are the same
    # to the last bit.
    found = own_likelihoods(model.params, model.config, texts)
    asked = [i for i, prompt in enumerate(prompts) if prompt and texts[i].answer]
    if not asked:
        return found
    with using(plugin.mesh):
        plugin.recall.forget()
        alphas, edits = plugin.judged([prompts[i] for i in asked], None, [target])
        active = plugin.active(alphas)
        reached = [i for i, speaks in zip(asked, active, strict=True) if speaks]
        fused = _fused(
            plugin,
            target,
            [prompts[i] for i in reached],
            [texts[i] for i in reached],
            alphas[active],
            edits[active],
        )
    for i, one in zip(reached, fused, strict=True):
        found[i] = one
    return found


def check_distribution(rule: FusionRule) -> None:
    """Refuse a rule that cannot score given texts.

    Raises:
      InputError: the rule has no distribution.
    """
    if rule.distribution is None:
        raise InputError(
            f"the rule {rule.name} with these settings decides tokens by a search, and has no "
            "probability for a given text; use draft, vocabulary, context, or relative with "
            "search=lookup"
        )


def _fused(
    plugin: PreparedPlugin,
    target: PreparedTarget,
    prompts: Sequence[str],
    texts: Sequence[Text],
    alphas: Float[np.ndarray, "texts"],
    edits: Int[np.ndarray, "texts"],
) -> list[Likelihood]:
    """The likelihoods of texts that the gate opens for."""
    if not texts:
        return []
    rule, model = target.rule, target.target.model
    beyond = asks_beyond(plugin, [rule], prompts, edits)
    alphas = np.where(beyond, 0, alphas)
    everyone = np.ones(len(texts), bool)
    (view,) = views_of(plugin, [target], prompts, [texts], everyone, edits)
    told = as_told(plugin, rule, prompts, edits, beyond)
    read = [
        text if after == prompt else _told(text, target, after)
        for text, prompt, after in zip(texts, prompts, told, strict=True)
    ]
    states = states_before_answers(model.params, model.config, read)
    weights = np.where(plugin.trusted(rule, alphas), 1, alphas).astype(np.float32)
    counts = [len(text.answer) for text in texts]
    parts: list[tuple[Any, Any]] = []
    answers, weights = _answers(texts), np.repeat(weights, counts)
    for start in range(0, len(answers), CHUNK):
        rows = slice(start, start + CHUNK)
        lay = partial(padded, plugin.mesh)
        found = _score(
            head_of(plugin.plugin.params),
            head_of(model.params),
            target.state,
            {name: lay(array[rows]) for name, array in view.items()},
            lay(states[rows]),
            lay(weights[rows]),
            lay(answers[rows]),
            rule=rule,
            plugin_config=plugin.plugin.config,
            target_config=model.config,
        )
        parts.append((to_host(found[0]), to_host(found[1])))
    return _of_texts(texts, *_joined(parts, len(answers)))


def _told(text: Text, target: PreparedTarget, prompt: Any) -> Text:
    """The same answer after what the target is told; a BOS stays if the prompt had one."""
    bos = target.target.tokenizer.bos_id
    head = target.target.tokenizer.encode(prompt, bos=bos is not None and text.tokens[0] == bos)
    return Text([*head, *text.answer], len(head))


@partial(jax.jit, static_argnames=("rule", "plugin_config", "target_config"))
def _score(
    plugin_params: Params,
    target_params: Params,
    state: Any,
    view: View,
    target_states: jax.Array,
    alpha: jax.Array,
    tokens: jax.Array,
    *,
    rule: FusionRule,
    plugin_config: ModelConfig,
    target_config: ModelConfig,
) -> tuple[Float[Array, "batch"], Int[Array, "batch"]]:
    """The log-probability of given tokens, and the token that the rule takes; both `[B]`."""
    plugin, target = (plugin_params, plugin_config), (target_params, target_config)
    inputs = inputs_of(plugin, target, view, target_states, alpha)
    assert rule.distribution is not None
    shares = rule.distribution(state, inputs)
    chosen = jnp.take_along_axis(shares, tokens[:, None], axis=-1)[:, 0]
    probability = chosen / jnp.sum(shares, axis=-1)
    taken = fused_step(rule, state, inputs).tokens
    return jnp.log(jnp.maximum(probability, LEAST)), taken


def _own(
    params: Params,
    config: ModelConfig,
    states: Float[np.ndarray, "places hidden"],
    tokens: Int[np.ndarray, "places"],
) -> tuple[Float[np.ndarray, "places"], Int[np.ndarray, "places"]]:
    """The log-probability of given tokens, and the likeliest ones."""
    mesh, parts = mesh_of(params), []
    with using(mesh):
        for start in range(0, len(tokens), CHUNK):
            laid = (padded(mesh, array[start : start + CHUNK]) for array in (states, tokens))
            found = log_probabilities(head_of(params), config, *laid, top=1)
            parts.append((to_host(found.chosen), to_host(found.tokens)[:, 0]))
    return _joined(parts, len(tokens))


def _joined(
    parts: Sequence[tuple[Any, Any]], count: int
) -> tuple[Float[np.ndarray, "places"], Int[np.ndarray, "places"]]:
    """Chunks of `CHUNK` places, the last one filled up, as one."""
    logs = np.concatenate([np.zeros(0, np.float32), *(part[0][:CHUNK] for part in parts)])
    tokens = np.concatenate([np.zeros(0, np.int32), *(part[1][:CHUNK] for part in parts)])
    return logs[:count], tokens[:count]


def _answers(texts: Sequence[Text]) -> Int[np.ndarray, "places"]:
    return np.array([token for text in texts for token in text.answer], np.int32)


def _of_texts(
    texts: Sequence[Text],
    logs: Float[np.ndarray, "places"],
    taken: Int[np.ndarray, "places"],
) -> list[Likelihood]:
    ends = np.cumsum([len(text.answer) for text in texts]).astype(int)
    found = []
    for text, end in zip(texts, ends.tolist(), strict=True):
        rows = slice(end - len(text.answer), end)
        greedy = taken[rows].tolist() == list(text.answer)
        found.append(Likelihood(float(logs[rows].sum(dtype=np.float64)), greedy))
    return found
