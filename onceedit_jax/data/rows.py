"""One row of a data set, as a reader gets it: its values, and errors that name its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onceedit_jax.data.records import Pair
from onceedit_jax.errors import InputError

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class Row:
    """One row of a source. Its methods check types, and their errors name the row's place.

    A key counts as absent where its value is null, an empty text, an empty list or an empty object.

    Attributes:
      place: where the row is, as in "facts.jsonl:3".
      values: the row's keys and values, as the file has them.
    """

    place: str
    values: Mapping[str, Any]

    def error(self, message: str) -> InputError:
        """An error about this row, for a reader to raise."""
        return InputError(f"{self.place}: {message}")

    def has(self, *keys: str) -> bool:
        """Whether every one of these keys is there with a value."""
        return all(self.values.get(key) not in (None, "", [], {}) for key in keys)

    def text(self, key: str) -> str:
        """The text under a key.

        Raises:
          InputError: the key is absent, or its value is not a text.
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

        Raises:
          InputError: the value is something else.
        """
        value = self.values[key] if self.has(key) else []
        items = [value] if isinstance(value, str) else self._as(list, key, value)
        return tuple(self._text(f"{key}[{n}]", item) for n, item in enumerate(items))

    def row(self, key: str) -> "Row":
        """The object under a key as a row; an empty row where the key is absent.

        Raises:
          InputError: the value is not an object.
        """
        value = self.values[key] if self.has(key) else {}
        return Row(f"{self.place}, {key}", self._as(dict, key, value))

    def rows(self, key: str) -> list["Row"]:
        """The objects of the list under a key as rows; none where the key is absent.

        Raises:
          InputError: the value is not a list of objects.
        """
        items = self._as(list, key, self.values[key] if self.has(key) else [])
        return [
            Row(f"{self.place}, {key}[{n}]", self._as(dict, f"{key}[{n}]", item))
            for n, item in enumerate(items)
        ]

    def pair(self, prompt: str, target: str) -> tuple[Pair, ...]:
        """The pair under two keys, or nothing where one is absent: it could not be scored.

        Raises:
          InputError: a value is not a text.
        """
        if not self.has(prompt, target):
            return ()
        return (Pair(self.text(prompt), self.text(target)),)

    def _text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            shown = repr(value) if isinstance(value, int | float | str) else _kind(value)
            raise self.error(f"{key} is {shown}; expected text (numbers in quotes)")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(
                f"{key} holds half a character (an unpaired \\u escape): {value!r}"
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
    if not isinstance(value, dict):
        raise InputError(f"{place}: the row is {_kind(value)}; expected {_KINDS[dict]}")
    return Row(place, value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), f"{value!r} ({type(value).__name__})")
