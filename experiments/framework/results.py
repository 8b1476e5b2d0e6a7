"""What an experiment leaves in its folder: `results.json`, and the records' scores beside it."""

import dataclasses
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.framework.definition import Cell, Setup
from onceedit_jax.editing.settings import fingerprint
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.summaries import write_json
from onceedit_jax.storage.bounded import LARGE, parse_json, read_json, read_text
from onceedit_jax.storage.schema import (
    AnyOf,
    Integer,
    ListOf,
    Maybe,
    Number,
    ObjectOf,
    Record,
    Text,
    check,
)

RESULTS = "results.json"
OUT_OF_DATE = "out_of_date"  # the cells in it that another configuration measured
RECORDS = "records"  # folder of the records' scores, one file a cell
ROOT = Path(__file__).parents[2]  # of the checkout

_REMEDY = "measure the experiment again, or move the file away"
_SCORE = Record({"target": Text(), "fusion": Text()})
_CELL = Record(
    {
        "cell": Record(),
        "result": Record({"scores": AnyOf((ListOf(_SCORE), Record()))}),
    },
    required=("cell", "result"),
)
_SCHEMA = Record(
    {
        "experiment": Text(most=256), "setup": Record(), "cells": ObjectOf(_CELL),
        OUT_OF_DATE: ObjectOf(_CELL),
    },
    required=("experiment", "setup", "cells"),
)  # fmt: skip
_SHARE = Maybe(Number())
_RECORD = Record(
    {
        "record": Integer(), "metric": Text(), "kind": Text(), "target": Text(), "mode": Text(),
        "alpha": _SHARE, "before": _SHARE, "after": _SHARE,
    },
    required=("record", "metric", "alpha"),
)  # fmt: skip

# A measured cell: fingerprint, cell, seconds, versions, machine, commit, result.
Entry = Mapping[str, Any]


def up_to_date(
    setup: Setup, cells: Mapping[str, Cell], entries: Mapping[str, Entry]
) -> dict[str, Entry]:
    """The entries that were measured as the configuration has it, in the order of its cells."""
    return {
        name: entries[name]
        for name, cell in cells.items()
        if entries.get(name, {}).get("fingerprint") == mark(setup, cell)
    }


def mark(setup: Setup, cell: Cell) -> str:
    """The fingerprint of a cell: of its description and of the fields that all setups share.

    An experiment's own fields count only where the description names them, so that another grid
    keeps the cells that it has in common with the one before.
    """
    shared = {field.name: getattr(setup, field.name) for field in dataclasses.fields(Setup)}
    return fingerprint(shared, cell)[:16]


def commit() -> dict[str, Any] | None:
    """The checkout's commit, and whether a file outside results/ differs from it; None without git.

    A run writes results, which is no change of what is measured.
    """
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--", ".", ":(exclude)results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"hash": head, "dirty": bool(changes)}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def records_file(place: Path, cell: str) -> Path:
    """The file of a cell's records; characters that a file name may not hold become `_`."""
    name = re.sub(r"[^\w.,%+' -]", "_", cell).encode()[:200].decode(errors="ignore")
    return place / RECORDS / f"{name}.jsonl"


def write_results(
    place: Path,
    name: str,
    setup: Setup,
    entries: Mapping[str, Entry],
    rest: Mapping[str, Entry] = {},
) -> None:
    """Write `results.json`.

    Args:
      place: the folder.
      name: of the experiment.
      setup: its configuration.
      entries: cells that are up to date, by name.
      rest: cells that another configuration measured.
    """
    values = {"experiment": name, "setup": dataclasses.asdict(setup), "cells": dict(entries)}
    write_json(place / RESULTS, values | ({OUT_OF_DATE: dict(rest)} if rest else {}))


def read_results(place: Path) -> dict[str, Any]:
    """The values of `results.json`.

    Raises:
      InputError: there is no such file, or it is not one of an experiment.
    """
    path = place / RESULTS
    try:
        values = read_json(path, most=LARGE)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the experiment first") from error
    check(_SCHEMA, values, file=path, remedy=_REMEDY)
    return values


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The scores of a cell's records, in order.

    Raises:
      InputError: a line is none; the message names it.
    """
    for number, line in enumerate(read_text(path, most=LARGE).split("\n"), 1):
        if line.strip():
            row = parse_json(line, f"{path}:{number}")
            check(_RECORD, row, file=f"{path}:{number}", remedy=_REMEDY)
            yield row


def result_folders(results: Path) -> list[Path]:
    """The folders in `results` that hold an experiment's results.

    Raises:
      InputError: there are none.
    """
    places = sorted(path.parent for path in results.glob(f"*/{RESULTS}"))
    if not places:
        raise InputError(f"{results}: no results here; run `python -m experiments NAME` first")
    return places
