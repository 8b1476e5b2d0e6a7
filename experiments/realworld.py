"""Real facts, in the forms that users ask for them in, and other facts of their subjects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from experiments.framework.definition import short
from experiments.framework.real_facts import Draw, draw
from onceedit_jax import fusion
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.evaluation.check import Checked, check, checked
from onceedit_jax.evaluation.probes import interval
from onceedit_jax.evaluation.summaries import write_jsonl

TITLE = "Real facts and what users ask about them"
QUESTION = "Does an edit hold in the forms people use, and is its subject otherwise unchanged?"

FORMS = "form: "
MAIN = (
    "Rel", "Gen", "Forms", "Worst form", "Same subject", "Same subject: intrusion",
    "Same relation", "Unrelated", "Long",
)  # fmt: skip
REASONED = ("Reversed", "Yes", "No", "Negated", "2-hop", "3-hop")
COMPARED = ("Rel", "Gen", "Forms", "Same subject")  # their mean is what methods are compared by
OURS = "one edit"
Values = Mapping[str, Mapping[str, float]]  # by column, then by fact


@dataclass(frozen=True)
class RealSetup(Setup):
    """What is measured.

    Attributes:
      draws: by number of facts, how many disjoint draws of so many.
      asked: at most so many facts of a draw are asked about, evenly spread; 0 asks about all.
      chat_targets: targets that are asked in chat, apart from the others.
      chat_draws: the draws that they are asked about.
      development: take the topics that anything may be tuned on, not those that are measured.
    """

    draws: Mapping[int, int] = field(default_factory=dict)
    asked: int = 0
    chat_targets: Sequence[str] = ()
    chat_draws: Mapping[int, int] = field(default_factory=dict)
    development: bool = False


def cells(setup: RealSetup) -> Mapping[str, Cell]:
    """One for each draw, then those in chat; no draw has more facts than `limit`."""
    found: dict[str, Cell] = {}
    asked = {"asked": setup.asked, "development": setup.development}
    for chat, draws in ((False, setup.draws), (True, setup.chat_draws)):
        for size, count in draws.items():
            facts = min(int(size), setup.limit)
            for number in range(int(count)):
                name = f"{facts} facts, draw {number}" + ", in chat" * chat
                cell = {"facts": facts, "draw": number, "chat": chat, **asked}
                found.setdefault(name, cell)
    return found


def run(workspace: Workspace, setup: RealSetup, cell: Cell) -> Result:
    """Edit once, then ask every target with each method; answers before the edit are shared."""
    drawn = draw(workspace.data, cell["facts"], cell["draw"], development=cell["development"])
    drawn = drawn.asking(cell["asked"])
    edited = workspace.edit_alone(drawn.records, workspace.settings())
    targets = setup.chat_targets if cell["chat"] else setup.targets
    steps = len(drawn.probes)  # about one a question: twenty tokens, in batches
    ensemble = workspace.ensemble(edited, targets)
    forced = {} if cell["chat"] else _forced(workspace, ensemble, drawn)
    ensemble = ensemble.with_chat(cell["chat"]).unrolled_for(steps)
    named = _named(drawn)
    compared = {
        i
        for i, probe in enumerate(drawn.probes)
        if probe.expects == "unchanged" or named[i] is None
    }
    found = check(ensemble, drawn.probes, compared=compared, seed=setup.seed)
    methods = {"one edit": found, "lookup": _lookup(drawn, named, found, setup.seed)}
    for name, rule in (("context", fusion.context()), ("both", fusion.context(draft=True))):
        told = Ensemble(edited, ensemble.targets, rule=rule, chat=cell["chat"], mesh=workspace.mesh)
        methods[name] = check(told.unrolled_for(steps), drawn.probes, known=found, seed=setup.seed)
    _keep_answers(workspace, methods, cell)
    return {
        "seconds": edited.editing_seconds,
        "epochs": edited.info.metrics.epochs,
        "methods": {
            name: {short(each.target): _numbers(each) for each in checks}
            for name, checks in methods.items()
        },
        "teacher_forced": forced,
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


def _named(drawn: Draw) -> list[int | None]:
    """For each probe, the first edit whose subject it names."""
    subjects = [str(record.subject).lower() for record in drawn.records]
    return [
        next((n for n, subject in enumerate(subjects) if subject in probe.prompt.lower()), None)
        for probe in drawn.probes
    ]


def _lookup(
    drawn: Draw, named: Sequence[int | None], found: Sequence[Checked], seed: int
) -> list[Checked]:
    """What a lookup of the subject's name would say: the stored answer wherever it is named."""
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


def _numbers(each: Checked) -> dict[str, dict[int, float]]:
    """By column, the mean of each fact."""
    return {
        name: {fact: round(value, 4) for fact, value in column.by_fact.items()}
        for name, column in each.columns.items()
    }


def tables(setup: RealSetup, results: Results) -> Sequence[Table]:
    """By size of the draws: the worse target, each target, and what the methods differ by."""
    main, targets, reasoned, against, forced = [], [], [], [], []
    for label, measured in _by_size(setup, results).items():
        pooled = _pooled(measured)
        scores = [result["teacher_forced"] for result in measured if result["teacher_forced"]]
        forced += [
            [label, target, *(_over_draws(scores, target, name) for name in ("Rel", "Gen"))]
            for target in (scores[0] if scores else ())
        ]
        for method, found in pooled.items():
            main.append([label, method, *(_shown(*_worse(found, name)) for name in MAIN)])
            reasoned.append([label, method, *(_worse(found, name)[0] for name in REASONED)])
            targets += [
                [label, target, method, *(_mean(values, name)[0] for name in MAIN)]
                for target, values in found.items()
            ]
        for method in pooled.keys() - {OURS}:
            against += [
                [label, target, method, _shown(*_difference(pooled[OURS][target], values))]
                for target, values in pooled[method].items()
            ]
    return [
        Table(
            "columns",
            "Free generation: the worse target of each column, the mean over all facts of all "
            "draws with its 95% bootstrap interval. Forms: the mean of twelve. Intrusion: the "
            "edited fact is said where something else was asked.",
            ("facts", "method", *MAIN),
            main,
        ),
        Table(
            "against",
            f"{OURS[0].upper()}{OURS[1:]} less the other method: the mean of "
            f"{', '.join(COMPARED)}, paired by fact, with its 95% bootstrap interval.",
            ("facts", "target", "other method", "difference"),
            sorted(against),
        ),
        Table(
            "forced",
            f"{OURS[0].upper()}{OURS[1:]}, teacher-forced, each target apart: the mean over draws.",
            ("facts", "target", "Rel", "Gen"),
            forced,
        ),
        Table("targets", "Each target apart.", ("facts", "target", "method", *MAIN), targets),
        Table(
            "reasoned",
            "Questions that need more than the edit's own answer, the worse target: the share of "
            "right answers.",
            ("facts", "method", *REASONED),
            reasoned,
        ),
    ]


def _over_draws(scores: Sequence[Values], target: str, name: str) -> float:
    return float(np.mean([score[target][name] for score in scores]))


def _by_size(setup: RealSetup, results: Results) -> dict[str, list[Result]]:
    """The results of all draws of a size, those in chat apart."""
    groups: dict[str, list[Result]] = {}
    for name, cell in cells(setup).items():
        if name in results:
            label = f"{cell['facts']} facts" + ", in chat" * cell["chat"]
            groups.setdefault(label, []).append(results[name])
    return {
        f"{label}, {len(group)} draws" if len(group) > 1 else label: group
        for label, group in groups.items()
    }


def _pooled(measured: Sequence[Result]) -> dict[str, dict[str, Values]]:
    """By method and target, the columns over the facts of all draws."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for draw_number, cell in enumerate(measured):
        for method, targets in cell["methods"].items():
            for target, columns in targets.items():
                own = found.setdefault(method, {}).setdefault(target, {})
                for name, facts in _with_forms(columns).items():
                    values = own.setdefault(name, {})
                    values.update({f"{draw_number}/{fact}": v for fact, v in facts.items()})
    return {
        method: {target: _with_worst(columns) for target, columns in targets.items()}
        for method, targets in found.items()
    }


def _with_forms(columns: Values) -> Values:
    """The columns and, as one more, each fact's mean over the forms."""
    forms = [values for name, values in columns.items() if name.startswith(FORMS)]
    facts = forms[0] if forms else {}
    means = {fact: float(np.mean([form[fact] for form in forms])) for fact in facts}
    return {**columns, "Forms": means}


def _with_worst(columns: Values) -> Values:
    """The columns and, as one more, the form whose mean is lowest."""
    forms = [values for name, values in columns.items() if name.startswith(FORMS)]
    worst = min(forms, key=lambda form: float(np.mean(list(form.values()))), default={})
    return {**columns, "Worst form": worst}


def _mean(columns: Values, name: str) -> tuple[float | None, ...]:
    """A column's mean and interval; None where it has no probe."""
    values = np.array(list(columns.get(name, {}).values()))
    return (float(values.mean()), *interval(values)) if len(values) else (None, None, None)


def _worse(found: Mapping[str, Values], name: str) -> tuple[float | None, ...]:
    """The mean and interval of the target where a column is worse."""
    means = [mean for columns in found.values() if (mean := _mean(columns, name))[0] is not None]
    if not means:
        return (None, None, None)
    return (max if name.endswith("intrusion") else min)(means)


def _difference(ours: Values, other: Values) -> tuple[float | None, ...]:
    """How much better we are, paired by fact, over facts that have all columns compared."""
    facts = set.intersection(*(set(ours.get(name, ())) for name in COMPARED))
    differences = {
        fact: float(np.mean([ours[name][fact] - other[name][fact] for name in COMPARED]))
        for fact in facts
    }
    return _mean({"difference": differences}, "difference")


def _shown(mean: float | None, low: float | None, high: float | None) -> str | None:
    return None if mean is None else f"{mean:.3f} ({low:.3f} to {high:.3f})"


EXPERIMENT = Experiment(TITLE, QUESTION, RealSetup, cells, run, tables)
