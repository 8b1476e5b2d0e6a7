"""Loads edits and unrelated rows: any source, any reader, one record type."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
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
from onceedit_jax.errors import InputError


def load_records(
    source: str | Path, format: str | Reader = "auto", *, limit: int | None = None
) -> list[EditRecord]:
    """Read edits.

    Duplicates and contradicting edits stay in the list: an evaluation scores the file as it is.
    `duplicates` and `contradicting` of `data.records` find them.

    Args:
      source: a file (.json list, .jsonl, .csv), or the hub name of a data set, `NAME[:SPLIT]`.
      format: a `Reader`, a reader's name, or `auto` for the first known reader that matches the
        first row.
      limit: read the first rows only. An MQuAKE row is a case of several edits, which stay
        together: its multi-hop questions need them all.

    Returns:
      Records in file order; `index` counts them from 0.

    Raises:
      InputError: naming file and line of anything that is not a record.
    """
    reader = _chosen(format)
    records: list[EditRecord] = []
    for row in itertools.islice(read_rows(source), _at_least_one(limit)):
        reader = reader or detect_reader(row, known_readers())
        records += _read(reader, row)
    if not records:
        raise InputError(f"{source}: no records; expected at least one edit")
    return [replace(record, index=i) for i, record in enumerate(records)]


def load_unrelated(
    source: str | Path, format: str | Reader = "auto", *, limit: int | None = None
) -> list[UnrelatedRow]:
    """Read unrelated rows.

    Args:
      source: a file or hub name whose rows are strings, texts (`{"text"}`, `{"Corpus", "Text"}`),
        prompts (`{"prompt", "answer"?}`), or edits of a data set. Of edits, only the locality
        questions are unrelated rows.
      format: how edits are read, as for `load_records`. With a reader given, every row is edits.
      limit: return the first unrelated rows only.

    Raises:
      InputError: naming file and line of anything else.
    """
    limit, reader = _at_least_one(limit), _chosen(format)
    # Rows may be of several kinds, so that each one decides how it is read.
    readers = {} if reader else known_readers()
    every = itertools.chain.from_iterable(
        _locality(row, reader) if reader else _unrelated(row, readers) for row in read_rows(source)
    )
    rows = list(itertools.islice(every, limit))
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


def _unrelated(row: Row, readers: Mapping[str, Reader]) -> list[UnrelatedRow]:
    for key in ("text", "Text"):
        if row.has(key) and not row.has("prompt"):
            return [UnrelatedRow(row.text(key), source=row.place)]
    if "prompt" in row.values and matching_reader(row.values, readers) is None:
        return [UnrelatedRow(row.text("prompt"), row.text_or_none("answer"), source=row.place)]
    return _locality(row, detect_reader(row, readers))


def _locality(row: Row, reader: Reader) -> list[UnrelatedRow]:
    """The locality questions of a row's edits."""
    return [
        UnrelatedRow(pair.prompt, pair.target, source=record.source)
        for record in _read(reader, row)
        for pair in record.locality
    ]


def _at_least_one(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    return limit
