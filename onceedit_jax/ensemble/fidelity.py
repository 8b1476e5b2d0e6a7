"""How faithful a pair's top-k tables are on real text, against products with every entry of R."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.ensemble.side import DISTRIBUTIONS, ModelSide, reference_texts
from onceedit_jax.fusion.relative_rule import RelativeState, pair_anchors
from onceedit_jax.models.decoder import unembed
from onceedit_jax.relative.build import TransferHealth
from onceedit_jax.relative.tables import Table
from onceedit_jax.relative.transfer import exact_relative

CHUNK = 20  # distributions that a table moves at once


class Fidelity(NamedTuple):
    """How a pair's tables change next-token distributions of real text.

    Attributes:
      distributions: how many of each model.
      total_variation: mean distance of the table's p R from the exact one, for the plug-in and for
        the target; 0 is equal, 1 disjoint.
      agreement: share of texts where argmax P is the same anchor, by alpha.
    """

    distributions: int
    total_variation: tuple[float, float]
    agreement: dict[float, float]


def fidelity(
    plugin: ModelSide,
    target: ModelSide,
    state: RelativeState,
    health: tuple[TransferHealth, TransferHealth],
    *,
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75),
    on_block: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Fidelity:
    """Compare a pair's tables with exact products, over the package's reference texts.

    Both models read the same beginnings of texts, each up to the end of a word.

    Args:
      plugin: the plug-in.
      target: the target.
      state: the pair's tables.
      health: of both tables.
      alphas: weights at which argmax P is compared.
      on_block: called with (model name, blocks done, all blocks).
    """
    texts = beginnings(DISTRIBUTIONS)
    shared = pair_anchors(plugin.tokenizer, target.tokenizer)
    exact, kept = [], []
    for side, ids, table, report in (
        (plugin, shared.ids_a, state.plugin, health[0]),
        (target, shared.ids_b, state.target, health[1]),
    ):
        probabilities = _next_tokens(side, texts)
        exact.append(
            np.asarray(
                exact_relative(
                    jnp.asarray(probabilities),
                    side.embeddings,
                    ids,
                    normalization=report.normalization,
                    temperature=report.temperature,
                    num_tokens=side.config.num_tokens,
                    on_block=partial(on_block, side.name),
                )
            )
        )
        parts = np.split(probabilities, range(CHUNK, len(texts), CHUNK))
        kept.append(np.concatenate([np.asarray(_moved(table, part)) for part in parts]))
    variation = [
        float(np.mean(np.abs(a - b).sum(axis=1) / 2)) for a, b in zip(exact, kept, strict=True)
    ]
    same = {alpha: _agreement(exact, kept, alpha) for alpha in alphas}
    return Fidelity(len(texts), (variation[0], variation[1]), same)


@jax.jit
def _moved(table: Table, probabilities: jax.Array) -> jax.Array:
    return table.to_relative(probabilities)


def beginnings(count: int) -> list[str]:
    """Beginnings of the reference texts, each up to the end of a word, in a seeded choice."""
    found = [
        text[:end]
        for text in reference_texts()
        for end, sign in enumerate(text)
        if sign == " " and end > 0
    ]
    chosen = np.random.default_rng(0).permutation(len(found))[:count]
    return [found[i] for i in chosen]


def _next_tokens(side: ModelSide, texts: list[str]) -> NDArray[np.float32]:
    states = states_after(side.params, side.config, [side.tokenizer.encode(t) for t in texts])
    parts = np.split(states, range(CHUNK, len(states), CHUNK))
    chances = [
        np.asarray(jax.nn.softmax(unembed(side.params, side.config, jnp.asarray(part))))
        for part in parts
    ]
    return np.concatenate(chances)


def _agreement(
    exact: list[NDArray[np.float32]], kept: list[NDArray[np.float32]], alpha: float
) -> float:
    first, second = (
        np.argmax(alpha * plugin + (1 - alpha) * target, axis=1) for plugin, target in (exact, kept)
    )
    return float(np.mean(first == second))
