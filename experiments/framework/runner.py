"""Runs an experiment cell by cell: a measured cell stays, a changed cell is measured again.

A cell is known by its configuration. Code, weights and data files are not a part of it: after a
change there that matters, delete the cell from `results.json`, or the whole file.
"""

import dataclasses
import time
from pathlib import Path

from jax.sharding import Mesh

from experiments.framework.compilations import forget_compilations
from experiments.framework.definition import Experiment, Setup, load_experiment, load_setup
from experiments.framework.page import fill_page
from experiments.framework.results import (
    OUT_OF_DATE,
    RESULTS,
    ROOT,
    Entry,
    commit,
    mark,
    read_results,
    records_file,
    up_to_date,
    write_results,
)
from experiments.framework.workspace import Workspace
from onceedit_jax.cli.console import err
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.summaries import write_jsonl
from onceedit_jax.storage.locks import locked
from onceedit_jax.storage.versions import machine, versions

CONFIGS = ROOT / "configs"


def run_experiment(
    name: str,
    *,
    data: Path,
    out: Path,
    work: Path,
    setup_file: Path | None = None,
    limit: int | None = None,
    mesh: Mesh | None = None,
) -> Path:
    """Measure every cell of an experiment that is not measured yet, and fill its page.

    Args:
      name: of the experiment.
      data: folder of the data sets.
      out: folder of all results.
      work: folder of the edited plug-ins, kept from one run to the next and not published.
      setup_file: a configuration in place of `configs/NAME.yaml`. Its results have a folder of
        their own.
      limit: number of edits, in place of the configuration's. Again with a folder of its own.
      mesh: how devices share the work (default: all of them the rows of a batch).

    Returns:
      The experiment's folder of results: `OUT/NAME`, followed by the configuration's name and the
      limit where these are given.

    Raises:
      InputError: there is no such experiment, or its configuration cannot be read.
      RunError: another program is measuring it.
    """
    experiment = load_experiment(name)
    path = setup_file or configuration(name)
    setup = load_setup(path, experiment.setup)
    if limit is not None:
        setup = dataclasses.replace(setup, limit=limit)
    if not experiment.cells(setup):
        raise InputError(f"{path}: gives {name} no cells to measure; see the study's docstring")
    place = out / "-".join(
        [name]
        + ([path.stem] if path.stem != name else [])
        + ([f"limit{limit}"] if limit is not None else [])
    )
    with locked(place, seconds=0):
        _measure(name, experiment, setup, place, Workspace(data, work, setup, mesh))
    return place


def _measure(
    name: str, experiment: Experiment, setup: Setup, place: Path, workspace: Workspace
) -> None:
    """Measure the cells that are not measured yet, and publish after each."""
    cells, tree = experiment.cells(setup), commit()
    place.mkdir(parents=True, exist_ok=True)
    earlier = _entries(place)
    entries = up_to_date(setup, cells, earlier)
    for cell, description in cells.items():
        if cell in entries:
            continue
        err.print(f"{name}: {cell}")
        begun = time.monotonic()
        result = dict(experiment.run(workspace, setup, description))
        records = records_file(place, cell)
        records.unlink(missing_ok=True)
        if rows := result.pop("records", None):
            records.parent.mkdir(exist_ok=True)
            write_jsonl(records, rows)
        entries[cell] = {
            "fingerprint": mark(setup, description),
            "cell": description,
            "seconds": round(time.monotonic() - begun, 1),
            "versions": versions(),
            "machine": machine(),
            "commit": tree,
            "result": result,
        }
        entries = {other: entries[other] for other in cells if other in entries}
        # Cells that are out of date stay until all are measured again: a slip in the configuration
        # costs one cell, not all of them.
        rest = {other: earlier[other] for other in earlier if other not in entries}
        publish(place, name, setup, entries, rest)
        forget_compilations()
    publish(place, name, setup, entries)


def configuration(name: str) -> Path:
    """The configuration file of an experiment.

    Raises:
      InputError: the experiment has several, in `configs/NAME/`.
    """
    if several := sorted((CONFIGS / name).glob("*.yaml")):
        raise InputError(
            f"{CONFIGS / name}: {name} has several configurations, "
            f"{', '.join(path.name for path in several)}; choose one with --setup"
        )
    return CONFIGS / f"{name}.yaml"


def publish(
    place: Path,
    name: str,
    setup: Setup,
    entries: dict[str, Entry],
    rest: dict[str, Entry] | None = None,
) -> None:
    """Write the results, then fill the page from them: whatever fails there, results stay."""
    write_results(place, name, setup, entries, rest or {})
    fill_page(place)


def _entries(place: Path) -> dict[str, Entry]:
    """All cells that a folder holds, up to date or not."""
    if not (place / RESULTS).exists():
        return {}
    values = read_results(place)
    return {**values.get(OUT_OF_DATE, {}), **values["cells"]}
