"""Real facts, in the forms that users ask for them in, and other facts of their subjects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from experiments.framework.real_facts import Draw, draw
from onceedit_jax import fusion
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.evaluation.check import Checked, check, checked

TITLE = "Real facts and what users ask about them"
QUESTION = "Does an edit hold in the forms people use, and is its subject otherwise unchanged?"

FORMS = "form: "
SHOWN = (
    "Rel", "Gen", "Same subject", "Same subject: intrusion", "Same relation", "Unrelated", "Long",
)  # fmt: skip
REASONED = ("Reversed", "Yes", "No", "Negated", "2-hop", "3-hop")
Columns = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class RealSetup(Setup):
    """What is measured.

    Attributes:
      draws: by number of facts, how many disjoint draws of so many.
      development: take the topics that anything may be tuned on, not those that are measured.
    """

    draws: Mapping[int, int] = field(default_factory=dict)
    development: bool = False


def cells(setup: RealSetup) -> Mapping[str, Cell]:
    """One for each draw; no draw has more facts than `limit`."""
    found: dict[str, Cell] = {}
    for size, count in setup.draws.items():
        facts = min(int(size), setup.limit)
        for number in range(int(count)):
            cell = {"facts": facts, "draw": number, "development": setup.development}
            found.setdefault(f"{facts} facts, draw {number}", cell)
    return found


def run(workspace: Workspace, setup: RealSetup, cell: Cell) -> Result:
    """Edit once, then ask every target with each method; answers before the edit are shared."""
    drawn = draw(workspace.data, cell["facts"], cell["draw"], development=cell["development"])
    edited = workspace.edit_alone(drawn.records, workspace.settings())
    ensemble = workspace.ensemble(edited, setup.targets)
    found = check(ensemble, drawn.probes, seed=setup.seed)
    methods = {"one edit": found, "lookup": _lookup(drawn, found, setup.seed)}
    for name, rule in (("context", fusion.context()), ("both", fusion.context(draft=True))):
        told = Ensemble(edited, ensemble.targets, rule=rule, chat=False, mesh=workspace.mesh)
        methods[name] = check(told, drawn.probes, known=found, seed=setup.seed)
    return {
        "seconds": edited.editing_seconds,
        "epochs": edited.info.metrics.epochs,
        "methods": {
            name: {each.target: _numbers(each) for each in checks}
            for name, checks in methods.items()
        },
    }


def _lookup(drawn: Draw, found: Sequence[Checked], seed: int) -> list[Checked]:
    """What a lookup of the subject's name would say: the stored answer wherever it is named."""
    subjects = [str(record.subject).lower() for record in drawn.records]
    named = [
        next((n for n, subject in enumerate(subjects) if subject in probe.prompt.lower()), None)
        for probe in drawn.probes
    ]
    return [
        checked(
            each.target,
            drawn.probes,
            [row["before"] for row in each.rows],
            [
                row["before"] if place is None else drawn.records[place].target
                for row, place in zip(each.rows, named, strict=True)
            ],
            seed=seed,
        )
        for each in found
    ]


def _numbers(each: Checked) -> dict[str, dict[str, float]]:
    return {name: vars(column) for name, column in each.columns.items()}


def tables(setup: RealSetup, results: Results) -> Sequence[Table]:
    """The worse target of each method, over all draws of a size; then the questions that reason."""
    sizes = sorted({int(name.split()[0]) for name in results})
    rows, reasoned = [], []
    for size in sizes:
        drawn = [result for name, result in results.items() if int(name.split()[0]) == size]
        for method in drawn[0]["methods"]:
            by_target = [
                [result["methods"][method][target] for result in drawn]
                for target in drawn[0]["methods"][method]
            ]
            forms = [_forms(columns) for columns in by_target]
            rows.append(
                [
                    f"{size} facts, {len(drawn)} draws",
                    method,
                    *(_worse(by_target, name) for name in SHOWN[:2]),
                    min(mean for mean, _ in forms),
                    min(worst for _, worst in forms),
                    *(_worse(by_target, name) for name in SHOWN[2:]),
                ]
            )
            reasoned.append(
                [f"{size} facts", method, *(_worse(by_target, name) for name in REASONED)]
            )
    return [
        Table(
            "columns",
            "Free generation, the worse target of each column, mean over draws. Forms: mean and "
            "worst of twelve. Intrusion: the edited fact is said where something else was asked.",
            ("facts", "method", "Rel", "Gen", "Forms", "worst form", *SHOWN[2:]),
            rows,
        ),
        Table(
            "reasoned",
            "Questions that need more than the edit's own answer: the share of right answers.",
            ("facts", "method", *REASONED),
            reasoned,
        ),
    ]


def _worse(by_target: Sequence[Sequence[Columns]], name: str) -> float | None:
    """The mean over draws of a column, of the target where it is worse."""
    means = [
        float(np.mean([draw[name]["value"] for draw in draws if name in draw]))
        for draws in by_target
        if any(name in draw for draw in draws)
    ]
    if not means:
        return None
    return max(means) if name.endswith("intrusion") else min(means)


def _forms(draws: Sequence[Columns]) -> tuple[float, float]:
    """Mean and worst of the forms, each averaged over draws."""
    names = [name for name in draws[0] if name.startswith(FORMS)]
    means = [float(np.mean([draw[name]["value"] for draw in draws])) for name in names]
    return float(np.mean(means)), min(means)


EXPERIMENT = Experiment(TITLE, QUESTION, RealSetup, cells, run, tables)
