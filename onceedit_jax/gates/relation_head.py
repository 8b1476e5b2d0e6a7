"""The relation head: which relation of a subject a text asks for. It is ours, not the paper's.

A text about a subject, with "it" in the subject's place, is read by the lower layers of the
UNEDITED plug-in. One linear map takes their states to a relation vector. Two texts that ask for the
same relation have vectors of a high cosine, and are near the same relations of a bank. The map is
learnt once for a plug-in, from relations worded in many ways, and no edit changes it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from onceedit_jax.distributed.bucketing import bucket
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.types import AnyArray

SHARPNESS = 24.0  # of the softmax over the bank: how near a relation has to be to count
LEAST = 1e-4  # overlap of two texts that are near none of the same relations


class RelationHead(NamedTuple):
    """The parameters of a relation head.

    Attributes:
      mean: `[S]` float32, taken from the states of a text; S is twice the plug-in's hidden size.
      scale: `[S]` float32, that they are divided by then.
      projection: `[S, R]` float32, to relation vectors of R numbers.
      bank: `[K, R]` float32, unit length: the mean vector of each of K known relations.
      weights: `[2]` float32, of the cosine and of the log overlap of two texts.
      bias: `[]` float32; with the weights it gives the logit that two texts ask the same.
    """

    mean: Float[Array, "states"]
    scale: Float[Array, "states"]
    projection: Float[Array, "states relation"]
    bank: Float[Array, "bank relation"]
    weights: Float[Array, "2"]
    bias: Float[Array, ""]


def relation_vectors(
    head: RelationHead, states: Float[Array, "*batch states"]
) -> Float[Array, "*batch relation"]:
    """Relation vectors of length 1.

    Args:
      head: the head.
      states: `[..., S]`, the mean of a text's states and the last one, joined.

    Returns:
      `[..., R]` float32.
    """
    normalised = (jnp.asarray(states, jnp.float32) - head.mean) / head.scale
    return unit(normalised @ head.projection)


def unit(vectors: Float[Array, "*batch relation"]) -> Float[Array, "*batch relation"]:
    """Vectors of length 1."""
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.maximum(length, 1e-6)


def evidence(
    head: RelationHead,
    asked: Float[Array, "*batch relation"],
    keys: Float[Array, "edits relation"],
) -> Float[Array, "*batch edits 2"]:
    """What speaks for two texts asking the same: the cosine, and the log of their overlap.

    The overlap is Bhattacharyya's coefficient of two distributions over the bank's relations: 1
    where both texts are near the same ones.

    Args:
      head: the head.
      asked: `[..., R]`, vectors of the texts that ask.
      keys: `[E, R]`, vectors of the texts that they are compared with.
    """
    overlap = _roots(head, asked) @ _roots(head, keys).T
    return jnp.stack([asked @ keys.T, jnp.log(overlap + LEAST)], axis=-1)


def likeness(
    head: RelationHead,
    asked: Float[Array, "*batch relation"],
    keys: Float[Array, "edits relation"],
) -> Float[Array, "*batch edits"]:
    """How likely texts ask for the same relation, in (0, 1). Arguments are those of `evidence`."""
    return jax.nn.sigmoid(evidence(head, asked, keys) @ head.weights + head.bias)


def host_vectors(
    head: RelationHead, states: Float[AnyArray, "texts states"]
) -> Float[np.ndarray, "texts relation"]:
    """`relation_vectors` of any number of texts, by a compiled program for each of few sizes."""
    return to_host(_vectors(head, _filled(states)))[: len(states)]


def host_likeness(
    head: RelationHead,
    asked: Float[AnyArray, "texts relation"],
    keys: Float[AnyArray, "edits relation"],
) -> Float[np.ndarray, "texts edits"]:
    """`likeness` of any number of texts and edits, by a compiled program for each of few sizes.

    An artifact grows edit by edit: a program for each number of edits would stay in memory.
    """
    likely = to_host(_likeness(head, _filled(asked), _filled(keys)))
    return likely[: len(asked), : len(keys)]


_vectors, _likeness = jax.jit(relation_vectors), jax.jit(likeness)


def _filled(rows: Float[AnyArray, "rows columns"]) -> Float[np.ndarray, "height columns"]:
    """Rows with zeros after them, as many as a bucket holds."""
    return np.pad(to_host(rows), [(0, bucket(len(rows)) - len(rows)), (0, 0)])


def _roots(
    head: RelationHead, vectors: Float[Array, "*batch relation"]
) -> Float[Array, "*batch bank"]:
    """Square roots of the distributions over the bank."""
    return jnp.sqrt(jax.nn.softmax(SHARPNESS * vectors @ head.bank.T, axis=-1))
