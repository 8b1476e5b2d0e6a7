"""Runs an experiment cell by cell: what is measured stays, what is asked anew is measured anew.

A cell is known by its configuration. Code, weights and data files are not a part of it: after a
change there that matters, delete the cell from `results.json`, or the file.
"""

import dataclasses
import importlib.util
import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jax.sharding import Mesh

from experiments.framework.definition import Cell, Experiment, Setup
from experiments.framework.page import write_page
from experiments.framework.workspace import Lab
from onceedit_jax.cli.progress import err
from onceedit_jax.editing.settings import fingerprint
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.summaries import write_json, write_jsonl
from onceedit_jax.storage.versions import machine, versions

RESULTS = "results.json"
OUT_OF_DATE = "out_of_date"  # its cells that another configuration measured
RECORDS = "records"  # folder of the records' numbers, one file a cell

Entry = Mapping[str, Any]  # a measured cell: fingerprint, cell, seconds, versions, machine, result


def run_experiment(
    name: str,
    *,
    data: Path,
    out: Path,
    work: Path,
    folder: Path,
    setup_file: Path | None = None,
    limit: int | None = None,
    mesh: Mesh | None = None,
) -> Path:
    """Measure every cell of an experiment that is not there yet, and write its page.

    Args:
      name: of the experiment: `FOLDER/NAME.py`, with its configuration in `configs/NAME.yaml`
        beside that folder.
      data: folder of the data sets.
      out: folder of all results; this experiment's go to `OUT/NAME`.
      work: folder of what is kept between runs and not published (edited plug-ins).
      folder: folder of the experiments.
      setup_file: another configuration than `configs/NAME.yaml`: its results stand beside those
        of other configurations, under its name.
      limit: number of edits, in place of the configuration's.
      mesh: how devices share the work (default: all of them the rows of a batch).

    Returns:
      The experiment's folder of results: `OUT/NAME`, with the configuration's name and the limit
      behind it where these are given.

    Raises:
      InputError: no such experiment, or a configuration it cannot read.
    """
    experiment = load_experiment(folder, name)
    configured = setup_file or folder.absolute().parent / "configs" / f"{name}.yaml"
    if setup_file is None and (several := sorted(configured.with_suffix("").glob("*.yaml"))):
        listed = ", ".join(path.name for path in several)
        raise InputError(
            f"{configured.with_suffix('')}: {name} has several configurations, {listed}; give one "
            "(--setup)"
        )
    setup = load_setup(configured, experiment.setup)
    if limit is not None:
        setup = dataclasses.replace(setup, limit=limit)
    cells = experiment.cells(setup)
    if not cells:
        raise InputError(f"{configured}: gives {name} no cells to measure; see its docstring")
    # A trial on fewer edits stands beside the results, and never in their place.
    titles = [name, *([configured.stem] if configured.stem != name else [])]
    titles += [f"limit{limit}"] if limit is not None else []
    lab, place = Lab(data, work, setup, mesh), out / "-".join(titles)
    place.mkdir(parents=True, exist_ok=True)
    kept = _kept(place / RESULTS)
    found = up_to_date(setup, cells, kept)
    for cell, description in cells.items():
        if cell in found:
            continue
        err.print(f"{name}: {cell}")
        begun = time.monotonic()
        result = dict(experiment.run(lab, setup, description))
        records = records_file(place, cell)
        records.unlink(missing_ok=True)
        if rows := result.pop("records", None):
            records.parent.mkdir(exist_ok=True)
            write_jsonl(records, rows)
        found[cell] = {
            "fingerprint": _mark(setup, description),
            "cell": description,
            "seconds": round(time.monotonic() - begun, 1),
            "versions": versions(),
            "machine": machine(),
            "result": result,
        }
        found = {other: found[other] for other in cells if other in found}
        # What is out of date goes when all is measured anew: a slip in the configuration costs a
        # cell, not all of them.
        rest = {other: kept[other] for other in kept if other not in found}
        publish(place, experiment, setup, found, rest)
    publish(place, experiment, setup, found)
    return place


def up_to_date(
    setup: Setup, cells: Mapping[str, Cell], kept: Mapping[str, Entry]
) -> dict[str, Entry]:
    """Those of the kept entries that were measured as the configuration has it, in its order."""
    return {
        cell: kept[cell]
        for cell, description in cells.items()
        if kept.get(cell, {}).get("fingerprint") == _mark(setup, description)
    }


def _mark(setup: Setup, description: Cell) -> str:
    # An experiment's own fields count where a cell's description names them: another grid keeps
    # the cells that it shares with the one before.
    shared = {field.name: getattr(setup, field.name) for field in dataclasses.fields(Setup)}
    return fingerprint(shared, description)[:16]


def load_experiment(folder: Path, name: str) -> Experiment:
    """The `EXPERIMENT` of `FOLDER/NAME.py` (dashes of the name are underscores of the file).

    Raises:
      InputError: there is none; the message lists those there are.
    """
    path = folder / f"{name.replace('-', '_')}.py"
    if not path.is_file():
        there = sorted(p.stem.replace("_", "-") for p in folder.glob("[a-z]*.py"))
        listed = f"; there are {', '.join(there)}" if there else ""
        raise InputError(
            f"experiment {name}: no {path}{listed}; run from the project's folder or give --folder"
        )
    spec = importlib.util.spec_from_file_location(f"onceedit_experiment_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    if not isinstance(found := getattr(module, "EXPERIMENT", None), Experiment):
        raise InputError(
            f"{path}: defines no EXPERIMENT; see onceedit_jax/experiment/definition.py"
        )
    return found


def load_setup(path: Path, kind: type[Setup]) -> Setup:
    """A configuration from its YAML file.

    Raises:
      InputError: no such file, no YAML, or a key that this experiment does not know.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the experiment's configuration there")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error})") from error
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(values, dict) or (unknown := [key for key in values if key not in known]):
        what = f"key {unknown[0]!r}" if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{path}: {what} is not known; expected some of {', '.join(known)}")
    return kind(**values)


def records_file(place: Path, cell: str) -> Path:
    """Where the records of a cell go; a name may hold what a file's may not."""
    return place / RECORDS / (re.sub(r"[^\w.,%+' -]", "_", cell) + ".jsonl")


def _kept(path: Path) -> dict[str, Entry]:
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return {**results.get(OUT_OF_DATE, {}), **results["cells"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the results of an experiment ({error}); move the file away"
        ) from error


def publish(
    place: Path,
    experiment: Experiment,
    setup: Setup,
    found: Mapping[str, Entry],
    rest: Mapping[str, Entry] = {},
) -> None:
    """Write results, and the page about them.

    Args:
      place: the experiment's folder of results.
      experiment: whose they are.
      setup: its configuration.
      found: entries that are up to date, by cell, at least one.
      rest: others, which are kept and not told of.
    """
    whole = {"setup": dataclasses.asdict(setup), "headline": None, "cells": dict(found)}
    if rest:
        whole[OUT_OF_DATE] = dict(rest)
    # Whatever becomes of the page, what was measured is kept.
    write_json(place / RESULTS, whole)
    # As the file gives them back, so that a page made anew is the page made now.
    kept = _kept(place / RESULTS)
    page = experiment.page(setup, {cell: kept[cell]["result"] for cell in found})
    if page.tables:
        write_json(place / RESULTS, {**whole, "headline": dataclasses.asdict(page.tables[0])})
    seconds = sum(entry["seconds"] for entry in found.values())
    told = [entry["versions"] for entry in found.values()]
    missing = [cell for cell in experiment.cells(setup) if cell not in found]
    write_page(place, experiment, setup, page, seconds=seconds, versions=told, missing=missing)
