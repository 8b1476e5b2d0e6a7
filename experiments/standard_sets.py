"""The data sets of the field, edited and asked with today's defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from experiments.framework.probe_tables import with_interval
from experiments.framework.scores import HEADINGS, METRICS
from onceedit_jax.evaluation.probes import interval
from onceedit_jax.gates.registry import gate_by_name

TITLE = "ZsRE and Counterfact with the default edit"
QUESTION = "Which scores does the default edit get on the field's data sets?"


@dataclass(frozen=True)
class StandardSetup(Setup):
    """What is measured.

    Attributes:
      runs: data set, number of edits and how many records come before them, of each cell.
      gates: names of the gates that are asked in turn, all with one edit.
    """

    runs: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    gates: Sequence[str] = ("fact", "memory")


def cells(setup: StandardSetup) -> Mapping[str, Cell]:
    """One for each run; no run has more edits than `limit`."""
    found: dict[str, Cell] = {}
    for run in setup.runs:
        first, edits = int(run.get("first", 0)), min(int(run["edits"]), setup.limit)
        name = f"{run['dataset']} {edits}" + (f", from {first}" if first else "")
        cell = {"dataset": run["dataset"], "edits": edits, "first": first}
        found.setdefault(name, {**cell, "gates": [*setup.gates]})
    return found


def run(workspace: Workspace, setup: StandardSetup, cell: Cell) -> Result:
    """Edit with the records alone, then score both targets by each gate, teacher-forced."""
    end = cell["first"] + cell["edits"]
    records = workspace.records(cell["dataset"], end)[cell["first"] :]
    edited = workspace.edit_alone(records, workspace.settings())
    scores = {}
    for name in cell["gates"]:
        ensemble = workspace.ensemble(edited, setup.targets, gate=gate_by_name(name))
        found = workspace.evaluate(ensemble, records)
        for score in found["scores"]:
            rows = [row for row in found["records"] if row["target"] == score["target"]]
            score["intervals"] = _intervals(rows, setup.seed)
            score["opened"] = _opened(rows, ensemble.threshold)
        scores[name] = found["scores"]
    return {"seconds": edited.editing_seconds, "gates": scores}


def _intervals(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, tuple[float, float]]:
    """The 95% bootstrap interval of each score over the records, and of their average."""
    by_record: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["after"] is not None:
            values = by_record.setdefault(row["metric"], {}).setdefault(row["record"], [])
            values.append(row["after"])
    means = {
        metric: {record: float(np.mean(values)) for record, values in records.items()}
        for metric, records in by_record.items()
    }
    parts = [means[metric] for metric in METRICS[:3] if metric in means]
    whole = set.intersection(*(set(part) for part in parts))
    means["avg"] = {record: float(np.mean([part[record] for part in parts])) for record in whole}
    return {
        metric: interval(np.array([values[record] for record in sorted(values)]), seed=seed)
        for metric, values in means.items()
        if metric in METRICS and values
    }


def _opened(rows: Sequence[Mapping[str, Any]], threshold: float) -> dict[str, float]:
    """The share of each kind of question that opens the gate."""
    alphas: dict[str, list[float]] = {}
    for row in rows:
        alphas.setdefault(row["metric"], []).append(row["alpha"])
    return {kind: float(np.mean(np.array(each) >= threshold)) for kind, each in alphas.items()}


def tables(setup: StandardSetup, results: Results) -> Sequence[Table]:
    """All scores with their intervals; what opens each gate."""
    rows: list[list[Any]] = []
    opened: list[list[Any]] = []
    for name, result in results.items():
        for gate, scores in result["gates"].items():
            for score in scores:
                shown = [
                    with_interval(score["after"][metric], *score["intervals"][metric])
                    if metric in score["intervals"]
                    else None
                    for metric in METRICS
                ]
                consistent = (score.get("consistent") or {}).get("after", {})
                kept = [score["contradicting"], *(consistent.get(m) for m in ("rel", "gen"))]
                rows.append([name, gate, score["target"], *shown, *kept])
            shares = scores[0]["opened"]
            opened.append([name, gate, *(shares.get(metric) for metric in METRICS[:3])])
    return [
        Table(
            "scores",
            "Teacher-forced, with 95% bootstrap intervals over the records. The last two columns "
            "leave out edits that contradict another one.",
            ("edits", "gate", "target", *HEADINGS, "contradicting", "Rel", "Gen"),
            rows,
        ),
        Table(
            "opened",
            "The share of questions that open the gate.",
            ("edits", "gate", "as edited", "in other words", "unrelated"),
            opened,
        ),
    ]


EXPERIMENT = Experiment(TITLE, QUESTION, StandardSetup, cells, run, tables)
