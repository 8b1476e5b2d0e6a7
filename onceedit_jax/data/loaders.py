"""Reads edits and unrelated rows: ZsRE, Counterfact, MQuAKE, JSONL and CSV into one record type."""

import csv
import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.errors import InputError

Row = dict[str, Any]


class Format(NamedTuple):
    """A data set's layout: the keys that tell it, and how a row becomes records."""

    keys: tuple[str, ...]
    convert: Callable[[Row], list[EditRecord]]


def load_records(
    source: str | Path, format: str = "auto", *, limit: int | None = None
) -> list[EditRecord]:
    """Read edits.

    Args:
      source: a file (.json list, .jsonl, .csv) or the hub name of a data set.
      format: a key of `FORMATS`, or `auto` to tell it from the first row's keys.
      limit: keep the first records only.

    Returns:
      Records in file order; `index` counts them from 0.

    Raises:
      InputError: naming file and line for anything that is no record.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(f"format {format!r}: expected auto, {', '.join(FORMATS)}")
    records: list[EditRecord] = []
    layout = None if format == "auto" else FORMATS[format]
    for place, row in _rows(source):
        if layout is None:
            layout = _detect(place, row)
        missing = [key for key in layout.keys if row.get(key) in (None, "")]
        if missing:
            raise InputError(
                f"{place}: no {', '.join(missing)}; a record needs {', '.join(layout.keys)}, this "
                f"one has {', '.join(map(str, row))}"
            )
        try:
            records += layout.convert(row)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(
                f"{place}: {type(error).__name__} {error} while reading this record; "
                "see docs/data.md for the layout"
            ) from error
        if limit is not None and len(records) >= limit:
            break
    if not records:
        raise InputError(f"{source}: no records; expected at least one edit")
    return [_numbered(record, i) for i, record in enumerate(records[:limit])]


def load_unrelated(source: str | Path, *, limit: int | None = None) -> list[UnrelatedRow]:
    """Read unrelated rows.

    Args:
      source: a JSON list of strings, JSONL or JSON rows `{"prompt", "answer"?}`, or a data set
        (its locality questions are taken).
      limit: keep the first rows only.

    Raises:
      InputError: naming file and line for anything else.
    """
    rows: list[UnrelatedRow] = []
    for place, row in _rows(source, strings=True):
        if "text" in row and len(row) == 1:
            rows.append(UnrelatedRow(row["text"]))
        elif "prompt" in row and "target" not in row and "target_new" not in row:
            rows.append(UnrelatedRow(row["prompt"], row.get("answer")))
        else:
            for record in _detect(place, row).convert(row):
                rows += [UnrelatedRow(pair.prompt, pair.target) for pair in record.locality]
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        raise InputError(f"{source}: no unrelated rows; expected strings, prompts or locality")
    return rows[:limit]


def demo_path(name: str) -> Path:
    """Path of a data file that travels in the package (`demo_edits.jsonl`, ...)."""
    return Path(str(resources.files("onceedit_jax.data") / name))


def _zsre(row: Row) -> list[EditRecord]:
    hop = row.get("portability") or {}
    return [
        EditRecord(
            prompt=row["src"],
            target=row["alt"],
            rephrase=row.get("rephrase") or None,
            locality=_pairs((row.get("loc"), row.get("loc_ans"))),
            portability=_pairs((hop.get("New Question"), hop.get("New Answer"))),
            subject=row.get("subject"),
            true_answers=tuple(row.get("answers") or ()),
        )
    ]


def _counterfact(row: Row) -> list[EditRecord]:
    return [
        EditRecord(
            prompt=row["prompt"],
            target=row["target_new"],
            rephrase=row.get("rephrase_prompt") or None,
            locality=_pairs((row.get("locality_prompt"), row.get("locality_ground_truth"))),
            subject=row.get("subject"),
            true_answers=(row["ground_truth"],) if row.get("ground_truth") else (),
        )
    ]


def _mquake(row: Row) -> list[EditRecord]:
    """Every edit of a case is a record; its multi-hop questions go with the first."""
    hops = _pairs(*((question, row["new_answer"]) for question in row["questions"]))
    return [
        EditRecord(
            prompt=edit["prompt"].format(edit["subject"]),
            target=edit["target_new"]["str"],
            rephrase=edit.get("question") or None,
            portability=hops if i == 0 else (),
            subject=edit["subject"],
            true_answers=(edit["target_true"]["str"],),
        )
        for i, edit in enumerate(row["requested_rewrite"])
    ]


def _own(row: Row) -> list[EditRecord]:
    def pairs(name: str) -> tuple[Pair, ...]:
        if f"{name}_prompt" in row:  # CSV has no lists: one pair a record
            return _pairs((row[f"{name}_prompt"], row.get(f"{name}_target")))
        return _pairs(*((item["prompt"], item["target"]) for item in row.get(name) or ()))

    return [
        EditRecord(
            prompt=row["prompt"],
            target=row["target"],
            rephrase=row.get("rephrase") or None,
            locality=pairs("locality"),
            portability=pairs("portability"),
            subject=row.get("subject") or None,
            true_answers=tuple(row.get("true_answers") or ()),
        )
    ]


FORMATS: dict[str, Format] = {
    "zsre": Format(("src", "alt"), _zsre),
    "counterfact": Format(("prompt", "target_new"), _counterfact),
    "mquake": Format(("requested_rewrite", "questions", "new_answer"), _mquake),
    "jsonl": Format(("prompt", "target"), _own),
    "csv": Format(("prompt", "target"), _own),
}


def _pairs(*pairs: tuple[str | None, str | None]) -> tuple[Pair, ...]:
    return tuple(Pair(prompt, target) for prompt, target in pairs if prompt and target)


def _numbered(record: EditRecord, index: int) -> EditRecord:
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    for name in ("prompt", "target"):
        if not isinstance(values[name], str):
            raise InputError(
                f"record {index}: {name} is {values[name]!r}, of type "
                f"{type(values[name]).__name__}; expected text"
            )
    return EditRecord(**{**values, "index": index})


def _detect(place: str, row: Row) -> Format:
    for layout in FORMATS.values():
        if all(key in row for key in layout.keys):
            return layout
    known = "; ".join(f"{name}: {', '.join(layout.keys)}" for name, layout in FORMATS.items())
    raise InputError(f"{place}: keys {', '.join(map(str, row))} are of no known format ({known})")


def _rows(source: str | Path, *, strings: bool = False) -> Iterator[tuple[str, Row]]:
    """Rows of a file or hub data set, each with the place to name in an error."""
    path = Path(source)
    if not path.exists():
        if path.suffix or "/" not in str(source):
            raise InputError(f"{source}: no such file; give a file or a data set's hub name")
        yield from _hub_rows(str(source))
        return
    _check_lines(path, strings=strings)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            yield from ((f"{path}, line {reader.line_num}", row) for row in reader)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                yield f"{path}, line {number}", json.loads(line)
    else:
        for number, item in enumerate(json.loads(path.read_text(encoding="utf-8"))):
            place = f"{path}, item {number}"
            yield place, {"text": item} if isinstance(item, str) else item
