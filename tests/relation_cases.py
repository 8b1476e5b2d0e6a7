"""A small bank of relations, and quick settings of a head, that several tests share."""

import dataclasses

import jax.numpy as jnp

from onceedit_jax.data.relations import Relation
from onceedit_jax.editing.gate_training import learn_relation_head
from onceedit_jax.editing.head_settings import HeadSettings

ASKED = ("capital", "river", "writer", "mayor", "colour", "song", "bird", "price", "age", "size")
QUICK = HeadSettings(layers=1, width=8, steps=60, forms=1)


def relation(name):
    return Relation(
        name,
        frozenset({"place"}),
        (f"What is the {name} of {{subject}}?", f"Which {name} does {{subject}} have?"),
        (f"The {name} of {{subject}} is", f"{{subject}} has the {name}"),
        (f"Name the {name} of {{subject}}.",),
        f"The {name} of {{subject}} is {{answer}}.",
    )


BANK = tuple(map(relation, ASKED))


def sharp_head(model, tokenizer):
    """A head that takes two texts for one if their cosine is above one half.

    A tiny random model tells relations that it has not seen too badly to be calibrated on them.
    """
    learnt = learn_relation_head(model, tokenizer, QUICK, bank=BANK)
    head = learnt.head._replace(weights=jnp.array([40.0, 0.0]), bias=jnp.float32(-20))
    return dataclasses.replace(learnt, head=head)
