"""A bank of relations and the ways in which people ask for them, written for this project."""

import dataclasses
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from onceedit_jax.data.records import demo_path
from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import parse_yaml, read_text
from onceedit_jax.storage.schema import shown

SUBJECT, ANSWER = "{subject}", "{answer}"


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation, and how it is asked for.

    Attributes:
      name: its usual name, as in an encyclopedia.
      kinds: what kinds of subject have it.
      questions: questions with `{subject}` in the subject's place.
      statements: openings that the bare answer completes.
      requests: sentences that ask for the answer.
      sentence: a whole sentence that tells the fact, with `{subject}` and `{answer}`.
    """

    name: str
    kinds: frozenset[str]
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    requests: tuple[str, ...]
    sentence: str

    @property
    def wordings(self) -> tuple[str, ...]:
        """Everything that asks for the answer alone."""
        return (*self.questions, *self.statements, *self.requests)


@cache
def relation_bank() -> tuple[Relation, ...]:
    """The relations of `relations.yaml`, by name."""
    return load_relations(demo_path("relations.yaml"))


def load_relations(path: Path) -> tuple[Relation, ...]:
    """Relations of a YAML file in the layout of the bank: a list of the fields of `Relation`.

    Raises:
      InputError: no such file, or an entry that is no relation; the message names both.
    """
    try:
        rows = parse_yaml(read_text(path), path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file of relations") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds a {type(rows).__name__}; expected a list of relations")
    relations = tuple(_relation(row, f"{path}, relation {n}") for n, row in enumerate(rows, 1))
    for name, count in Counter(each.name for each in relations).items():
        if count > 1:
            raise InputError(f"{path}: {count} relations are called {shown(name)}; expected one")
    return relations


def _relation(row: Any, place: str) -> Relation:
    """An entry of the file, checked."""
    names = [field.name for field in dataclasses.fields(Relation)]
    if not isinstance(row, dict) or sorted(row) != sorted(names):
        found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise InputError(f"{place}: expected the keys {', '.join(names)}, found {found}")
    for key in ("name", "sentence"):
        if not isinstance(row[key], str) or not row[key].strip() or not row[key].isprintable():
            raise InputError(f"{place}, {key}: expected a text, found {shown(row[key])}")
    lists = {key: row[key] for key in names if key not in ("name", "sentence")}
    for key, values in lists.items():
        if not (isinstance(values, list) and values and all(isinstance(v, str) for v in values)):
            raise InputError(f"{place}, {key}: expected a list of texts, found {shown(values)}")
    texts = [*row["questions"], *row["statements"], *row["requests"], str(row["sentence"])]
    for text in texts:
        if text.count(SUBJECT) != 1:
            raise InputError(f"{place}: expected {SUBJECT} once in each text, found {shown(text)}")
    if texts[-1].count(ANSWER) != 1:
        raise InputError(f"{place}, sentence: expected {ANSWER} once, found {shown(texts[-1])}")
    kinds = frozenset(lists.pop("kinds"))
    return Relation(
        str(row["name"]), kinds, **{k: tuple(v) for k, v in lists.items()}, sentence=texts[-1]
    )
