"""From texts to what gates read of them on the host: word ids, and the key of an edit."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from onceedit_jax.data.records import EditRecord
from onceedit_jax.distributed.bucketing import doubling, pad_rows
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.text.words import names, word_id, words


def word_ids(texts: Sequence[str]) -> Int[np.ndarray, "batch words"]:
    """Ids of each text's words, `[N, T]` int32, filled up with `NOTHING`; few widths T."""
    rows = [[word_id(word) for word in words(text)] for text in texts]
    width = doubling(max(map(len, rows), default=0), smallest=32)
    return pad_rows(rows, width=width, fill=NOTHING)


def edit_keys(records: Sequence[EditRecord]) -> Int[np.ndarray, "batch key_words"]:
    """The word ids that say what each edit is about, `[N, K]` int32, filled up with `NOTHING`.

    They are the words of its subject if the prompt holds all of these, else the names in the
    prompt, else all its words. So an edit's own prompt is always in its reach.
    """
    keys = [[word_id(word) for word in sorted(_key(record))] for record in records]
    width = max(1, *map(len, keys)) if keys else 1
    return pad_rows(keys, width=width, fill=NOTHING)


def _key(record: EditRecord) -> set[str]:
    prompt = set(words(record.prompt))
    for text in (record.subject or "", names(record.prompt)):
        # "서울은" holds no word "서울", and "the US" none of "United States".
        if (key := set(words(text))) and key <= prompt:
            return key
    return prompt
