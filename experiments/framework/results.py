"""What an experiment leaves in its folder: `results.json`, and the records' scores beside it."""

import dataclasses
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.framework.definition import Cell, Setup
from onceedit_jax.editing.settings import fingerprint
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.summaries import write_json

RESULTS = "results.json"
OUT_OF_DATE = "out_of_date"  # the cells in it that another configuration measured
RECORDS = "records"  # folder of the records' scores, one file a cell
ROOT = Path(__file__).parents[2]  # of the checkout

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
    return place / RECORDS / (re.sub(r"[^\w.,%+' -]", "_", cell) + ".jsonl")


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
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the experiment first")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values["cells"], dict) or not isinstance(values["setup"], dict):
            raise TypeError("its cells or its setup are not a mapping")
        if not isinstance(values["experiment"], str):
            raise TypeError("its experiment is not a name")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the results of an experiment ({error}); move the file away"
        ) from error
    return dict(values)


def result_folders(results: Path) -> list[Path]:
    """The folders in `results` that hold an experiment's results.

    Raises:
      InputError: there are none.
    """
    places = sorted(path.parent for path in results.glob(f"*/{RESULTS}"))
    if not places:
        raise InputError(f"{results}: no results here; run `python -m experiments NAME` first")
    return places
