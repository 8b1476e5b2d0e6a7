"""Facts that arrive batch after batch, each batch in an adapter of its own."""

import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.definition import short
from experiments.framework.real_facts import draw
from onceedit_jax.cli.console import err
from onceedit_jax.cli.progress import editing_progress
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import read_info
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.upkeep import add_edits
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.check import Checked, check
from onceedit_jax.evaluation.probes import Probe

TITLE = "Facts that arrive batch after batch"
QUESTION = "Does an edit answer as on its day when thousands of others have come after it?"

MB = 1e6
EDITS = ("Rel", "Gen")  # the columns that ask for the facts themselves
COLUMNS = (*EDITS, "Same subject", "Same relation", "Unrelated")
WATCHED = ("first", "middle", "newest")  # the batches that are asked about


@dataclass(frozen=True)
class SequentialSetup(Setup):
    """How facts arrive, `limit` of them in all.

    Attributes:
      batches: equal parts in which they arrive.
      real: the share of HalluEditBench's facts, of all its topics; the others are Counterfact's.
      every: the targets are asked after so many batches, and after the first and the middle one.
    """

    batches: int = 10
    real: float = 0.5
    every: int = 10


class Batch(NamedTuple):
    """Facts that arrive together, and the questions about them."""

    records: list[EditRecord]
    probes: list[Probe]


def cells(setup: SequentialSetup) -> Mapping[str, Cell]:
    """One: each stage stands on all earlier ones."""
    if not 0 < setup.batches <= setup.limit:
        raise InputError(
            f"batches: {setup.batches} for {setup.limit} facts; expected at least one fact in each"
        )
    cell = {"batches": setup.batches, "real": setup.real, "every": setup.every}
    return {f"{setup.limit} facts in {setup.batches} batches": {"facts": setup.limit, **cell}}


def run(workspace: Workspace, setup: SequentialSetup, cell: Cell) -> Result:
    """Let the batches arrive; ask about the first, the middle and the newest along the way."""
    folder = workspace.work / "sequential"
    shutil.rmtree(folder, ignore_errors=True)
    batches = _arrivals(workspace, cell)
    count = len(batches)
    middle = (count + 1) // 2
    earliest: dict[int, list[Checked]] = {}  # by batch, the answers on its day
    stages = []
    for n in range(1, count + 1):
        stage = {"batches": n, **_take_in(workspace, folder, batches[n - 1].records)}
        if n in (1, middle, count) or n % cell["every"] == 0:
            begun = time.monotonic()
            edited = EditedPlugin.load(folder, mesh=workspace.mesh)
            stage["loading"] = round(time.monotonic() - begun, 2)
            ensemble = workspace.ensemble(edited, setup.targets)
            live = {(entry.prompt, entry.target) for entry in edited.info.live}
            watched = {k: v for k, v in zip(WATCHED, (1, middle, n), strict=True) if v <= n}
            found = {}
            for place in sorted(set(watched.values())):
                batch = batches[place - 1]
                checks = check(ensemble, batch.probes, known=earliest.get(place))
                alive = [(record.prompt, record.target) in live for record in batch.records]
                first = earliest.setdefault(place, checks)
                found[place] = {
                    short(now.target): _compared(now, then, alive)
                    for now, then in zip(checks, first, strict=True)
                }
            stage["asked"] = {name: found[place] for name, place in watched.items()}
        stages.append(stage)
        err.print(f"batch {n} of {count}: {stage}")
    return {"stages": stages}


def _arrivals(workspace: Workspace, cell: Cell) -> list[Batch]:
    """The batches; each has its share of both data sets."""
    real = round(cell["facts"] * cell["real"])
    drawn = draw(workspace.data, real, 0, development=None)
    asked: list[list[Probe]] = [[] for _ in drawn.records]
    for probe in drawn.probes:
        if probe.column in COLUMNS:
            asked[probe.fact].append(probe)
    others = workspace.records("counterfact", cell["facts"] - real)
    facts = [
        *zip(drawn.records, asked, strict=True),
        *((record, _counterfact_probes(record)) for record in others),
    ]
    batches = []
    for n in range(cell["batches"]):
        some = facts[n :: cell["batches"]]
        probes = [replace(probe, fact=i) for i, (_, own) in enumerate(some) for probe in own]
        batches.append(Batch([record for record, _ in some], probes))
    return batches


def _counterfact_probes(record: EditRecord) -> list[Probe]:
    """The questions about a fact of Counterfact; its unrelated ones ask the same of others."""
    asked = [("Rel", record.prompt), *(("Gen", prompt) for prompt in record.rephrases)]
    return [
        *(Probe(column, 0, prompt, record.target) for column, prompt in asked),
        *(
            Probe("Same relation", 0, pair.prompt, record.target, expects="unchanged")
            for pair in record.locality
        ),
    ]


def _take_in(workspace: Workspace, folder: Path, records: Sequence[EditRecord]) -> dict[str, Any]:
    """Edit with the first batch, or add a later one to the folder; what it took."""
    settings = workspace.settings()
    begun = time.monotonic()
    with editing_progress() as on_step:
        if folder.exists():
            add_edits(folder, records, settings, last_wins=True, on_step=on_step)
        else:
            model, tokenizer = workspace.base(workspace.setup.plugin)
            edit(model, tokenizer, records, settings=settings, on_step=on_step).save(folder)
    seconds = time.monotonic() - begun
    info = read_info(folder, verify=False)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "facts": len(info.live),
        "superseded": len(info.edits) - len(info.live),
        "seconds": round(seconds, 1),
        "megabytes": round(size / MB, 1),
        "memory": round(peak / MB),
    }


def _compared(now: Checked, then: Checked, alive: Sequence[bool]) -> dict[str, Any]:
    """A target's scores on a batch today, and how many answers are not those of the batch's day.

    Args:
      now: the answers today.
      then: the answers on the batch's day.
      alive: whether each of its facts still answers; a later one may have superseded it. The
        others are left out.
    """
    scores: dict[str, list[float]] = {}
    changed = {"edits": 0, "others": 0}
    for new, old in zip(now.rows, then.rows, strict=True):
        if alive[new["fact"]]:
            scores.setdefault(new["column"], []).append(new["right"])
            kind = "edits" if new["column"] in EDITS else "others"
            changed[kind] += new["after"] != old["after"]
    return {
        "facts": sum(alive),
        "columns": {name: round(float(np.mean(each)), 4) for name, each in scores.items()},
        "questions": sum(map(len, scores.values())),
        "changed": changed,
    }


def tables(setup: SequentialSetup, results: Results) -> Sequence[Table]:
    """What the batches cost, and what the targets say."""
    costs: list[list[Any]] = []
    answers: list[list[Any]] = []
    for result in results.values():
        since = 0
        for place, stage in enumerate(result["stages"]):
            if "asked" not in stage:
                continue
            spent = [each["seconds"] for each in result["stages"][since : place + 1]]
            since = place + 1
            names = ("batches", "facts", "superseded")
            sizes = ("megabytes", "memory", "loading")
            costs.append(
                [
                    *(stage[name] for name in names),
                    round(float(np.mean(spent)), 1),
                    *(stage[name] for name in sizes),
                ]
            )
            answers += [
                [
                    stage["batches"],
                    batch,
                    target,
                    found["facts"],
                    *(found["columns"].get(column) for column in COLUMNS),
                    found["changed"]["edits"],
                    found["changed"]["others"],
                ]
                for batch, by_target in stage["asked"].items()
                for target, found in by_target.items()
            ]
    return [
        Table(
            "answers",
            "Free generation: the batch that came first, the one in the middle and the newest, and "
            "how many of a batch's answers are not, word for word, those of its day. Facts that a "
            "later one superseded are left out.",
            (
                "batches so far", "batch", "target", "its facts", *COLUMNS,
                "other answers than on its day: to its facts", "to other questions",
            ),
            answers,
        ),
        Table(
            "costs",
            "The artifact along the way. Seconds: the mean of the batches since the line before. "
            "Memory: the peak of the process so far, in megabytes.",
            (
                "batches", "facts that answer", "superseded", "seconds a batch",
                "megabytes on disk", "memory", "seconds to load",
            ),
            costs,
        ),
    ]  # fmt: skip


def figures(setup: SequentialSetup, results: Results) -> Sequence[Figure]:
    """The scores of the first batch, and the costs, by the number of batches."""

    def draw_stages(figure: Any) -> None:
        scores, seconds, sizes = figure.subplots(1, 3)
        for result in results.values():
            stages = result["stages"]
            asked = [stage for stage in stages if "asked" in stage]
            for target in asked[0]["asked"]["first"]:
                for column in EDITS:
                    points = [
                        (stage["batches"], stage["asked"]["first"][target]["columns"].get(column))
                        for stage in asked
                    ]
                    scores.plot(*zip(*points, strict=True), marker=".", label=f"{target}: {column}")
            every = [stage["batches"] for stage in stages]
            seconds.plot(every, [stage["seconds"] for stage in stages])
            sizes.plot(every, [stage["megabytes"] for stage in stages])
        scores.set(title="the first batch", xlabel="batches", ylim=(0, 1.05))
        scores.legend()
        seconds.set(title="seconds of a batch", xlabel="batches", ylim=(0, None))
        sizes.set(title="megabytes on disk", xlabel="batches", ylim=(0, None))

    caption = "Scores of the first batch, seconds a batch, and megabytes on disk."
    return [Figure("stages", caption, draw_stages)]


EXPERIMENT = Experiment(TITLE, QUESTION, SequentialSetup, cells, run, tables, figures)
