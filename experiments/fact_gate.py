"""The gate `fact` alone: which prompts open it, for which edit, and what its alpha is worth.

No target answers. The plug-in is not trained either, since nothing of this gate is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.datasets import REPHRASE_KINDS, load_edits, rephrase_kinds
from experiments.framework.gate_rows import (
    Row,
    Shares,
    alphas_of,
    ask,
    once_more,
    shares,
    shares_by_gate,
    untrained_plugin,
)
from experiments.framework.known_relations import in_bank
from experiments.framework.probe_tables import with_interval
from experiments.framework.real_facts import draw, load_rows, near_probes
from experiments.framework.separation import (
    area,
    calibration_error,
    reliability,
    shut_threshold,
)
from onceedit_jax.evaluation.probes import Probe
from onceedit_jax.gates.fact import THRESHOLD

TITLE = "The gate fact"
QUESTION = "Which prompts open the gate, for which edit, and is alpha a probability?"

REAL, PARAPHRASE, FORM, FORMS = "real facts", "paraphrase", "form: ", "forms, mean of eleven"
GENERATED, OTHER = "same subject, generated question", "same subject, another fact"
NEAR = "same relation, other subject"
WITHIN, OTHER_WITHIN, ANOTHER = "in a text", "same subject, in a text", "Another time or person"
KINDS = {
    "Rel": "as edited",
    "Gen": PARAPHRASE,
    "Sentence": "a sentence asked for",
    "In a text": WITHIN,
    "Long": "long answer asked for",
    "Same subject": OTHER,
    "Same subject, in a text": OTHER_WITHIN,
    "Same relation": NEAR,
    "Unrelated": "unrelated",
    "Reversed": "reversed",
    "Yes": "is it so? (yes)",
    "No": "is it so? (no)",
    "Negated": "is it true that it is not?",
}
OF_RECORDS = {
    "rel": "as edited",
    "gen": PARAPHRASE,
    **{kind: kind for kind in REPHRASE_KINDS},
    "loc": "locality prompt",
    "portability": "one-hop question",
}
ASKING = ("as edited", PARAPHRASE, FORMS, FORM, "a sentence", WITHIN, "long", "Near: the fact")
ALL = "these and same relation"
AGAINST = {
    GENERATED: (GENERATED,),
    OTHER: (OTHER,),
    "same subject, both": (GENERATED, OTHER),
    ALL: (GENERATED, OTHER, NEAR),
}
SHUT = 0.95
# Prompts that ask for the edit, others, and whether only those count that name a subject.
CURVES = (
    ("paraphrases and forms, all others", (PARAPHRASE, FORM), AGAINST[ALL], False),
    ("the same, where a subject is named", (PARAPHRASE, FORM), AGAINST[ALL], True),
    ("paraphrases, same subject", (PARAPHRASE,), AGAINST["same subject, both"], False),
)


@dataclass(frozen=True)
class FactGateSetup(Setup):
    """What is measured; no memory has more edits than `limit`.

    Attributes:
      facts: number of edits of one memory of real facts.
      draws: number of disjoint memories of real facts.
      datasets: further data sets, and from which to before which place their edits are taken.
    """

    facts: int = 10
    draws: int = 1
    datasets: Mapping[str, Sequence[int]] = field(default_factory=dict)


def cells(setup: FactGateSetup) -> Mapping[str, Cell]:
    """The real facts in one cell, since their draws are averaged; then the data sets."""
    facts = min(setup.facts, setup.limit)
    found: dict[str, Cell] = {REAL: {"facts": facts, "draws": setup.draws}}
    for name, (first, stop) in setup.datasets.items():
        places = [first, min(stop, first + setup.limit)]
        found[f"{name} {places[0]} to {places[1] - 1}"] = {"dataset": name, "places": places}
    return found


def run(workspace: Workspace, setup: FactGateSetup, cell: Cell) -> Result:
    """Ask the gates about every prompt."""
    if "dataset" in cell:
        rows = _dataset_rows(workspace, cell)
        return {"kinds": shares_by_gate(rows, setup.seed), "records": rows}
    rows, held = _real_rows(workspace, cell)
    return {
        "kinds": _with_mean(rows, setup.seed),
        "separation": _separation(rows, setup.seed),
        "reliability": {
            name: reliability(
                alphas_of(rows, *asking, named=named), alphas_of(rows, *others, named=named)
            )
            for name, asking, others, named in CURVES
        },
        "bank": {
            f"by {how}: {'in' if inside else 'not in'} the bank": _bank_group(
                [row for row in rows if facts[row["record"]] == inside], setup.seed
            )
            for how, facts in held.items()
            for inside in (True, False)
        },
        "records": rows,
    }


def _real_rows(workspace: Workspace, cell: Cell) -> tuple[list[Row], dict[str, dict[int, bool]]]:
    """What the gates say of every prompt, and whether the bank holds each fact's relation."""
    questions = {row["question"]: row for row in load_rows(workspace.data, development=False)}
    generated = {row["locality_question"] for row in questions.values()}
    rows, held = list[Row](), dict[str, dict[int, bool]]()
    for number in range(cell["draws"]):
        drawn, first = draw(workspace.data, cell["facts"], number), number * cell["facts"]
        # The form "as edited" is the edit's own question, which is there already.
        probes = [_named(p, generated) for p in drawn.probes if p.column != "form: as edited"]
        probes += near_probes(drawn.records)
        rows += [
            {**row, "record": row["record"] + first}
            for row in ask(untrained_plugin(workspace, drawn.records), probes)
        ]
        names = [questions[record.prompt]["relation"] for record in drawn.records]
        base = workspace.base(workspace.setup.plugin)
        for how, facts in in_bank(base, drawn.records, names).items():
            held.setdefault(how, {}).update(enumerate(facts, first))
    return rows, held


def _named(probe: Probe, generated: set[str]) -> Probe:
    """The probe under its name on the page."""
    own = probe.column == "Same subject" and probe.prompt in generated
    return replace(probe, column=GENERATED if own else KINDS.get(probe.column, probe.column))


def _dataset_rows(workspace: Workspace, cell: Cell) -> list[Row]:
    """What the gates say of a data set's prompts."""
    first, stop = cell["places"]
    records = workspace.records(cell["dataset"], stop)[first:]
    probes = [
        Probe(kind, fact, prompt, record.target)
        for fact, record in enumerate(records)
        for kind, prompts in (
            ("rel", [record.prompt]),
            ("gen", [record.rephrase] if record.rephrase else []),
            ("loc", [pair.prompt for pair in record.locality]),
            ("portability", [pair.prompt for pair in record.portability]),
        )
        for prompt in prompts
    ]
    rows = ask(untrained_plugin(workspace, records), probes)
    if cell["dataset"] == "counterfact":
        kinds = rephrase_kinds(records, load_edits(workspace.data, cell["dataset"]))
        rows += once_more(rows, "gen", kinds)
    return [{**row, "record": row["record"] + first} for row in rows]


def _with_mean(rows: Sequence[Row], seed: int) -> dict[str, Shares]:
    """Shares of real facts: the forms have a mean, too."""
    forms = [{**row, "metric": FORMS} for row in rows if row["metric"].startswith(FORM)]
    return shares_by_gate([*rows, *forms], seed)


def _separation(rows: Sequence[Row], seed: int) -> list[dict[str, Any]]:
    """Paraphrases and forms against each kind of other question."""
    found = []
    for name, kinds in AGAINST.items():
        others = alphas_of(rows, *kinds)
        bar = shut_threshold(others, SHUT)
        open_now = shares(rows, lambda row: float(row["alpha"] > bar), seed)  # noqa: B023
        found.append(
            {
                "against": name,
                "prompts": len(others),
                "area": {kind: area(alphas_of(rows, kind), others) for kind in (PARAPHRASE, FORM)},
                "shut": float(np.mean(others < THRESHOLD)),
                "bar": bar,
                PARAPHRASE: open_now[PARAPHRASE],
                "forms": float(np.mean(alphas_of(rows, FORM) > bar)),
            }
        )
    return found


def _bank_group(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """How the gate does on some of the facts."""
    both, paraphrases = alphas_of(rows, GENERATED, OTHER), alphas_of(rows, PARAPHRASE)
    return {
        "facts": len(paraphrases),
        "area": area(paraphrases, both) if len(both) and len(paraphrases) else None,
        "kinds": _with_mean(rows, seed)["fact"],
    }


def tables(setup: FactGateSetup, results: Results) -> Sequence[Table]:
    """Shares of open prompts; separation; calibration; the bank; the data sets."""
    real = results.get(REAL)
    found = [] if real is None else [_kinds(real), _separated(real), _calibrated(real), _bank(real)]
    datasets = {name: result for name, result in results.items() if name != REAL}
    return [*found, *([_datasets(datasets)] if datasets else [])]


def _kinds(real: Result) -> Table:
    by_gate = real["kinds"]
    return Table(
        "kinds",
        "Share of prompts that open a gate, mean over facts (95% interval over facts). Right edit: "
        "share that opens `fact` for the edit that is asked for.",
        ("prompts", "number", "fact", "fact, right edit", "lookup", "memory"),
        [
            [
                kind,
                by_gate["fact"][kind]["probes"],
                _shown(by_gate["fact"][kind]),
                by_gate["fact, right edit"][kind]["value"] if kind.startswith(ASKING) else None,
                *(by_gate[gate][kind]["value"] for gate in ("lookup", "memory")),
            ]
            for kind in sorted(by_gate["fact"], key=_rank)
        ],
    )


def _rank(kind: str) -> int:
    """Where the page has a kind of prompt: those that ask for the edit, then the others."""
    groups = (*ASKING, GENERATED, OTHER, OTHER_WITHIN, ANOTHER, "Near", NEAR)
    return next((n for n, name in enumerate(groups) if kind.startswith(name)), len(groups))


def _separated(real: Result) -> Table:
    return Table(
        "separation",
        f"Prompts that ask for the edit against other questions. Open at {SHUT:.0%} shut: at the "
        "alpha that so many of the other questions do not exceed. The last column is the share of "
        f"them that is shut at the threshold as it is, {THRESHOLD}.",
        (
            "against", "number", "AUC, paraphrases", "AUC, forms",
            f"paraphrases open at {SHUT:.0%} shut", f"forms open at {SHUT:.0%} shut",
            "alpha there", f"shut at {THRESHOLD}",
        ),
        [
            [
                row["against"],
                row["prompts"],
                *row["area"].values(),
                _shown(row[PARAPHRASE]),
                row["forms"],
                row["bar"],
                row["shut"],
            ]
            for row in real["separation"]
        ],
    )  # fmt: skip


def _calibrated(real: Result) -> Table:
    return Table(
        "calibration",
        "Alpha in ten bins, and the share of prompts in each that ask for the edit. Prompts that "
        "ask and prompts that do not have half of the weight each. The first row of each part is "
        "the expected calibration error.",
        ("prompts", "number", "mean alpha", "share that asks", "error"),
        [line for name, curve in real["reliability"].items() for line in _curve_rows(name, curve)],
    )


def _curve_rows(name: str, curve: Sequence[Mapping[str, float]]) -> list[list[Any]]:
    points = [(point["prompts"], point["alpha"], point["share"]) for point in curve]
    error, prompts = calibration_error(curve), sum(point["prompts"] for point in curve)
    return [
        [name, prompts, None, None, error],
        *(["", count, alpha, share, abs(alpha - share)] for count, alpha, share in points),
    ]


def _bank(real: Result) -> Table:
    kinds = (PARAPHRASE, FORMS, GENERATED, OTHER)
    return Table(
        "bank",
        "Facts whose relation the bank holds, and the others: share of prompts that open `fact`, "
        "and the area under the ROC of paraphrases against the subject's other questions.",
        ("facts", "number", *kinds, "AUC"),
        [
            [
                name,
                group["facts"],
                *(
                    _shown(group["kinds"][kind]) if kind in group["kinds"] else None
                    for kind in kinds
                ),
                group["area"],
            ]
            for name, group in real["bank"].items()
        ],
    )


def _datasets(results: Results) -> Table:
    return Table(
        "datasets",
        "Other data sets: share of prompts that open a gate.",
        ("edits", "prompts", "number", "fact", "fact, right edit", "lookup", "memory"),
        [
            [
                name,
                OF_RECORDS[kind],
                column["probes"],
                _shown(column),
                result["kinds"]["fact, right edit"][kind]["value"]
                if kind in ("rel", "gen", *REPHRASE_KINDS)
                else None,
                *(result["kinds"][gate][kind]["value"] for gate in ("lookup", "memory")),
            ]
            for name, result in results.items()
            for kind, column in result["kinds"]["fact"].items()
        ],
    )


def _shown(column: Mapping[str, float]) -> str | None:
    return with_interval(column["value"], column["low"], column["high"])


def figures(setup: FactGateSetup, results: Results) -> Sequence[Figure]:
    """Shares by kind, and the reliability curve."""
    real = results.get(REAL)
    if real is None:
        return ()
    return [
        Figure(
            "kinds",
            "Share of prompts that open the gate `fact`, with 95% intervals, and the lookup.",
            lambda figure: _bars(figure, real["kinds"]),
        ),
        Figure(
            "reliability",
            "Share of prompts that ask for the edit, by alpha; the area of a point is its weight.",
            lambda figure: _curve(figure, real["reliability"]),
        ),
    ]


def _bars(figure: Any, by_gate: Mapping[str, Shares]) -> None:
    kinds = [kind for kind in sorted(by_gate["fact"], key=_rank) if not kind.startswith(FORM)]
    fact = [by_gate["fact"][kind] for kind in kinds]
    places = np.arange(len(kinds))[::-1]
    axes = figure.subplots()
    axes.barh(places, [c["value"] for c in fact], color="#7da7d9", label="fact")
    axes.errorbar(
        [c["value"] for c in fact],
        places,
        xerr=np.array([[c["value"] - c["low"], c["high"] - c["value"]] for c in fact]).T,
        fmt="none",
        color="black",
        linewidth=0.8,
    )
    looked = [by_gate["lookup"][kind]["value"] for kind in kinds]
    axes.plot(looked, places, "|", color="firebrick", markersize=10, label="lookup")
    axes.set(xlabel="share that opens", xlim=(0, 1.02))
    axes.set_yticks(places, kinds)
    axes.legend(loc="center right")


def _curve(figure: Any, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    for name, curve in curves.items():
        alphas, shares = ([point[key] for point in curve] for key in ("alpha", "share"))
        (line,) = axes.plot(alphas, shares, linewidth=0.8, label=name)
        sizes = [400 * point["weight"] for point in curve]
        axes.scatter(alphas, shares, s=sizes, color=line.get_color(), alpha=0.5)
    axes.axvline(THRESHOLD, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel="alpha", ylabel="share that asks for the edit")
    axes.legend()


EXPERIMENT = Experiment(TITLE, QUESTION, FactGateSetup, cells, run, tables, figures)
