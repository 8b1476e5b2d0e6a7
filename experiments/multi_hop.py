"""Questions that need several facts, asked at once and step by step."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.datasets import DATASETS
from onceedit_jax.data.normalization import normalise
from onceedit_jax.ensemble import Ensemble

TITLE = "Questions that need several facts"
QUESTION = "Do edits carry over to questions that need several facts?"

EDITED, ASKED = "single hops, as edited", "single hops, as questions"
DIRECT, STEPS = "at once", "step by step"
ONE_HOP = "one hop"


@dataclass(frozen=True)
class HopSetup(Setup):
    """`limit`: edits of ZsRE; `cases`: MQuAKE's, each with four edits and a question over them."""

    datasets: Sequence[str] = ("mquake", "zsre")
    cases: int = 25


def cells(setup: HopSetup) -> Mapping[str, Cell]:
    """One cell a data set."""
    sizes = {"mquake": setup.cases, "zsre": setup.limit}
    return {name: {"dataset": name, "limit": sizes[name]} for name in setup.datasets}


def run(workspace: Workspace, setup: HopSetup, cell: Cell) -> Result:
    """Edit, and ask every target before (alone) and after (fused)."""
    plugin = workspace.plugin(cell["dataset"], workspace.settings(), limit=cell["limit"])
    ensemble = workspace.ensemble(plugin, setup.targets)
    alone = [workspace.ensemble(plugin, [spec]) for spec in setup.targets]
    ask = _mquake if cell["dataset"] == "mquake" else _zsre
    names = [target.name for target in ensemble.targets]
    return {"targets": names} | ask(workspace, ensemble, alone, cell)


def _mquake(
    workspace: Workspace, ensemble: Ensemble, alone: Sequence[Ensemble], cell: Cell
) -> dict[str, Any]:
    """Every hop by itself, the question over all hops, and its hops one after another.

    The data set's edits are openings (`The director of Madonna is`); as `single_hops` it has these
    and a question for each.
    """
    whole = json.loads((workspace.data / DATASETS["mquake"].edits).read_text(encoding="utf-8"))
    cases = whole[: cell["limit"]]
    hops = [hop for case in cases for hop in case["new_single_hops"]]
    single = {
        way: answered(ensemble, [hop[form] for hop in hops], [names(hop) for hop in hops])
        for way, form in ((EDITED, "cloze"), (ASKED, "question"))
    }
    ways = [(question, final(case)) for case in cases for question in case["questions"]]
    direct = answered(ensemble, *zip(*ways, strict=True))
    # A case counts as answered if one of its ways to ask is (the data set's own measure).
    starts = np.cumsum([0, *(len(case["questions"]) for case in cases)])[:-1]
    direct = {
        when: np.maximum.reduceat(right, starts, axis=1).mean(1).tolist()
        for when, right in direct.items()
    }
    shares = {
        way: {when: right.mean(1).tolist() for when, right in found.items()}
        for way, found in single.items()
    }
    steps = [step_by_step(target, cases) for target in alone]
    return {**shares, DIRECT: direct, STEPS: {"after": steps}}


def step_by_step(target: Ensemble, cases: Sequence[Mapping[str, Any]]) -> float:
    """Accuracy of the last hop when each goes on about the answer that was given to the last.

    The hops are worded as they were edited, each with the right answer to the one before in it:
    that answer is replaced by the one that was given.

    Args:
      target: an ensemble of one target.
      cases: as the data set has them.
    """
    given = ["" for _ in cases]
    for n in range(len(cases[0]["new_single_hops"])):
        asked = []
        for case, answer in zip(cases, given, strict=True):
            opening = case["new_single_hops"][n]["cloze"]
            if n:
                right = case["new_single_hops"][n - 1]["answer"]
                opening = opening.replace(right, answer or "it")
            asked.append(opening)
        given = [clean(text) for text in target.answers(asked)[0]]
    right = [g in final(case) for g, case in zip(map(normalise, given), cases, strict=True)]
    return float(np.mean(right))


def _zsre(
    workspace: Workspace, ensemble: Ensemble, alone: Sequence[Ensemble], cell: Cell
) -> dict[str, Any]:
    """One-hop questions: teacher-forced, at once, and after the edit has been recalled."""
    records = [r for r in workspace.records("zsre", cell["limit"]) if r.portability]
    pairs = [(record, pair) for record in records for pair in record.portability]
    scored = workspace.evaluate(ensemble, records)["scores"]
    wanted = [frozenset({normalise(pair.target)}) for _, pair in pairs]
    direct = answered(ensemble, [pair.prompt for _, pair in pairs], wanted)
    recalled = ensemble.answers([record.prompt for record, _ in pairs])
    steps = []
    for target, answers in zip(alone, recalled, strict=True):
        asked = [
            f"{record.prompt} {clean(answer)}. {pair.prompt}"
            for (record, pair), answer in zip(pairs, answers, strict=True)
        ]
        given = target.answers(asked)[0]
        right = [normalise(text) in w for text, w in zip(given, wanted, strict=True)]
        steps.append(float(np.mean(right)))
    return {
        f"{ONE_HOP}, teacher-forced": {
            when: [score[when]["portability"] for score in scored] for when in ("before", "after")
        },
        DIRECT: {when: right.mean(1).tolist() for when, right in direct.items()},
        STEPS: {"after": steps},
    }


def answered(
    ensemble: Ensemble, prompts: Sequence[str], wanted: Sequence[frozenset[str]]
) -> dict[str, Any]:
    """Whether each target's answer to each prompt is one of those wanted, before and after."""
    answers = ensemble.generate(list(prompts))
    return {
        when: np.array(
            [
                [normalise(text) in right for text, right in zip(row, wanted, strict=True)]
                for row in texts
            ],
            float,
        )
        for when, texts in (("before", answers.before), ("after", answers.after))
    }


def names(hop: Mapping[str, Any]) -> frozenset[str]:
    """Every way to write a hop's answer."""
    return frozenset(map(normalise, (hop["answer"], *hop["answer_alias"])))


def final(case: Mapping[str, Any]) -> frozenset[str]:
    """Every way to write a case's answer after its edits."""
    return frozenset(map(normalise, (case["new_answer"], *case["new_answer_alias"])))


def clean(answer: str) -> str:
    """An answer as it is put into the next question."""
    return answer.strip().rstrip(".")


def tables(setup: HopSetup, results: Results) -> Sequence[Table]:
    """Accuracy by data set, way of asking and target."""
    return [
        Table(
            "answered",
            "Share answered. In free generation an answer counts if, normalised, it is the right "
            "one or an alias; a case of MQuAKE counts if one of its questions is answered.",
            ("edits", "asked", "target", "before", "after"),
            _rows(results),
        )
    ]


def _rows(results: Results) -> list[list[Any]]:
    return [
        [dataset, way, target, shares["before"][t] if "before" in shares else None, after]
        for dataset, result in results.items()
        for way, shares in result.items()
        if way != "targets"
        for t, (target, after) in enumerate(zip(result["targets"], shares["after"], strict=True))
    ]


def figures(setup: HopSetup, results: Results) -> Sequence[Figure]:
    """The shares after the edits as bars."""

    def draw(figure: Any) -> None:
        axes, rows = figure.subplots(), _rows(results)
        labels = [f"{dataset}, {way}\n{target}" for dataset, way, target, _, _ in rows]
        axes.barh(labels, [row[-1] for row in rows])
        axes.set(xlim=(0, 1), xlabel="answered after the edit")
        axes.invert_yaxis()

    return [Figure("hops", "Share of questions answered after the edits.", draw)]


EXPERIMENT = Experiment(TITLE, QUESTION, HopSetup, cells, run, tables, figures)
