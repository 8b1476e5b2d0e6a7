"""Edits in batches, in the weights: train all again, continue, continue with replay, or merge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.forgetting import forgetting
from experiments.framework.scores import HEADINGS, score_rows
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.merging import merge
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone

TITLE = "Training that continues, batch after batch"
QUESTION = "What is left of the first edits when the same weights learn later ones?"

MEASURES = {
    "first": "Rel of the first batch",
    "all": "Rel of all so far",
    "perplexity": "perplexity",
    "facts": "simple facts known",
}
VARYING = ("first", "all")  # measures that rise and fall with the batches


@dataclass(frozen=True)
class ContinuedSetup(Setup):
    """How edits arrive, and the strategies that are compared.

    Attributes:
      dataset: whose edits.
      batches: number of equal parts in which they arrive.
      strategies: of `STRATEGIES`.
      replay: earlier edits that are trained again for each new one, where that is the strategy.
      texts: number of texts that perplexity is taken on.
    """

    dataset: str = "zsre"
    batches: int = 10
    strategies: Sequence[str] = ("retrain", "continue", "replay", "merge")
    replay: float = 1.0
    texts: int = 60


class State(NamedTuple):
    """The plug-in of a strategy, and the seconds of editing so far."""

    plugin: EditedPlugin
    seconds: float


Arrivals = Sequence[Sequence[EditRecord]]  # the batches so far
Strategy = Callable[[Workspace, Cell, State | None, Arrivals], State]


def cells(setup: ContinuedSetup) -> Mapping[str, Cell]:
    """One cell a strategy."""
    for name in setup.strategies:
        if name not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise InputError(f"strategies: unknown {name!r}; expected some of {known}")
    shared = {"dataset": setup.dataset, "batches": setup.batches, "texts": setup.texts}
    return {
        name: {"strategy": name, **shared, "replay": setup.replay if name == "replay" else 0.0}
        for name in setup.strategies
    }


def run(workspace: Workspace, setup: ContinuedSetup, cell: Cell) -> Result:
    """Let the batches arrive; measure the plug-in after each, and the targets at the end."""
    records, count = workspace.records(cell["dataset"]), cell["batches"]
    if len(records) < count:
        raise InputError(
            f"batches: {count} for {len(records)} edits; expected at least one edit in each"
        )
    ends = [round(len(records) * n / count) for n in range(count + 1)]
    arrivals = [records[a:b] for a, b in pairwise(ends)]
    texts = workspace.texts("even")[: cell["texts"]]
    model, tokenizer = workspace.base(setup.plugin)
    stages: list[dict[str, Any]] = [forgetting(model.params, model.config, tokenizer, texts)]
    state: State | None = None
    for n in range(1, count + 1):
        state = STRATEGIES[cell["strategy"]](workspace, cell, state, arrivals[:n])
        plugin = state.plugin
        stages.append(
            {
                "first": plugin_alone(plugin, arrivals[0]).rel.value,
                "all": plugin_alone(plugin, records[: ends[n]]).rel.value,
                "seconds": state.seconds,
                **forgetting(plugin.params, plugin.config, tokenizer, texts),
            }
        )
    assert state is not None
    ensemble = workspace.ensemble(state.plugin, setup.targets)
    whole, first = (workspace.evaluate(ensemble, part) for part in (records, arrivals[0]))
    return {
        "stages": stages,
        "scores": whole["scores"],
        "first": first["scores"],
        "records": whole["records"],
    }


def _retrain(workspace: Workspace, cell: Cell, state: State | None, arrivals: Arrivals) -> State:
    """All edits so far, from the base."""
    records = [record for batch in arrivals for record in batch]
    return _trained(workspace, cell, records, state)


def _continue(workspace: Workspace, cell: Cell, state: State | None, arrivals: Arrivals) -> State:
    """The new edits, from the plug-in that holds the earlier ones."""
    options = {"start": state.plugin, "replay": cell["replay"]} if state else {}
    return _trained(workspace, cell, arrivals[-1], state, **options)


def _merge(workspace: Workspace, cell: Cell, state: State | None, arrivals: Arrivals) -> State:
    """The new edits from the base; their change is added to the earlier ones'."""
    new = _trained(workspace, cell, arrivals[-1], state)
    parts = [new.plugin] if state is None else [state.plugin, new.plugin]
    model, _ = workspace.base(workspace.setup.plugin)
    records = [record for batch in arrivals for record in batch]
    seen = {text for part in parts for text in part.info.trained_texts}
    merged = workspace.finalize(
        cell["dataset"], merge(model, parts), records, seconds=new.seconds, seen=seen
    )
    return State(merged, merged.editing_seconds)


def _trained(
    workspace: Workspace,
    cell: Cell,
    records: Sequence[EditRecord],
    state: State | None,
    **options: Any,
) -> State:
    dataset, settings = cell["dataset"], workspace.settings()
    examples = workspace.examples(dataset)
    plugin = workspace.edit(dataset, records, settings, examples=examples, **options)
    return State(plugin, plugin.editing_seconds + (state.seconds if state else 0.0))


STRATEGIES: dict[str, Strategy] = {
    "retrain": _retrain,
    "continue": _continue,
    "replay": _continue,
    "merge": _merge,
}


def tables(setup: ContinuedSetup, results: Results) -> Sequence[Table]:
    """The plug-in by itself after the batches, and the targets at the end."""
    start = next(iter(results.values()))["stages"][0]
    plugin: list[list[Any]] = [["unedited", *(start.get(m) for m in MEASURES)] + [None] * 5]
    for name, result in results.items():
        stages = result["stages"][1:]
        varying = [[stage[measure] for stage in stages] for measure in VARYING]
        plugin.append(
            [
                name,
                *(stages[-1][measure] for measure in MEASURES),
                *(summary(values) for summary in (min, np.mean) for values in varying),
                stages[-1]["seconds"],
            ]
        )
    return [
        Table(
            "plugin",
            "The plug-in by itself after the last batch; its lowest and its mean Rel over the "
            "batches; seconds of editing in all.",
            (
                "strategy",
                *MEASURES.values(),
                "lowest, first",
                "lowest, all",
                "mean, first",
                "mean, all",
                "seconds",
            ),
            plugin,
        ),
        Table(
            "scores",
            "The targets' scores at the end, on all edits and on the first batch.",
            ("strategy", "edits", "target", *HEADINGS),
            [
                row
                for name, result in results.items()
                for edits, key in (("all", "scores"), ("first batch", "first"))
                for row in score_rows([name, edits], result[key])
            ],
        ),
    ]


def figures(setup: ContinuedSetup, results: Results) -> Sequence[Figure]:
    """Each measure of the plug-in by batch."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(MEASURES))
        for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
            for name, result in results.items():
                stages = list(enumerate(result["stages"]))
                points = [(n, stage[measure]) for n, stage in stages if measure in stage]
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
            axes.set(title=title, xlabel="batches")
        panels[-1].legend()

    return [Figure("stages", "The plug-in by itself after each batch.", draw)]


EXPERIMENT = Experiment(TITLE, QUESTION, ContinuedSetup, cells, run, tables, figures)
