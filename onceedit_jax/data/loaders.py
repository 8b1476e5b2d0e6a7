"""Reads edits and unrelated rows: ZsRE, Counterfact, MQuAKE, JSONL and CSV into one record type.

Hub data sets are read by `datasets`. Files are not: it turns dates and numbers in text columns into
other types, fills short CSV rows with blanks and names no line in its errors, whereas an edit's
answer must arrive as it was written ("007", "2019-05-03") and a mistake be found where it was made.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow, demo_path
from onceedit_jax.errors import InputError

__all__ = ["FORMATS", "demo_path", "load_records", "load_unrelated"]

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")
_NOT_BLANK = re.compile(r"[^ \t\r\n]")
_SUFFIXES = (".json", ".jsonl", ".csv")
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


def load_records(
    source: str | Path, format: str = "auto", *, limit: int | None = None
) -> list[EditRecord]:
    """Read edits.

    Duplicates and contradicting edits are kept: what is evaluated is the file. `duplicates` and
    `contradicting` of `data.records` find them.

    Args:
      source: a file (.json list, .jsonl, .csv) or the hub name of a data set, `NAME[:SPLIT]`.
      format: a key of `FORMATS`, or `auto` to tell it from the first row's keys.
      limit: read the first rows only. An MQuAKE row is a case of several edits, which are kept or
        left out together: its multi-hop questions need them all.

    Returns:
      Records in file order; `index` counts them from 0.

    Raises:
      InputError: naming file and line of anything that is no record.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(f"format {format!r}: expected auto, {', '.join(FORMATS)}")
    records: list[EditRecord] = []
    layout = None if format == "auto" else FORMATS[format]
    for row in itertools.islice(_rows(source), _at_least_one(limit)):
        layout = layout or _detect(row)
        records += layout.convert(row)
    if not records:
        raise InputError(f"{source}: no records; expected at least one edit")
    return [replace(record, index=i) for i, record in enumerate(records)]


def load_unrelated(source: str | Path, *, limit: int | None = None) -> list[UnrelatedRow]:
    """Read unrelated rows.

    Args:
      source: a file or hub name whose rows are strings, texts (`{"text"}`, `{"Corpus", "Text"}`),
        prompts (`{"prompt", "answer"?}`), or edits of a data set: of these only the locality
        questions are taken.
      limit: keep the first unrelated rows only.

    Raises:
      InputError: naming file and line of anything else.
    """
    limit = _at_least_one(limit)
    found = itertools.chain.from_iterable(map(_unrelated, _rows(source)))
    rows = list(itertools.islice(found, limit))
    if not rows:
        raise InputError(
            f"{source}: no unrelated rows; expected strings, rows with prompt and answer, or edits "
            "with locality questions"
        )
    return rows


@dataclass(frozen=True)
class _Row:
    """One row of a source; every error about it names its place."""

    place: str
    values: dict[str, Any]

    def has(self, *keys: str) -> bool:
        return all(self.values.get(key) not in (None, "", [], {}) for key in keys)

    def text(self, key: str) -> str:
        """A text that must be there."""
        if not self.has(key):
            raise InputError(f"{self.place}: no {key}; there are {', '.join(self.values)}")
        return _text(self.place, key, self.values[key])

    def text_or_none(self, key: str) -> str | None:
        return self.text(key) if self.has(key) else None

    def texts(self, key: str) -> tuple[str, ...]:
        """One text or a list of texts; empty where the key is absent."""
        value = self.values[key] if self.has(key) else []
        items = [value] if isinstance(value, str) else _as(list, self.place, key, value)
        return tuple(_text(self.place, f"{key}[{n}]", item) for n, item in enumerate(items))

    def row(self, key: str) -> "_Row":
        value = self.values[key] if self.has(key) else {}
        return _Row(f"{self.place}, {key}", _as(dict, self.place, key, value))

    def rows(self, key: str) -> list["_Row"]:
        items = _as(list, self.place, key, self.values[key] if self.has(key) else [])
        return [
            _Row(f"{self.place}, {key}[{n}]", _as(dict, self.place, f"{key}[{n}]", item))
            for n, item in enumerate(items)
        ]

    def pair(self, prompt: str, target: str) -> tuple[Pair, ...]:
        """The pair under two keys, if both are there: without its answer none can be scored."""
        if not self.has(prompt, target):
            return ()
        return (Pair(self.text(prompt), self.text(target)),)


def _zsre(row: _Row) -> list[EditRecord]:
    return [
        EditRecord(
            prompt=row.text("src"),
            target=row.text("alt"),
            rephrase=row.text_or_none("rephrase"),
            locality=row.pair("loc", "loc_ans"),
            portability=row.row("portability").pair("New Question", "New Answer"),
            subject=row.text_or_none("subject"),
            true_answers=row.texts("answers"),
            source=row.place,
        )
    ]


def _counterfact(row: _Row) -> list[EditRecord]:
    return [
        EditRecord(
            prompt=row.text("prompt"),
            target=row.text("target_new"),
            rephrase=row.text_or_none("rephrase_prompt"),
            locality=row.pair("locality_prompt", "locality_ground_truth"),
            subject=row.text_or_none("subject"),
            true_answers=row.texts("ground_truth"),
            source=row.place,
        )
    ]


def _mquake(row: _Row) -> list[EditRecord]:
    """Every edit of a case is a record; the case's multi-hop questions go with the first."""
    hops = tuple(Pair(question, row.text("new_answer")) for question in row.texts("questions"))
    return [
        EditRecord(
            # `replace`, since other braces in a prompt are text.
            prompt=edit.text("prompt").replace("{}", edit.text("subject")),
            target=edit.row("target_new").text("str"),
            rephrase=edit.text_or_none("question"),
            portability=hops if n == 0 else (),
            subject=edit.text("subject"),
            true_answers=edit.row("target_true").texts("str"),
            source=edit.place,
        )
        for n, edit in enumerate(row.rows("requested_rewrite"))
    ]


def _own(row: _Row) -> list[EditRecord]:
    return [
        EditRecord(
            prompt=row.text("prompt"),
            target=row.text("target"),
            rephrase=row.text_or_none("rephrase"),
            locality=_own_pairs(row, "locality"),
            portability=_own_pairs(row, "portability"),
            subject=row.text_or_none("subject"),
            true_answers=row.texts("true_answers"),
            source=row.place,
        )
    ]


def _own_pairs(row: _Row, name: str) -> tuple[Pair, ...]:
    # CSV has no lists: there the one pair stands in two columns.
    prompt, target = f"{name}_prompt", f"{name}_target"
    if row.has(prompt) or row.has(target):
        return (Pair(row.text(prompt), row.text(target)),)
    return tuple(
        # QAEdit, otherwise in this layout, names the two after ZsRE.
        Pair(item.text("loc"), item.text("loc_ans"))
        if item.has("loc")
        else Pair(item.text("prompt"), item.text("target"))
        for item in row.rows(name)
    )


class Format(NamedTuple):
    """A layout: the keys that tell it, and how a row becomes records."""

    keys: tuple[str, ...]
    convert: Callable[[_Row], list[EditRecord]]


FORMATS: dict[str, Format] = {
    "zsre": Format(("src", "alt"), _zsre),
    "counterfact": Format(("prompt", "target_new"), _counterfact),
    "mquake": Format(("requested_rewrite", "questions", "new_answer"), _mquake),
    "jsonl": Format(("prompt", "target"), _own),
    "csv": Format(("prompt", "target"), _own),
}


def _detect(row: _Row) -> Format:
    for layout in FORMATS.values():
        if all(key in row.values for key in layout.keys):
            return layout
    known = "; ".join(f"{name}: {', '.join(layout.keys)}" for name, layout in FORMATS.items())
    raise InputError(
        f"{row.place}: {', '.join(row.values)} are the keys of no known format. Keys needed, by "
        f"format: {known}"
    )


def _unrelated(row: _Row) -> list[UnrelatedRow]:
    for key in ("text", "Text"):
        if row.has(key) and not row.has("prompt"):
            return [UnrelatedRow(row.text(key), source=row.place)]
    if "prompt" in row.values and not row.values.keys() & {"target", "target_new"}:
        return [UnrelatedRow(row.text("prompt"), row.text_or_none("answer"), source=row.place)]
    return [
        UnrelatedRow(pair.prompt, pair.target, source=record.source)
        for record in _detect(row).convert(row)
        for pair in record.locality
    ]


def _rows(source: str | Path) -> Iterator[_Row]:
    """Rows of a file or hub data set; a string stands as `{"text": string}`."""
    for place, value in _values(source):
        if isinstance(value, str):
            value = {"text": value}
        yield _Row(place, _as(dict, place, "the row", value))


def _values(source: str | Path) -> Iterator[tuple[str, Any]]:
    path = Path(source)
    if path.is_file():
        readers = {".json": _json_list, ".jsonl": _json_lines, ".csv": _csv_rows}
        if path.suffix.lower() not in readers:
            raise InputError(f"{path}: expected a file of type {', '.join(_SUFFIXES)}")
        return readers[path.suffix.lower()](path, _read(path))
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file in it")
    if path.suffix.lower() in _SUFFIXES or not _HUB_NAME.fullmatch(str(source)):
        raise InputError(f"{source}: no such file; give a file or a data set's hub name")
    return _hub_rows(str(source))


def _json_list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Items of a JSON list, each with the line it begins in."""
    decoder = json.JSONDecoder()

    def skip_blanks(at: int) -> int:
        found = _NOT_BLANK.search(text, at)
        return found.start() if found else len(text)

    def place(at: int) -> str:
        return f"{path}:{text.count(chr(10), 0, at) + 1}"

    at = skip_blanks(0)
    if text[at : at + 1] != "[":
        raise InputError(
            f"{place(at)}: expected a JSON list, found {text[at : at + 20]!r}; a file with one "
            "object a line is called .jsonl"
        )
    at = skip_blanks(at + 1)
    line, counted = 1, 0
    more = text[at : at + 1] != "]"
    while more:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, getattr(error, "lineno", line), error) from error
        yield f"{path}:{line}", value
        at = skip_blanks(at)
        if text[at : at + 1] not in (",", "]"):
            raise InputError(
                f"{place(at)}: expected a comma or the list's end, found {text[at : at + 20]!r}; "
                "is the file complete?"
            )
        more = text[at] == ","
        at = skip_blanks(at + 1) if more else at
    at = skip_blanks(at + 1)
    if at < len(text):
        raise InputError(f"{place(at)}: expected nothing after the list, found text")


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not `splitlines`: JSON strings may hold U+2028 and other line ends of Unicode.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(path, number, error) from error
            yield f"{path}:{number}", value


def _not_json(path: Path, line: int, error: Exception) -> InputError:
    if isinstance(error, json.JSONDecodeError):
        return InputError(f"{path}:{line}: not JSON: {error.msg} at column {error.colno}")
    return InputError(f"{path}:{line}: not JSON: {error}")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    first = 1
    try:
        for cells in reader:
            place, first = f"{path}:{first}", reader.line_num + 1
            if not any(cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header) or "" in header:
                    raise InputError(f"{place}: column names are blank or repeated: {header}")
            elif len(cells) != len(header):
                raise InputError(
                    f"{place}: {len(cells)} cells, but {len(header)} columns "
                    f"({', '.join(header)}); put text that holds commas in double quotes"
                )
            else:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{first}: not CSV ({error})") from error


def _hub_rows(source: str) -> Iterator[tuple[str, Any]]:
    import datasets  # slow to import, and only a hub name needs it

    name, _, split = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, split=split or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source}: neither a file nor a data set that could be read from the hub ({reason}). "
            "Check the name and the network, or give a file"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if len(loaded) != 1:
            raise InputError(
                f"{source}: has the splits {', '.join(loaded)}; choose one, as in "
                f"{name}:{next(iter(loaded))}"
            )
        loaded = next(iter(loaded.values()))
    for number, row in enumerate(loaded, 1):
        yield f"{source}, row {number}", row


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _text(place: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        shown = repr(value) if isinstance(value, int | float | str) else _kind(value)
        raise InputError(f"{place}: {key} is {shown}; expected text (numbers in quotes)")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: {key} holds half a character (an unpaired \\u escape): {value!r}"
        ) from error
    return value


def _as(kind: type, place: str, key: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"{place}: {key} is {_kind(value)}; expected {_KINDS[kind]}")
    return value


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), f"{value!r} ({type(value).__name__})")


def _at_least_one(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    return limit
