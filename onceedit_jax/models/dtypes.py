"""Names of the types that weights are loaded and exported in."""

from typing import Literal

FloatDtype = Literal["float32", "bfloat16", "float16"]
WeightDtype = Literal["float32", "bfloat16", "float16", "int8"]
"""`int8` is for the layers' matrices; all other weights are then bfloat16."""
