"""Whether a model's head is its embedding: decided by what the checkpoint holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.models.assembly import TensorSource
from onceedit_jax.models.families import HEAD, canonical_name, config_from_hf, table_name

_FLAG = "tie_word_embeddings"
_ROWS = 4096  # compared at a time: bounds the memory


def with_true_head(
    hf: Mapping[str, Any], source: TensorSource
) -> tuple[dict[str, Any], str | None]:
    """The values of config.json with the flag that the tensors bear out.

    Without a matrix for the head, and without a flag, the head is the embedding. With a matrix that
    is not the embedding, the matrix is the head.

    Returns:
        The values, and a warning if the flag turned.

    Raises:
        InputError: The flag is false, and there is no matrix; see also `config_from_hf`.
    """
    config = config_from_hf(hf)
    untied = dataclasses.replace(config, tie_embeddings=False)  # it knows the name of the head
    names = {canonical_name(untied, name): name for name in source.names()}
    head = names.get(HEAD)
    if head is None and not config.tie_embeddings:
        if hf.get(_FLAG) is not None:
            raise InputError(
                f"there is no {HEAD}, and config.json: {_FLAG} is false; expected the head's "
                f"matrix: set {_FLAG} to true if the head is the embedding, or fetch the weights "
                "again"
            )
        why = f"no {HEAD}, and no {_FLAG} in config.json: the head is the embedding"
        return {**hf, _FLAG: True}, why
    if head is not None and config.tie_embeddings:
        table = names.get(table_name(config))
        if table is not None and not _are_equal(source, table, head):
            why = (
                f"{HEAD} is not the embedding, though the head is tied by config.json: this matrix "
                "is used"
            )
            return {**hf, _FLAG: False}, why
    return dict(hf), None


def _are_equal(source: TensorSource, one: str, other: str) -> bool:
    """Whether two matrices hold the same numbers."""
    if (shape := source.shape(one)) != source.shape(other) or len(shape) != 2:
        return False
    for first in range(0, shape[0], _ROWS):
        box = (slice(first, min(first + _ROWS, shape[0])), slice(0, shape[1]))
        mine, others = (np.empty((box[0].stop - first, shape[1]), np.float32) for _ in range(2))
        source.read_box(one, box, mine)
        source.read_box(other, box, others)
        if not np.array_equal(mine, others):
            return False
    return True
