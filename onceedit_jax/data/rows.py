"""One row of a data set, as a reader gets it: its values, and errors that name its place."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onceedit_jax.data.records import Pair
from onceedit_jax.errors import InputError
from onceedit_jax.storage.schema import shown

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
_MOST_WHOLE = 10**100  # longer numbers are no answers, and Python does not write the longest
_MOST_KEYS = 1000
_ABSENT: tuple[Any, ...] = (None, "", [], {})


class Written(float):
    """A number that is not whole, with the text that the file has: 2.50 stays "2.50"."""

    def __new__(cls, text: str) -> "Written":
        """The number that a text of JSON means."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


class Noted(dict[str, Any]):
    """An object of a row, which notes the keys that a reader asks for.

    Attributes:
      asked: keys that were asked for, whether or not they are there.
      inner: objects inside it that were read as rows, each with the key it is under.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Begin with the values; nothing was asked for yet."""
        super().__init__(values)
        self.asked: set[str] = set()
        self.inner: list[tuple[str, Noted]] = []

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, which counts as asked for."""
        self.asked.add(key)
        return super().get(key, default)

    def unread(self, path: str = "") -> Iterator[tuple[str, frozenset[str]]]:
        """Keys with a value that nobody asked for, as in "portability.Reasoning".

        Each comes with the keys beside it that were asked for and are not there.
        """
        there = {key for key, value in self.items() if value not in _ABSENT}
        missing = frozenset(self.asked - there)
        for key in self:
            if key in there and key not in self.asked:
                yield f"{path}{key}", missing
        for key, inner in self.inner:
            yield from inner.unread(f"{path}{key}.")


@dataclass(frozen=True)
class Row:
    """One row of a source. Its methods check types, and their errors name the row's place.

    A key counts as absent where its value is null, an empty text, an empty list or an empty object.
    A number is a text too: 1867 is read as "1867". Keys that no method was asked for are named to
    the user, see `Noted`.

    Attributes:
      place: where the row is, as in "facts.jsonl:3".
      values: the row's keys and values, as the file has them.
    """

    place: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Let the values note what is asked for."""
        if not isinstance(self.values, Noted):
            object.__setattr__(self, "values", Noted(self.values))

    def unread(self) -> Iterator[tuple[str, frozenset[str]]]:
        """See `Noted.unread`."""
        assert isinstance(self.values, Noted)
        return self.values.unread()

    def error(self, message: str) -> InputError:
        """An error about this row, for a reader to raise."""
        return InputError(f"{self.place}: {message}")

    def has(self, *keys: str) -> bool:
        """Whether every one of these keys is there with a value."""
        return all([self.values.get(key) not in _ABSENT for key in keys])

    def either(self, *keys: str) -> str:
        """The first of these keys that is there with a value; where none is, the first.

        Another one that is there too does not count as understood: what it says is not read.
        """
        there = [key for key, value in dict(self.values).items() if value not in _ABSENT]
        chosen = next((key for key in keys if key in there), keys[0])
        for key in keys:
            if key == chosen or key not in there:
                self.values.get(key)
        return chosen

    def text(self, key: str) -> str:
        """The text under a key; a number as it is written.

        Raises:
          InputError: the key is absent, or its value is neither a text nor a number.
        """
        if not self.has(key):
            raise self.error(f"no {key}; there are {', '.join(self.values)}")
        return self._text(key, self.values[key])

    def text_or_none(self, key: str) -> str | None:
        """The text under a key, or None where the key is absent.

        Raises:
          InputError: the value is not a text.
        """
        return self.text(key) if self.has(key) else None

    def texts(self, key: str) -> tuple[str, ...]:
        """One text or a list of texts under a key; empty where the key is absent.

        Lists in the list are read as one list, and null or "" in it are left out.

        Raises:
          InputError: the value is something else.
        """
        value = self.values[key] if self.has(key) else []
        if not isinstance(value, list):
            return (self._text(key, value),)
        found = []
        for n, item in enumerate(value):
            for each in item if isinstance(item, list) else [item]:
                if each not in _ABSENT:
                    found.append(self._text(f"{key}[{n}]", each))
        return tuple(found)

    def row(self, key: str) -> "Row":
        """The object under a key as a row; an empty row where the key is absent.

        Raises:
          InputError: the value is not an object.
        """
        value = self.values[key] if self.has(key) else {}
        return self._inner(f"{self.place}, {key}", key, self._as(dict, key, value))

    def rows(self, key: str) -> list["Row"]:
        """The objects of the list under a key as rows; none where the key is absent.

        Raises:
          InputError: the value is not a list of objects.
        """
        items = self._as(list, key, self.values[key] if self.has(key) else [])
        return [
            self._inner(f"{self.place}, {key}[{n}]", key, self._as(dict, f"{key}[{n}]", item))
            for n, item in enumerate(items)
        ]

    def pair(self, prompt: str, target: str, *, kind: str = "") -> tuple[Pair, ...]:
        """The pair under two keys, or nothing where one is absent: it could not be scored.

        Where the answer is a list, the first is the answer and the others are accepted too.

        Raises:
          InputError: a value is not a text.
        """
        if not self.has(prompt, target) or not (answers := self.texts(target)):
            return ()
        return (Pair(self.text(prompt), answers[0], answers[1:], kind),)

    def _inner(self, place: str, key: str, values: dict[str, Any]) -> "Row":
        inner = Noted(values)
        assert isinstance(self.values, Noted)
        self.values.inner.append((key, inner))
        return Row(place, inner)

    def _text(self, key: str, value: Any) -> str:
        if type(value) is int and abs(value) < _MOST_WHOLE:
            return str(value)
        if isinstance(value, float) and math.isfinite(value):
            return _number(value)
        if not isinstance(value, str) or not value.strip():
            if isinstance(value, bool):
                word = str(value).lower()
                raise self.error(f'{key} is {word}; expected text: write "{word}" in quotes')
            found = shown(value) if isinstance(value, int | float | str) else _kind(value)
            raise self.error(f"{key} is {found}; expected text or a number")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(
                f"{key} holds half a character (an unpaired \\u escape): {shown(value)}"
            ) from error
        return value

    def _as(self, kind: type, key: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise self.error(f"{key} is {_kind(value)}; expected {_KINDS[kind]}")
        return value


def to_row(place: str, value: Any) -> Row:
    """A source's value as a row; a plain string becomes `{"text": string}`.

    Raises:
      InputError: the value is neither an object nor a string.
    """
    if isinstance(value, str):
        value = {"text": value}
    if isinstance(value, dict) and len(value) > _MOST_KEYS:
        raise InputError(
            f"{place}: the row has {len(value)} keys; expected at most {_MOST_KEYS}: give each "
            "edit a row of its own"
        )
    if not isinstance(value, dict):
        raise InputError(f"{place}: the row is {_kind(value)}; expected {_KINDS[dict]}")
    return Row(place, value)


def _number(value: float) -> str:
    """A number as people write it; where a table made 1867.0 of 1867 it is 1867 again."""
    if isinstance(value, Written):
        return value.text
    whole = value.is_integer() and abs(value) < 2**53
    return str(int(value)) if whole else repr(value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value)) or f"{shown(value)} ({type(value).__name__})"
