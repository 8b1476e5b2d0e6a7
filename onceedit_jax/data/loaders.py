"""Loads edits and unrelated rows: any source, any reader, one record type."""

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from onceedit_jax.data.files import read_rows
from onceedit_jax.data.readers import (
    Reader,
    detect_reader,
    known_readers,
    matching_reader,
    reader_by_name,
)
from onceedit_jax.data.records import EditRecord, UnrelatedRow
from onceedit_jax.data.rows import Row
from onceedit_jax.data.unread import Unread
from onceedit_jax.errors import InputError

OnWarning = Callable[[str], None]
WARN: OnWarning = partial(warnings.warn, stacklevel=3)


def load_records(
    source: str | Path,
    format: str | Reader = "auto",
    *,
    limit: int | None = None,
    on_warning: OnWarning = WARN,
) -> list[EditRecord]:
    """Read edits.

    Duplicates and contradicting edits stay in the list: an evaluation scores the file as it is.
    `duplicates` and `contradicting` of `data.records` find them.

    Args:
      source: a file (.json list, .jsonl, .csv, .parquet), or the hub name of a data set,
        `NAME[:SPLIT]`.
      format: a `Reader`, a reader's name, or `auto` for the first known reader that matches the
        first row.
      limit: read the first rows only. An MQuAKE row is a case of several edits, which stay
        together: its multi-hop questions need them all.
      on_warning: called with one line that names all keys that were not understood, if there are
        any (default: Python's `warnings.warn`).

    Returns:
      Records in file order; `index` counts them from 0.

    Raises:
      InputError: naming file and line of anything that is not a record.
    """
    reader, unread = _chosen(format), Unread(source)
    records: list[EditRecord] = []
    for row in itertools.islice(read_rows(source), _at_least_one(limit)):
        reader = reader or detect_reader(row, known_readers())
        records += _read(reader, row)
        unread.add(row, reader.unused)
    if text := unread.message():
        on_warning(text)
    if not records:
        raise InputError(f"{source}: no records; expected at least one edit")
    return [replace(record, index=i) for i, record in enumerate(records)]


def load_unrelated(
    source: str | Path,
    format: str | Reader = "auto",
    *,
    limit: int | None = None,
    on_warning: OnWarning = WARN,
) -> list[UnrelatedRow]:
    """Read unrelated rows.

    Args:
      source: a file or hub name whose rows are strings, texts (`{"text"}`, `{"Corpus", "Text"}`),
        prompts (`{"prompt", "answer"?}`), or edits of a data set. Of edits, only the locality
        questions are unrelated rows.
      format: how edits are read, as for `load_records`. With a reader given, every row is edits.
      limit: return the first unrelated rows only.
      on_warning: as for `load_records`.

    Raises:
      InputError: naming file and line of anything else.
    """
    limit, reader, unread = _at_least_one(limit), _chosen(format), Unread(source)
    # Rows may be of several kinds, so that each one decides how it is read.
    readers = {} if reader else known_readers()
    every = itertools.chain.from_iterable(
        _locality(row, reader, unread) if reader else _unrelated(row, readers, unread)
        for row in read_rows(source)
    )
    rows = list(itertools.islice(every, limit))
    if text := unread.message():
        on_warning(text)
    if not rows:
        raise InputError(
            f"{source}: no unrelated rows; expected strings, rows with prompt and answer, or edits "
            "with locality questions"
        )
    return rows


def _chosen(format: str | Reader) -> Reader | None:
    """The reader that the caller chose; None where the first row decides."""
    if isinstance(format, Reader):
        return format
    return None if format == "auto" else reader_by_name(format)


def _read(reader: Reader, row: Row) -> list[EditRecord]:
    records = list(reader.read(row))
    for record in records:
        if not isinstance(record, EditRecord):
            raise row.error(
                f"reader {reader.name} gave a {type(record).__name__}; expected a list of "
                "EditRecord"
            )
    return records


def _unrelated(row: Row, readers: Mapping[str, Reader], unread: Unread) -> list[UnrelatedRow]:
    if reader := matching_reader(row.values, readers):
        return _locality(row, reader, unread)
    for key in ("text", "Text"):
        if row.has(key) and not row.has("prompt"):
            found = UnrelatedRow(row.text(key), source=row.place)
            break
    else:
        if "prompt" not in row.values:
            detect_reader(row, readers)  # raises: the row has no known format
        found = UnrelatedRow(row.text("prompt"), row.text_or_none("answer"), source=row.place)
    unread.add(row, ("Corpus",))
    return [found]


def _locality(row: Row, reader: Reader, unread: Unread) -> list[UnrelatedRow]:
    """The locality questions of a row's edits."""
    found = [
        UnrelatedRow(pair.prompt, pair.target, source=record.source)
        for record in _read(reader, row)
        for pair in record.locality
    ]
    unread.add(row, reader.unused)
    return found


def _at_least_one(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    return limit
