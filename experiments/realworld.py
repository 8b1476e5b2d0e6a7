"""Real facts, in the forms that users ask for them in, and other facts of their subjects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from experiments.framework.abilities import Abilities, abilities, abilities_table
from experiments.framework.definition import short
from experiments.framework.probe_tables import OURS, by_fact, probe_tables
from experiments.framework.real_facts import Draw, draw, named_edits
from experiments.framework.systems import fused
from onceedit_jax import fusion
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.evaluation.check import Checked, check, checked
from onceedit_jax.evaluation.summaries import write_jsonl

TITLE = "Real facts and what users ask about them"
GATED_LOOKUP = "lookup, behind the gate"
QUESTION = "Does an edit hold in the forms people use, and is its subject otherwise unchanged?"


@dataclass(frozen=True)
class RealSetup(Setup):
    """What is measured.

    Attributes:
      draws: by number of facts, how many disjoint draws of so many.
      asked: at most so many facts of a draw are asked about, evenly spread; 0 asks about all.
      chat_targets: targets that are asked in chat, apart from the others.
      chat_draws: the draws that they are asked about.
      others: texts that the perplexity of targets is taken on, and at most so many simple facts; 0
        leaves their other abilities out.
      development: take the topics that anything may be tuned on, not those that are measured.
    """

    draws: Mapping[int, int] = field(default_factory=dict)
    asked: int = 0
    chat_targets: Sequence[str] = ()
    chat_draws: Mapping[int, int] = field(default_factory=dict)
    others: int = 50
    development: bool = False


def cells(setup: RealSetup) -> Mapping[str, Cell]:
    """One for each draw, then those in chat, then the targets' other abilities.

    No draw has more facts than `limit`.
    """
    found: dict[str, Cell] = {}
    asked = {"asked": setup.asked, "development": setup.development}
    for chat, draws in ((False, setup.draws), (True, setup.chat_draws)):
        for size, count in draws.items():
            facts = min(int(size), setup.limit)
            for number in range(int(count)):
                name = f"{facts} facts, draw {number}" + ", in chat" * chat
                cell = {"facts": facts, "draw": number, "chat": chat, **asked}
                found.setdefault(name, cell)
    for size in setup.draws if setup.others else ():
        facts = min(int(size), setup.limit)
        cell = {"facts": facts, "draw": 0, "others": setup.others, **asked}
        found.setdefault(f"{facts} facts: other abilities", cell)
    return found


def run(workspace: Workspace, setup: RealSetup, cell: Cell) -> Result:
    """Edit once, then ask every target with each method; answers before the edit are shared."""
    drawn = draw(workspace.data, cell["facts"], cell["draw"], development=cell["development"])
    edited = workspace.edit_alone(drawn.records, workspace.settings())
    if "others" in cell:
        return {"abilities": {OURS: _other_abilities(workspace, setup, edited)}}
    drawn = drawn.asking(cell["asked"])
    targets = setup.chat_targets if cell["chat"] else setup.targets
    steps = len(drawn.probes)  # about one a question: twenty tokens, in batches
    ensemble = workspace.ensemble(edited, targets)
    forced = {} if cell["chat"] else _forced(workspace, ensemble, drawn)
    ensemble = ensemble.with_chat(cell["chat"]).unrolled_for(steps)
    named = named_edits(drawn.records, [probe.prompt for probe in drawn.probes])
    compared = {
        i
        for i, probe in enumerate(drawn.probes)
        if probe.expects == "unchanged" or named[i] is None
    }
    found = check(ensemble, drawn.probes, compared=compared, seed=setup.seed)
    methods = {
        OURS: found,
        "lookup": _lookup(drawn, [named] * len(found), found, setup.seed),
        GATED_LOOKUP: _lookup(drawn, _meant(found), found, setup.seed),
    }
    for name, rule in (("context", fusion.context()), ("both", fusion.context(draft=True))):
        told = Ensemble(edited, ensemble.targets, rule=rule, chat=cell["chat"], mesh=workspace.mesh)
        methods[name] = check(told.unrolled_for(steps), drawn.probes, known=found, seed=setup.seed)
    _keep_answers(workspace, methods, cell)
    return {
        "seconds": edited.editing_seconds,
        "epochs": edited.info.metrics.epochs,
        "methods": {
            name: {short(each.target): by_fact(each) for each in checks}
            for name, checks in methods.items()
        },
        "teacher_forced": forced,
    }


def _other_abilities(
    workspace: Workspace, setup: RealSetup, edited: EditedPlugin
) -> dict[str, Abilities]:
    """What is left of each target's other abilities."""
    texts = workspace.texts("even")[: setup.others]
    ensemble = workspace.ensemble(edited, setup.targets)
    return {
        short(spec): abilities(fused(ensemble, place), workspace.alone(spec), texts)
        for place, spec in enumerate(setup.targets)
    }


def _forced(workspace: Workspace, ensemble: Ensemble, drawn: Draw) -> dict[str, dict[str, float]]:
    """By target, teacher-forced Rel and Gen of the facts that are asked about."""
    asked = sorted({probe.fact for probe in drawn.probes})
    scores = workspace.evaluate(ensemble, [drawn.records[fact] for fact in asked])["scores"]
    return {
        score["target"]: {"Rel": score["after"]["rel"], "Gen": score["after"]["gen"]}
        for score in scores
    }


def _keep_answers(
    workspace: Workspace, methods: Mapping[str, Sequence[Checked]], cell: Cell
) -> None:
    """Every question and answer, for who wants to read them; they are not published."""
    rows = [
        {"method": name, "target": short(each.target), **row}
        for name, checks in methods.items()
        for each in checks
        for row in each.rows
    ]
    folder = workspace.work / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        folder / f"realworld-{'chat-' * cell['chat']}{cell['facts']}-{cell['draw']}.jsonl", rows
    )


def _lookup(
    drawn: Draw, named: Sequence[Sequence[int | None]], found: Sequence[Checked], seed: int
) -> list[Checked]:
    """What a table of answers would say: that of the edit that each question is taken for.

    Args:
      drawn: the facts and the questions.
      named: for each target, the place of that edit for each question; None for none.
      found: the targets' own answers.
      seed: of the bootstrap intervals.
    """
    return [
        checked(
            each.target,
            drawn.probes,
            [row["before"] for row in each.rows],
            [
                row["before"] if place is None else drawn.records[place].target
                for row, place in zip(each.rows, places, strict=True)
            ],
            seed=seed,
        )
        for each, places in zip(found, named, strict=True)
    ]


def _meant(found: Sequence[Checked]) -> list[list[int | None]]:
    """The edits that our gate took the questions for."""
    return [[None if row["edit"] < 0 else row["edit"] for row in each.rows] for each in found]


def tables(setup: RealSetup, results: Results) -> Sequence[Table]:
    """By size of the draws, those in chat apart: the answers, then the teacher-forced scores."""
    groups = _by_size(setup, results)
    forced = [
        [label, target, *(_over_draws(measured, target, name) for name in ("Rel", "Gen"))]
        for label, measured in groups.items()
        for target in measured[0]["teacher_forced"]
    ]
    title = "One edit, teacher-forced, each target apart: the mean over draws."
    others = {name.partition(":")[0]: each for name, each in results.items() if "abilities" in each}
    return [
        *probe_tables(groups),
        Table("forced", title, ("facts", "target", "Rel", "Gen"), forced),
        *([abilities_table(others)] if others else []),
    ]


def _over_draws(measured: Sequence[Result], target: str, name: str) -> float:
    return float(np.mean([result["teacher_forced"][target][name] for result in measured]))


def _by_size(setup: RealSetup, results: Results) -> dict[str, list[Result]]:
    """The results of all draws of a size, those in chat apart."""
    groups: dict[str, list[Result]] = {}
    for name, cell in cells(setup).items():
        if name in results and "others" not in cell:
            label = f"{cell['facts']} facts" + ", in chat" * cell["chat"]
            groups.setdefault(label, []).append(results[name])
    return {
        f"{label}, {len(group)} draws" if len(group) > 1 else label: group
        for label, group in groups.items()
    }


EXPERIMENT = Experiment(TITLE, QUESTION, RealSetup, cells, run, tables)
