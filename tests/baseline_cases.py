"""Edits, texts and readings that the tests of the editors share."""

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.data.records import EditRecord
from onceedit_jax.distributed.bucketing import pad_rows, row_positions
from onceedit_jax.editing.batches import TextBatch
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.models.intervention import observe

# Random layers carry little from one token to the next: the subject is the last, the target one.
LOCATED = [
    EditRecord("What is the capital of Norland", "Orchard", subject="Norland"),
    EditRecord("Who wrote The Glass Orchard", "river", subject="The Glass Orchard"),
    EditRecord("Which river runs through Vinterby", "capital", subject="Vinterby"),
]
TEXTS = ("How far is the harbour from the old bridge?", "the cat sat on the mat", "an été à la mer")
reading = jax.jit(observe, static_argnames=("config", "layer", "change"))
running = jax.jit(hidden_states, static_argnames="config")


def token_batch(model, tokenizer, texts=TEXTS):
    """The texts with three columns of padding after the longest of them."""
    rows = [tokenizer.encode(text) for text in texts]
    width = max(map(len, rows)) + 3
    positions = row_positions([len(row) for row in rows], width=width)
    return TextBatch(jnp.asarray(pad_rows(rows, width=width)), jnp.asarray(positions))


def says(config, states, params, rows):
    """Whether each row's target is the argmax at every one of its positions."""
    read = jnp.take_along_axis(states, rows.columns[:, :, None], axis=1)
    said = jnp.argmax(unembed(params, config, read), -1)
    return np.asarray(jnp.all((said == rows.targets) | (rows.targets < 0), axis=1))
