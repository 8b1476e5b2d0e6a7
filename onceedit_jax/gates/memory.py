"""A scope memory: the edits themselves as keys that say which texts can concern one of them.

[WEIGHT] is learnt, and a learnt gate takes much that looks like an edit for one. The memory knows
the edits by the words that single them out: a text that holds none of them is about none of them.
The memory is ours, not the paper's.
"""

from typing import Any

import jax
import jax.numpy as jnp

NO_WORD = -1  # fills up keys and texts that are shorter than others


@jax.jit
def reach(memory: dict[str, Any], words: jax.Array) -> jax.Array:
    """How much of the nearest edit's key each text holds.

    Args:
      memory: `{"words": [E, K] int32, "weights": [E, K] float32}`, for each of E edits the ids of
        its key's words (`NO_WORD` fills up) and what each is worth; a key's weights sum to 1.
      words: `[B, T]` int32, the word ids of B texts (`NO_WORD` fills up).

    Returns:
      `[B]` float32 in [0, 1]: 1 where a text holds every word of some edit's key.
    """
    keys, weights = jnp.asarray(memory["words"]), jnp.asarray(memory["weights"], jnp.float32)

    def of_text(text: jax.Array) -> jax.Array:
        found = jnp.isin(keys, text) & (keys != NO_WORD)
        return jnp.max(jnp.sum(jnp.where(found, weights, 0.0), axis=-1), initial=0.0)

    # One text at a time: [E, K] is all that is held, however many texts there are.
    return jax.lax.map(of_text, words)
