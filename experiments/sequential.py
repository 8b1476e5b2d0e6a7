"""Edits that arrive in batches: train all again, go on, go on with replay, or merge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from experiments.framework.definition import (
    OPEN,
    Cell,
    Experiment,
    Figure,
    Page,
    Result,
    Setup,
    Table,
)
from experiments.framework.forgetting import forgetting
from experiments.framework.workspace import Lab
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.merging import merge
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone

METRICS = ("rel", "gen", "loc", "avg")
KEPT = ("first", "all")  # measures that rise and fall with the batches
MEASURES = {
    "first": "Rel of the first batch",
    "all": "Rel of all so far",
    "perplexity": "perplexity",
    "facts": "simple facts known",
}


@dataclass(frozen=True)
class SequentialSetup(Setup):
    """What arrives, and what is done about it.

    Attributes:
      dataset: whose edits.
      batches: in how many equal parts they arrive.
      strategies: of `STRATEGIES`.
      replay: earlier edits trained again for each new one, where that is the strategy.
      texts: on how many perplexity is taken.
    """

    dataset: str = "zsre"
    batches: int = 10
    strategies: Sequence[str] = ("retrain", "continue", "replay", "merge")
    replay: float = 1.0
    texts: int = 60


class State(NamedTuple):
    """Where a strategy stands: its plug-in, and the seconds of editing until there."""

    plugin: EditedPlugin
    seconds: float


Strategy = Callable[[Lab, Cell, State | None, Sequence[Sequence[EditRecord]]], State]


def cells(setup: SequentialSetup) -> Mapping[str, Cell]:
    """One a strategy."""
    for name in setup.strategies:
        if name not in STRATEGIES:
            raise InputError(f"strategies: no {name!r}; there are {', '.join(STRATEGIES)}")
    shared = {"dataset": setup.dataset, "batches": setup.batches, "texts": setup.texts}
    return {
        name: {"strategy": name, **shared, "replay": setup.replay if name == "replay" else 0.0}
        for name in setup.strategies
    }


def run(lab: Lab, setup: SequentialSetup, cell: Cell) -> Result:
    """Let the batches arrive; measure the plug-in after each, and the targets at the end."""
    records, count = lab.records(cell["dataset"]), cell["batches"]
    if len(records) < count:
        raise InputError(
            f"batches: {count} for {len(records)} edits; expected at least one in each"
        )
    ends = [round(len(records) * n / count) for n in range(count + 1)]
    arrivals = [records[a:b] for a, b in pairwise(ends)]
    texts = lab.texts("even")[: cell["texts"]]
    model, tokenizer = lab.base(lab.setup.plugin)
    stages: list[dict[str, Any]] = [forgetting(model.params, model.config, tokenizer, texts)]
    state: State | None = None
    for n in range(1, count + 1):
        state = STRATEGIES[cell["strategy"]](lab, cell, state, arrivals[:n])
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
    ensemble = lab.ensemble(state.plugin, setup.targets)
    whole, first = (lab.evaluate(ensemble, part) for part in (records, arrivals[0]))
    return {
        "stages": stages,
        "scores": whole["scores"],
        "first": first["scores"],
        "records": whole["records"],
    }


def _retrain(
    lab: Lab, cell: Cell, state: State | None, arrivals: Sequence[Sequence[EditRecord]]
) -> State:
    """All edits so far, from the base."""
    records = [record for batch in arrivals for record in batch]
    return _trained(lab, cell, records, state)


def _go_on(
    lab: Lab, cell: Cell, state: State | None, arrivals: Sequence[Sequence[EditRecord]]
) -> State:
    """The new edits, from the plug-in that holds the earlier ones."""
    options = {"start": state.plugin, "replay": cell["replay"]} if state else {}
    return _trained(lab, cell, arrivals[-1], state, **options)


def _merge(
    lab: Lab, cell: Cell, state: State | None, arrivals: Sequence[Sequence[EditRecord]]
) -> State:
    """The new edits from the base; what they have changed is added to what the earlier ones did."""
    new = _trained(lab, cell, arrivals[-1], state)
    parts = [new.plugin] if state is None else [state.plugin, new.plugin]
    model, _ = lab.base(lab.setup.plugin)
    records = [record for batch in arrivals for record in batch]
    seen = {mark for part in parts for mark in part.info.trained_texts}
    merged = lab.seal(cell["dataset"], merge(model, parts), records, spent=new.seconds, seen=seen)
    return State(merged, merged.editing_seconds)


def _trained(
    lab: Lab, cell: Cell, records: Sequence[EditRecord], state: State | None, **options: Any
) -> State:
    dataset = cell["dataset"]
    settings: EditSettings = lab.settings()
    plugin = lab.edit(dataset, records, settings, examples=lab.examples(dataset), **options)
    return State(plugin, plugin.editing_seconds + (state.seconds if state else 0.0))


STRATEGIES: dict[str, Strategy] = {
    "retrain": _retrain,
    "continue": _go_on,
    "replay": _go_on,
    "merge": _merge,
}


def page(setup: SequentialSetup, results: Mapping[str, Result]) -> Page:
    """What is left of the first batch, of the model's own knowledge, and what it took."""
    rows = [
        [name, when, score["target"], *(score["after"][metric] for metric in METRICS)]
        for name, result in results.items()
        for when, scores in (("all", result["scores"]), ("first batch", result["first"]))
        for score in scores
    ]
    lowest = {
        name: {measure: min(stage[measure] for stage in result["stages"][1:]) for measure in KEPT}
        for name, result in results.items()
    }
    ends = [
        [
            name,
            *(result["stages"][-1][measure] for measure in MEASURES),
            *(lowest[name][measure] for measure in KEPT),
            result["stages"][-1]["seconds"],
        ]
        for name, result in results.items()
    ]
    start = next(iter(results.values()))["stages"][0]
    told = [
        f"{name}: {end['first']:.2f} of the first batch, {end['all']:.2f} of all (after some batch "
        f"no more than {lowest[name]['first']:.2f} and {lowest[name]['all']:.2f}), perplexity "
        f"{end['perplexity']:.1f}, facts {end['facts']:.2f}, {end['seconds']:.0f} s"
        for name, result in results.items()
        for end in result["stages"][-1:]
    ]

    def draw(figure: Any) -> None:
        for axes, (measure, title) in zip(
            figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True
        ):
            for name, result in results.items():
                stages = list(enumerate(result["stages"]))
                points = [(n, stage[measure]) for n, stage in stages if measure in stage]
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
            axes.set(title=title, xlabel="batches")
        axes.legend()

    return Page(
        f"After {setup.batches} batches the plug-in by itself has, {'; '.join(told)}. Before any "
        f"edit its perplexity was {start['perplexity']:.1f} and it knew {start['facts']:.2f} of "
        "the facts.",
        OPEN,
        [
            Table(
                "The targets' scores at the end, on all edits and on the first batch",
                ("strategy", "edits", "target", "Rel", "Gen", "Loc", "Avg"),
                rows,
            ),
            Table(
                "The plug-in by itself at the end, its lowest Rel after any batch, and seconds of "
                "editing in all",
                (
                    "strategy",
                    *MEASURES.values(),
                    *(f"lowest {MEASURES[measure]}" for measure in KEPT),
                    "seconds",
                ),
                ends,
            ),
        ],
        [Figure("stages", "The plug-in by itself after each batch.", draw)],
    )


EXPERIMENT = Experiment(
    title="Edits that arrive one batch after another",
    expected=(
        "The paper edits everything at once and leaves sequential edits open. Training all edits "
        "again from the base is safe and costs more with every batch. Going on from the last "
        "plug-in costs the same each time and should forget the first batch; replay should keep "
        "it. Adding up plug-ins that were edited apart should hold for few and break for many."
    ),
    setup=SequentialSetup,
    cells=cells,
    run=run,
    page=page,
)
