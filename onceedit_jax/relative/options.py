"""Names of normalizations and of kinds of tables; this module imports no JAX."""

from typing import Literal

Normalization = Literal["centered", "deepen"]
Kind = Literal["topk", "dense", "exact"]
