"""Reads a user's own questions about the edits of a plug-in, from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from onceedit_jax.data.files import read_rows
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord
from onceedit_jax.data.rows import Row
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.probes import Expects, Probe, told_fact

KEYS = ("question", "expects", "edit", "answer", "column")
# The column of a row that names none.
COLUMNS: dict[Expects, str] = {
    "new": "New answer",
    "unchanged": "Unchanged",
    "answer": "Given answer",
}


def load_questions(
    path: str | Path, records: Sequence[EditRecord], numbers: Sequence[int] | None = None
) -> list[Probe]:
    """The questions of a file, one object a line.

    A row has `question`; `expects`: "new", "unchanged" or "answer"; `edit`: the edit's number, or
    its subject or prompt; `answer`, a text or several, where that is expected; and, if it
    likes, `column`: the name of what it measures.

    Args:
      path: the file.
      records: the edits.
      numbers: what each is called (default: from 1).

    Raises:
      InputError: a row that is no such question; the message names its line, what it has and what
        was expected. Or there is no edit to ask about.
    """
    if not records:
        raise InputError(f"{path}: the plug-in has no edit that answers; there is nothing to ask")
    places = _places(records)
    numbers = range(1, len(records) + 1) if numbers is None else numbers
    probes = [_question(row, records, numbers, places) for row in read_rows(path)]
    if not probes:
        raise InputError(f"{path}: holds no question; give one JSON object a line")
    return probes


def _question(
    row: Row,
    records: Sequence[EditRecord],
    numbers: Sequence[int],
    places: dict[str, list[int]],
) -> Probe:
    if unknown := [key for key in row.values if key not in KEYS]:
        raise row.error(f"unknown key {unknown[0]!r}; expected {', '.join(KEYS)}")
    expects = _expects(row)
    place = _place(row, numbers, places)
    answers = row.texts("answer")
    if bool(answers) != (expects == "answer"):
        wanted = "an answer" if expects == "answer" else "no answer"
        found = repr(row.values["answer"]) if answers else "none"
        raise row.error(f'answer: found {found}; expected {wanted} where expects is "{expects}"')
    also = tuple(map(told_fact, records[place].accepted)) if expects == "new" else ()
    return Probe(
        row.text_or_none("column") or COLUMNS[expects],
        place,
        row.text("question"),
        told_fact(records[place].target),
        expects=expects,
        answers=answers or also,
    )


def _expects(row: Row) -> Expects:
    known: tuple[Expects, ...] = get_args(Expects)
    found = row.text("expects")
    for each in known:
        if each == found:
            return each
    raise row.error(f"expects: found {found!r}; expected {', '.join(known)}")


def _place(row: Row, numbers: Sequence[int], places: dict[str, list[int]]) -> int:
    """The place of the edit that a row is about."""
    given = row.values.get("edit")
    if isinstance(given, str) and (named := places.get(normalise(given))):
        if len(named) > 1:
            several = ", ".join(str(numbers[place]) for place in named)
            raise row.error(f"edit: {given!r} is edits {several}; give the number of one")
        return named[0]
    # CSV has texts alone.
    number = int(given) if isinstance(given, str) and given.strip().isdecimal() else given
    if isinstance(number, int) and not isinstance(number, bool) and number in numbers:
        return numbers.index(number)
    raise row.error(
        f"edit: found {given!r}; expected a number from {min(numbers)} to {max(numbers)}, or the "
        "subject or the prompt of an edit (`onceedit list` has them)"
    )


def _places(records: Sequence[EditRecord]) -> dict[str, list[int]]:
    """The places of the edits by what they are called."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        names = {normalise(name) for name in (record.prompt, record.subject or "", *record.aliases)}
        for name in names - {""}:
            places.setdefault(name, []).append(place)
    return places
