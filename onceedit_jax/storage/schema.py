"""Schemas: what a file's values must be, checked before any of them is used.

A file of JSON, YAML or GGUF metadata says sizes, names and numbers. Each format has one schema made
of the kinds below, beside its reader. `check` walks the values once and allocates nothing.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from onceedit_jax.errors import InputError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 2, 3, 4
DEPTH = 64  # levels of lists and objects inside one another


class Mismatch(Exception):
    """A value is not what its schema says: the key, the value and what was expected."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(f"{key or 'the whole file'} is {shown(value)}; expected {expected}")


@runtime_checkable
class Kind(Protocol):
    """What a value must be."""

    @property
    def expected(self) -> str:
        """For messages."""

    def check(self, value: Any, key: str) -> None:
        """Raise `Mismatch` if `value`, found at `key`, is not of this kind."""


@runtime_checkable
class Quick(Protocol):
    """A kind that looks at many values at once: a vocabulary has hundreds of thousands."""

    def holds_all(self, values: Collection[Any]) -> bool:
        """Whether all values are of this kind; if not, `check` finds the one that is not."""


def check(kind: Kind, values: Any, *, file: object, remedy: str) -> None:
    """Check the values of a file.

    Args:
      kind: the format's schema.
      values: what was read.
      file: for the message.
      remedy: what to do about a mismatch.

    Raises:
      InputError: naming file, key, value, what was expected and the remedy.
    """
    try:
        kind.check(values, "")
    except Mismatch as error:
        raise InputError(f"{file}: {error}: {remedy}") from None


def shown(value: object) -> str:
    """A value for a message: short, on one line, control characters escaped."""
    return _SHORT.repr(value)


@dataclass(frozen=True)
class Integer:
    """A whole number from `least` to `most`; true and 2.0 are none."""

    least: int = 0
    most: int = 2**63 - 1

    @property
    def expected(self) -> str:
        """For messages."""
        return f"a whole number from {self.least} to {self.most}"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if type(value) is not int or not self.least <= value <= self.most:
            raise Mismatch(key, value, self.expected)

    def holds_all(self, values: Collection[Any]) -> bool:
        """See `Quick`."""
        return (
            set(map(type, values)) <= {int}
            and min(values, default=self.least) >= self.least
            and max(values, default=self.least) <= self.most
        )


@dataclass(frozen=True)
class Number:
    """A finite number from `least` to `most`."""

    least: float = -math.inf
    most: float = math.inf

    @property
    def expected(self) -> str:
        """For messages."""
        if math.isinf(self.least) and math.isinf(self.most):
            return "a finite number"
        return f"a number from {self.least:g} to {self.most:g}"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        # The range comes first: a whole number may be too large for a float.
        if type(value) not in (int, float) or not self.least <= value <= self.most:
            raise Mismatch(key, value, self.expected)
        if isinstance(value, float) and not math.isfinite(value):
            raise Mismatch(key, value, self.expected)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    expected: str = "true or false"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if type(value) is not bool:
            raise Mismatch(key, value, self.expected)


@dataclass(frozen=True)
class Text:
    """A text of at most `most` characters, one of `choices` where there are any."""

    choices: tuple[str, ...] = ()
    most: int = 1 << 20
    least: int = 0

    @property
    def expected(self) -> str:
        """For messages."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return f"text of {self.least} to {self.most} characters"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if type(value) is not str or not self.least <= len(value) <= self.most:
            raise Mismatch(key, value, self.expected)
        if self.choices and value not in self.choices:
            raise Mismatch(key, value, self.expected)

    def holds_all(self, values: Collection[Any]) -> bool:
        """See `Quick`."""
        if self.choices or not set(map(type, values)) <= {str}:
            return False
        sizes = set(map(len, values)) or {self.least}
        return min(sizes) >= self.least and max(sizes) <= self.most


@dataclass(frozen=True)
class Maybe:
    """Null, or of another kind."""

    kind: Kind

    @property
    def expected(self) -> str:
        """For messages."""
        return f"{self.kind.expected}, or null"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if value is not None:
            self.kind.check(value, key)


@dataclass(frozen=True)
class AnyOf:
    """Of one of several kinds."""

    kinds: tuple[Kind, ...]

    @property
    def expected(self) -> str:
        """For messages."""
        return ", or ".join(kind.expected for kind in self.kinds)

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        inner: list[Mismatch] = []
        for kind in self.kinds:
            try:
                return kind.check(value, key)
            except Mismatch as error:
                inner.append(error)
        structured = isinstance(value, list | dict)
        raise inner[-1] if structured else Mismatch(key, value, self.expected)


@dataclass(frozen=True)
class ListOf:
    """A list of values of one kind."""

    kind: Kind
    most: int = 1 << 24
    least: int = 0

    @property
    def expected(self) -> str:
        """For messages."""
        return f"a list of {self.least} to {self.most} values"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise Mismatch(key, value, self.expected)
        if isinstance(self.kind, Quick) and self.kind.holds_all(value):
            return
        for index, item in enumerate(value):
            self.kind.check(item, f"{key}[{index}]")


@dataclass(frozen=True)
class Texts:
    """A list of texts that a reader of ours has made, each of at most `longest` characters."""

    longest: int

    @property
    def expected(self) -> str:
        """For messages."""
        return f"a list of texts of at most {self.longest} characters"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if not isinstance(value, list):
            raise Mismatch(key, value, self.expected)
        longest = max(value, key=len, default="")
        if len(longest) > self.longest:
            raise Mismatch(key, longest, self.expected)


@dataclass(frozen=True)
class Numbers:
    """An array of finite numbers.

    Attributes:
      kinds: of its dtype, as numpy abbreviates them.
      least: least value.
      most: largest value.
    """

    kinds: str
    least: float = -math.inf
    most: float = math.inf

    @property
    def expected(self) -> str:
        """For messages."""
        kind = "finite numbers" if "f" in self.kinds else "whole numbers"
        return f"an array of {kind} from {self.least:g} to {self.most:g}"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if not isinstance(value, np.ndarray) or value.dtype.kind not in self.kinds:
            raise Mismatch(key, value, self.expected)
        wrong = ~((value >= self.least) & (value <= self.most) & np.isfinite(value))
        if wrong.any():
            raise Mismatch(f"{key}[{wrong.argmax()}]", value[wrong.argmax()].item(), self.expected)


@dataclass(frozen=True)
class ObjectOf:
    """An object whose values are all of one kind."""

    kind: Kind
    most: int = 1 << 24

    @property
    def expected(self) -> str:
        """For messages."""
        return f"an object of at most {self.most} values"

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if not isinstance(value, dict) or len(value) > self.most:
            raise Mismatch(key, value, self.expected)
        if isinstance(self.kind, Quick) and self.kind.holds_all(value.values()):
            return
        for name, item in value.items():
            self.kind.check(item, joined(key, name))


@dataclass(frozen=True)
class Record:
    """An object with known keys.

    Attributes:
      fields: the kind of each key; those that are absent are not checked.
      required: keys that must be there.
      closed: whether other keys are refused, because a setting would be ignored in silence.
    """

    fields: Mapping[str, Kind] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    closed: bool = False

    @property
    def expected(self) -> str:
        """For messages."""
        return "an object" + (f" with {', '.join(self.required)}" if self.required else "")

    def check(self, value: Any, key: str) -> None:
        """See `Kind`."""
        if not isinstance(value, dict):
            raise Mismatch(key, value, self.expected)
        for name in self.required:
            if name not in value:
                raise Mismatch(joined(key, name), None, "a value: it is missing")
        for name, item in value.items():
            if name in self.fields:
                self.fields[name].check(item, joined(key, name))
            elif self.closed and item is not None:
                known = ", ".join(self.fields)
                raise Mismatch(joined(key, name), item, f"no such key; known are {known}")


def joined(key: str, name: object) -> str:
    """The key of a value inside the value at `key`."""
    inner = name if isinstance(name, str) and name.isprintable() else repr(name)
    return f"{key}.{inner}"[:200] if key else str(inner)[:200]


def check_depth(value: Any, *, most: int = DEPTH) -> None:
    """Refuse values inside one another too deeply for whoever walks them later.

    Raises:
      Mismatch: more than `most` levels.
    """
    level: list[Any] = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return
    raise Mismatch("", value, f"at most {most} levels of lists and objects")
