"""A LoRA adapter on its base model, read as one checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32

from onceedit_jax.errors import InputError
from onceedit_jax.models.assembly import TensorSource, some
from onceedit_jax.models.tensors import Box
from onceedit_jax.storage.peft_files import PEFT_CONFIG, Adapter, merging
from onceedit_jax.types import HostArray

_FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", re.ASCII)


class LoraSource:
    """The tensors of the base; those with factors have `scale * B A` added.

    Args:
        adapter: What its folder says.
        weights: Its factors, A [r, in] and B [out, r], named as PEFT names them.
        base: The base model's tensors.

    Raises:
        InputError: Tensors that are no such factors, or whose shapes do not fit the base.
    """

    def __init__(self, adapter: Adapter, weights: TensorSource, base: TensorSource) -> None:
        self.path, self._adapter = adapter.folder, adapter
        self._weights, self._base = weights, base
        matches = {name: _FACTOR.fullmatch(name) for name in weights.names()}
        if others := [name for name, match in matches.items() if match is None]:
            raise self._refused(f"tensor {some(others)}; expected lora_A and lora_B alone")
        self._factors: dict[str, dict[str, str]] = {}
        for stored, match in matches.items():
            if match is None:
                continue
            sides = self._factors.setdefault(f"{match[1]}.weight", {})
            if sides.setdefault(match[2], stored) != stored:
                raise self._refused(f"tensors {sides[match[2]]} and {stored} are one factor")
        if not self._factors:
            raise self._refused("no factors; expected lora_A and lora_B of some matrices")
        there = set(base.names())
        for name, sides in self._factors.items():
            if name not in there:
                raise self._refused(f"factors of {name}, which {base.path} does not have")
            if not adapter.has(name.removesuffix(".weight")):
                raise self._refused(
                    f"factors of {name}, which {PEFT_CONFIG} leaves out (target_modules, "
                    "exclude_modules, layers_to_transform)"
                )
            if set(sides) != {"A", "B"}:
                raise self._refused(f"one factor of {name}; expected lora_A and lora_B")
            a, b = (weights.shape(sides[side]) for side in "AB")
            product = (b[0], a[1]) if len(a) == len(b) == 2 else ()
            ranks = {*a[:1], *b[1:], adapter.rank}
            if len(ranks) > 1 or product[:: -1 if adapter.transposed else 1] != base.shape(name):
                raise self._refused(
                    f"factors of {name} of shapes {list(b)} and {list(a)}; expected a product of "
                    f"{list(base.shape(name))} with rank {adapter.rank}"
                )

    def names(self) -> Iterable[str]:
        """The names of the base's tensors."""
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; reads no data."""
        return self._base.shape(name)

    def read(self, name: str, out: HostArray) -> None:
        """Fill `out` with the sum, computed in float32."""
        if name not in self._factors:
            self._base.read(name, out)
            return
        whole = np.empty(out.shape, np.float32)
        self._base.read(name, whole)
        whole += self._product(name)
        out[...] = whole

    def read_box(self, name: str, box: Box, out: HostArray) -> None:
        """Fill `out` with the values in a box of the sum."""
        if name not in self._factors:
            self._base.read_box(name, box, out)
            return
        part = np.empty(out.shape, np.float32)
        self._base.read_box(name, box, part)
        part += self._product(name)[box]
        out[...] = part

    def _product(self, name: str) -> Float32[np.ndarray, "rows columns"]:
        factors = []
        for side in "BA":
            stored = self._factors[name][side]
            factors.append(values := np.empty(self._weights.shape(stored), np.float32))
            self._weights.read(stored, values)
        product: HostArray = factors[0] @ factors[1] * np.float32(self._adapter.scale)
        return product.T if self._adapter.transposed else product

    def _refused(self, what: str) -> InputError:
        return InputError(f"{self.path}: LoRA adapter: {what}: {merging(self.path)}")
