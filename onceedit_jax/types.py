"""Types that the rooms share: parameter trees, and arrays with their shapes.

Shapes are written with jaxtyping: `Float[Array, "batch vocab"]` is a floating-point array of two
axes. The names of axes mean the same everywhere:

    batch    rows that are computed together           vocab   embedding rows of a model (V)
    length   tokens of a row, padding included         embed   width of the residual stream (D)
    slots    capacity of the key/value cache           mlp     width inside the MLP (F)
    heads    attention heads                           head    width of a head (K)

The annotations are documentation in use; the tests check them on every call.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from onceedit_jax.host_array import HostArray as HostArray

Params = dict[str, Any]
"""A model's parameters: nested dicts of arrays; `models.parameters.init_params` has the layout."""

AnyArray = jax.Array | np.ndarray
"""An array on a device or in the memory of this host."""

Tokens = Int[AnyArray, "batch length"]
"""Token ids of rows, int32; what stands under padding is never attended to."""

Positions = Int[AnyArray, "batch length"]
"""Place of every token in its row, int32; -1 marks padding, on either side."""

Hidden = Float[jax.Array, "batch length embed"]
"""States of the residual stream."""

Logits = Float[jax.Array, "batch vocab"]
"""One row of float32 logits for each prompt."""

RowMask = Bool[jax.Array, " batch"]
"""A flag for each row."""
