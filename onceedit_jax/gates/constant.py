"""A gate that is always open to the same degree, as in DeePEn."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from onceedit_jax.errors import InputError
from onceedit_jax.gates.types import Gate, GateFeatures


@dataclasses.dataclass(frozen=True)
class FixedSettings:
    """Settings of the gate `fixed`.

    Attributes:
      weight: alpha of every prompt, from 0 to 1.
    """

    weight: float


def fixed(weight: float = 0.5) -> Gate:
    """The same alpha for every prompt.

    Raises:
      InputError: a weight outside 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"fixed alpha {weight}: expected a weight from 0 to 1")
    return _fixed(float(weight))


@cache
def _fixed(weight: float) -> Gate:
    def score(state: Any, features: GateFeatures) -> jax.Array:
        return jnp.full(features.words.shape[0], weight, jnp.float32)

    return Gate(
        "fixed",
        lambda features, labels: {},
        score,
        threshold=0.0,
        settings=FixedSettings(weight),
    )
