"""Builds a scope memory from edits, and asks it about texts."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceedit_jax.data.records import EditRecord
from onceedit_jax.distributed.bucketing import doubling, pad_rows
from onceedit_jax.gates.memory import NO_WORD, reach
from onceedit_jax.text.words import names, word_id, words

TEXTS = 64  # texts asked about at once
WHOLE = 1 - 1e-4  # of a key: its weights are float32 and need not sum to 1


def scope_memory(records: Sequence[EditRecord], others: Sequence[str]) -> dict[str, Any]:
    """One key an edit: words of its prompt that say what it is about.

    They are its subject's if the prompt holds all of these, else the names in it, else all of them.
    So an edit's own prompt is always in its reach.

    A word is worth its inverse document frequency over edits and other texts, so that "HD 180902"
    weighs more than "which".

    Args:
      records: the edits.
      others: the unrelated texts trained on.

    Returns:
      The memory as `memory.reach` takes it.
    """
    texts = [record.prompt for record in records] + list(others)
    seen = Counter(word for text in texts for word in set(words(text)))
    keys = [sorted(_key(record)) for record in records]
    width = max(1, *(len(key) for key in keys))
    ids = pad_rows([[word_id(word) for word in key] for key in keys], width=width, fill=NO_WORD)
    weights = np.zeros(ids.shape, np.float32)
    for row, key in enumerate(keys):
        rarity = np.array([math.log((2 + len(texts)) / (1 + seen[word])) for word in key])
        weights[row, : len(key)] = rarity / rarity.sum()
    return {"words": jnp.asarray(ids), "weights": jnp.asarray(weights)}


def _key(record: EditRecord) -> set[str]:
    asked = set(words(record.prompt))
    for text in (record.subject or "", names(record.prompt)):
        # "서울은" holds no word "서울", and "the US" none of "United States".
        if (key := set(words(text))) and key <= asked:
            return key
    return asked


def reaches(memory: dict[str, Any], texts: Sequence[str]) -> NDArray[np.float32]:
    """`memory.reach` of each text: `[len(texts)]` float32."""
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(texts), TEXTS):
        rows = [[word_id(word) for word in words(text)] for text in texts[start : start + TEXTS]]
        width = doubling(max(map(len, rows)), smallest=32)
        filled = pad_rows(rows, width=width, height=TEXTS, fill=NO_WORD)
        found.append(np.asarray(reach(memory, filled))[: len(rows)])
    return np.concatenate(found)


def reach_threshold(held_back: ArrayLike) -> float:
    """How much of a key a text must hold to be in an edit's reach.

    Halfway from the held-back unrelated rows (their 95th percentile) to a whole key, so always more
    than half of it: one of a name's two words does not do. A whole key always does, even where
    unrelated rows hold some edit's.
    """
    held_back = np.asarray(held_back, float)
    usual = float(np.quantile(held_back, 0.95)) if held_back.size else 0.0
    return min((usual + 1) / 2, WHOLE)
