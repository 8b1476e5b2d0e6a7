"""From DeePEn to drafts, one change at a time; and fixed weights beside the learnt one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.definition import short
from experiments.framework.scores import HEADINGS, mean_score, score_rows

TITLE = "Ablation"
QUESTION = "What does each step from DeePEn to the default rule add?"

DEEPEN = {"preset": "relative", "start": "prior", "target": "distribution", "search": "gradient"}
# The paper fuses however small alpha is.
ALWAYS = {"alpha_threshold": 0.0}
# Each rule adds one thing to the one before it. The chain uses `centered` matrices: the paper's
# have to be kept whole or streamed, so that they are measured on few records only.
CHAIN: dict[str, dict[str, Any]] = {
    "DeePEn": {**DEEPEN, "weight": "fixed"},
    "+ dynamic weight": {**DEEPEN, **ALWAYS},
    "+ zero start": {**DEEPEN, **ALWAYS, "start": "zeros"},
    "+ one-hot target": {"preset": "relative", **ALWAYS},
    "+ threshold": {"preset": "relative"},
    "threshold, by gradient": {"preset": "relative", "search": "gradient"},
    "+ scope memory": {"preset": "relative", "gate": "both"},
    "vocabulary": {"preset": "vocabulary"},
    "draft": {"preset": "draft"},
    "draft, gate token": {"preset": "draft", "gate": "token"},
}
# The paper's Avg by rule and data set.
PAPER = {
    "DeePEn": {"zsre": 0.41, "counterfact": 0.43},
    "+ dynamic weight": {"zsre": 0.71},
    "+ one-hot target": {"zsre": 0.91, "counterfact": 0.68},
}
COLORS = {"relative": "tab:blue", "draft": "tab:orange"}
LEARNT = {"+ one-hot target": "relative", "draft": "draft"}  # beside the fixed weights


@dataclass(frozen=True)
class AblationSetup(Setup):
    """What is compared.

    Attributes:
      datasets: whose edits.
      rules: of the chain.
      fixed: the fixed weights.
      exact: rules that are measured with the published matrices too, by target, on
        `exact_records` edits of ZsRE: each step of the search takes a pass over all of R.
      exact_records: number of these edits.
      others: number of unedited questions of the edits' form.
    """

    datasets: Sequence[str] = ("zsre", "counterfact")
    rules: Sequence[str] = tuple(CHAIN)
    fixed: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9)
    exact_records: int = 20
    exact: Mapping[str, Sequence[str]] = field(default_factory=dict)
    others: int = 100


def cells(setup: AblationSetup) -> Mapping[str, Cell]:
    """One cell a data set and rule. Each scores every target, with published matrices one."""
    found: dict[str, Cell] = {}
    for dataset in setup.datasets:
        for name in setup.rules:
            found[f"{dataset}, {name}"] = {
                "dataset": dataset,
                "rule": CHAIN[name],
                "others": setup.others,
            }
        for name, preset, alpha in fixed_cells(setup, dataset):
            rule = {"preset": preset, "weight": "fixed", "fixed_alpha": alpha}
            found[name] = {"dataset": dataset, "rule": rule}
    for name, rule_name, spec in exact_cells(setup):
        found[name] = {
            "dataset": "zsre",
            "rule": {**CHAIN[rule_name], "normalization": "deepen"},
            "targets": [spec],
            "records": setup.exact_records,
        }
    return found


def fixed_cells(setup: AblationSetup, dataset: str) -> list[tuple[str, str, float]]:
    """The cells with a fixed weight: name, preset and weight."""
    return [(f"{dataset}, {p} {a}", p, a) for p in ("relative", "draft") for a in setup.fixed]


def exact_cells(setup: AblationSetup) -> list[tuple[str, str, str]]:
    """The cells with published matrices: name, rule and target."""
    return [
        (f"zsre, {rule}, published matrices, {short(spec)}", rule, spec)
        for spec, rules in setup.exact.items()
        for rule in rules
    ]


def run(workspace: Workspace, setup: AblationSetup, cell: Cell) -> Result:
    """Teacher-forced scores of a rule."""
    plugin = workspace.plugin(cell["dataset"], workspace.settings())
    ensemble = workspace.ensemble(plugin, cell.get("targets", setup.targets), cell["rule"])
    records = workspace.records(cell["dataset"])[: cell.get("records")]
    result = workspace.evaluate(ensemble, records)
    if "others" in cell:
        result["same_form"] = workspace.form_locality(ensemble, cell["dataset"], cell["others"])
    return result


def tables(setup: AblationSetup, results: Results) -> Sequence[Table]:
    """The averages of the chain beside the paper's; then every target's scores."""
    chain = [[name, *_averages(setup, results, name)] for name in CHAIN]
    unedited = [["unedited", *_averages(setup, results, next(iter(CHAIN)), "before")]]
    headings = [heading for d in setup.datasets for heading in (f"{d}: Rel", "Avg", "paper's Avg")]
    named = [f"{dataset}, {rule}" for dataset in setup.datasets for rule in CHAIN]
    fixed = [name for dataset in setup.datasets for name, _, _ in fixed_cells(setup, dataset)]
    exact = [name for name, _, _ in exact_cells(setup)]
    columns = ("rule", "target", *HEADINGS)
    return [
        Table(
            "chain",
            "Means over the targets, with the `centered` matrices.",
            ("rule", *headings),
            [row for row in unedited + chain if any(value is not None for value in row[1:])],
        ),
        Table(
            "exact",
            f"With the published matrices, on {setup.exact_records} edits.",
            columns,
            _rows(results, exact),
        ),
        Table(
            "scores",
            "All scores. Same form: locality on unedited questions in the edits' form.",
            (*columns, "same form"),
            [
                [*row, form]
                for name in named
                if name in results
                for row, form in zip(
                    _rows(results, [name]), results[name]["same_form"], strict=True
                )
            ],
        ),
        Table("fixed", "Scores with a fixed weight.", columns, _rows(results, fixed)),
    ]


def _averages(
    setup: AblationSetup, results: Results, rule: str, when: str = "after"
) -> list[float | None]:
    """For each data set the rule's mean Rel and Avg, and the paper's Avg."""
    row: list[float | None] = []
    for dataset in setup.datasets:
        result = results.get(f"{dataset}, {rule}")
        means = [mean_score(result["scores"], m, when) if result else None for m in ("rel", "avg")]
        row += [*means, PAPER.get(rule, {}).get(dataset) if when == "after" and result else None]
    return row


def _rows(results: Results, cells: Sequence[str]) -> list[list[Any]]:
    return [r for c in cells if c in results for r in score_rows([c], results[c]["scores"])]


def figures(setup: AblationSetup, results: Results) -> Sequence[Figure]:
    """Avg by fixed weight, a panel a data set."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(setup.datasets), sharey=True, squeeze=False)[0]
        for axes, dataset in zip(panels, setup.datasets, strict=True):
            for preset, color in COLORS.items():
                swept = [
                    (alpha, mean_score(results[name]["scores"]))
                    for name, kind, alpha in fixed_cells(setup, dataset)
                    if kind == preset and name in results
                ]
                if swept:
                    axes.plot(*zip(*swept, strict=True), marker="o", color=color, label=preset)
            for name, preset in LEARNT.items():
                if result := results.get(f"{dataset}, {name}"):
                    style = {"linestyle": "--", "color": COLORS[preset]}
                    mean = mean_score(result["scores"])
                    axes.axhline(mean, label=f"{name}, learnt weight", **style)
            axes.set(title=dataset, xlabel="fixed alpha", ylim=(0, 1.02))
        panels[0].set(ylabel="Avg")
        if panels[0].has_data():
            panels[0].legend()

    return [Figure("weights", "Mean Avg by fixed alpha; dashed: with the learnt weight.", draw)]


EXPERIMENT = Experiment(TITLE, QUESTION, AblationSetup, cells, run, tables, figures)
