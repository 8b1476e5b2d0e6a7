"""Names of the types that weights are held and exported in, and that models multiply in."""

from typing import Literal

FloatDtype = Literal["float32", "bfloat16", "float16"]
WeightDtype = Literal["float32", "bfloat16", "float16", "int8"]
"""`int8` is for the matrices; embeddings are then float16, norms and biases bfloat16."""
ComputeDtype = Literal["float32", "bfloat16"]
"""Of the operands of matrix products; sums are float32."""


def default_compute_dtype(
    platform: str,
    weights: str = "float32",
    *,
    training: bool = False,
    short_products: bool = False,
) -> ComputeDtype:
    """The type that a model multiplies in where none is asked for.

    Args:
        platform: Of the devices that it runs on: `cpu`, `gpu` or `tpu`.
        weights: Type of its weights, those in eight bits aside.
        training: Whether it is trained: the sums, the gradients and the weights that are trained
            are then float32, so that operands can be shorter.
        short_products: Whether a CPU trains faster with operands in bfloat16.

    Returns:
        float32 on CPU, except for training with `short_products`. On other devices bfloat16 for
        training and for weights in bfloat16, and float32 for weights with more digits.
    """
    if platform == "cpu":
        return "bfloat16" if training and short_products else "float32"
    return "bfloat16" if training or weights == "bfloat16" else "float32"
