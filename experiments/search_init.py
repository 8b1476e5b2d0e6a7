"""The gradient search beside its closed form: from which start and settings do they agree?"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.definition import short
from experiments.framework.workspace import rule_of
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.ensemble.side import ModelSide
from onceedit_jax.fusion.mixing import fused_anchor
from onceedit_jax.fusion.search import SearchSettings, gradient_search
from onceedit_jax.models.decoder import unembed

TITLE = "The search's start and settings"
QUESTION = (
    "From which start and with which settings does the gradient search end at the token of "
    "its closed form?"
)

CHUNK = 20  # searches at once: each holds a few [CHUNK, V] arrays
TIE = 1e-3  # columns this close count as equal
# The optimizer, reduction, rate and steps that DeePEn publishes.
_SEARCH = SearchSettings()
PUBLISHED = (_SEARCH.optimizer, _SEARCH.reduction, f"{_SEARCH.learning_rate:g}", _SEARCH.steps)


@dataclass(frozen=True)
class SearchSetup(Setup):
    """The grid; the search starts from `limit` prompts, and `scored` records are evaluated."""

    starts: Sequence[str] = ("zeros", "prior")
    rates: Sequence[float] = (1e-4, 1e-3, 1e-5, 0.05, 0.15, 0.5)
    steps: Sequence[int] = (1, 5, 20)
    reductions: Sequence[str] = ("mean", "sum")
    optimizers: Sequence[str] = ("adamw", "sgd")
    scored: int = 20


def cells(setup: SearchSetup) -> Mapping[str, Cell]:
    """Agreement by start, optimizer and reduction; scores by start and rate."""
    found: dict[str, Cell] = {}
    for spec, (start, optimizer, reduction) in itertools.product(setup.targets, kinds(setup)):
        found[f"{short(spec)}, {start}, {optimizer}, {reduction}"] = {
            "target": spec,
            "start": start,
            "optimizer": optimizer,
            "reduction": reduction,
            "grid": list(itertools.product(setup.rates, setup.steps)),
        }
    for start, rate in itertools.product(setup.starts, setup.rates):
        cell = {"start": start, "rate": rate, "records": setup.scored}
        found[f"scores, {start}, {rate:g}"] = cell
    return found


def kinds(setup: SearchSetup) -> list[tuple[str, str, str]]:
    """Start, optimizer and reduction of every search."""
    return list(itertools.product(setup.starts, setup.optimizers, setup.reductions))


def run(workspace: Workspace, setup: SearchSetup, cell: Cell) -> Result:
    """A cell of either kind."""
    measure = _agreement if "target" in cell else _scores
    return measure(workspace, setup, cell)


def _agreement(workspace: Workspace, setup: SearchSetup, cell: Cell) -> Result:
    """Share of prompts where the search ends at the lookup's token or a tie; and its last loss."""
    source, target = workspace.target(setup.plugin), workspace.target(cell["target"])
    sides = ModelSide.of_model(source), ModelSide.of_model(target)
    tables = rule_of({"preset": "relative"})["rule"].prepare(*sides)
    prompts = [pair.prompt for pair in workspace.same_form("zsre", setup.limit)]
    states = [
        states_after(side.params, side.config, [side.tokenizer.encode(p) for p in prompts])
        for side in sides
    ]
    totals = np.zeros((len(cell["grid"]), 3))
    for first in range(0, len(prompts), CHUNK):
        logits = [
            unembed(side.params, side.config, jnp.asarray(part[first : first + CHUNK]))
            for side, part in zip(sides, states, strict=True)
        ]
        plugin_logits, target_logits = logits
        half = jnp.full(len(plugin_logits), 0.5)
        anchors = fused_anchor(plugin_logits, target_logits, half, tables.plugin, tables.target)
        looked_up = tables.lookup[anchors]
        columns = jax.vmap(tables.target.column)(anchors)
        lines = jnp.arange(len(anchors))
        start = jnp.zeros_like(target_logits) if cell["start"] == "zeros" else target_logits
        for n, (rate, steps) in enumerate(cell["grid"]):
            settings = SearchSettings(
                steps=steps,
                learning_rate=rate,
                optimizer=cell["optimizer"],
                reduction=cell["reduction"],
            )
            search = gradient_search(anchors, tables.target, start, settings=settings)
            tokens = jnp.argmax(search.logits, axis=-1)
            tied = columns[lines, tokens] >= (1 - TIE) * columns[lines, looked_up]
            sums = map(jnp.sum, (tokens == looked_up, tied, search.losses[:, -1]))
            totals[n] += [float(value) for value in sums]
    shares = (totals / len(prompts)).tolist()
    return {
        "grid": [
            {"rate": rate, "steps": steps, "same": same, "same or tied": tied, "loss": loss}
            for (rate, steps), (same, tied, loss) in zip(cell["grid"], shares, strict=True)
        ]
    }


def _scores(workspace: Workspace, setup: SearchSetup, cell: Cell) -> Result:
    """Teacher-forced scores with the published search, except for its start and rate."""
    rule = {
        "preset": "relative",
        "gate": "both",
        "search": "gradient",
        "start": cell["start"],
        "gradient": {"learning_rate": cell["rate"]},
    }
    plugin = workspace.plugin("zsre", workspace.settings())
    ensemble = workspace.ensemble(plugin, setup.targets, rule)
    scores = workspace.evaluate(ensemble, workspace.records("zsre")[: cell["records"]])["scores"]
    return {"scores": [{"target": s["target"], **s["after"]} for s in scores]}


class Point(NamedTuple):
    """A setting of the search, its agreement with the lookup (shares of prompts), and its KL."""

    target: str
    start: str
    optimizer: str
    reduction: str
    rate: str
    steps: int
    same: float
    tied: float
    loss: float


def points(results: Results) -> list[Point]:
    """Every measured setting of the search."""
    return [
        Point(
            target,
            start,
            optimizer,
            reduction,
            f"{entry['rate']:g}",
            entry["steps"],
            entry["same"],
            entry["same or tied"],
            entry["loss"],
        )
        for name, result in results.items()
        if "grid" in result
        for target, start, optimizer, reduction in [name.split(", ")]
        for entry in result["grid"]
    ]


def tables(setup: SearchSetup, results: Results) -> Sequence[Table]:
    """Agreement in short, the scores, and agreement in full."""
    grid = points(results)
    agreed = [
        [
            *kind,
            len(group),
            sum(point.tied == 1 for point in group),
            min(point.tied for point in group),
        ]
        for kind in kinds(setup)
        if (group := [point for point in grid if point[1:4] == kind])
    ]
    scores = [
        [*name.split(", ")[1:], score["target"], *(score[m] for m in ("rel", "gen", "loc"))]
        for name, result in results.items()
        for score in result.get("scores", ())
    ]
    return [
        Table(
            "agreement",
            "Settings (rates, steps and targets) in which the search ends at the lookup's token or "
            "a tie on every prompt, and the lowest share of prompts in any of them.",
            ("start", "optimizer", "reduction", "settings", "agree on all", "lowest share"),
            agreed,
        ),
        Table(
            "published",
            "Share of prompts with the published optimizer, reduction, rate and steps.",
            ("target", "start", "same or tied"),
            [[p.target, p.start, p.tied] for p in grid if p[2:6] == PUBLISHED],
        ),
        Table(
            "scores",
            "Scores with the published search, except for its start and rate.",
            ("start", "rate", "target", "Rel", "Gen", "Loc"),
            scores,
        ),
        Table(
            "grid",
            "Agreement with the lookup as a share of prompts, and the last KL divergence.",
            (*Point._fields[:6], "same", "same or tied", "KL"),
            grid,
        ),
    ]


def figures(setup: SearchSetup, results: Results) -> Sequence[Figure]:
    """Agreement by rate, a panel for each start."""
    grid = points(results)

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(setup.starts), sharey=True, squeeze=False)[0]
        for axes, start in zip(panels, setup.starts, strict=True):
            for kind in kinds(setup):
                group = [p for p in grid if p[1:4] == kind and kind[0] == start]
                rates = sorted({p.rate for p in group}, key=float)
                means = [np.mean([p.tied for p in group if p.rate == rate]) for rate in rates]
                if group:
                    label = ", ".join(kind[1:])
                    axes.plot(list(map(float, rates)), means, marker="o", label=label)
            axes.set(
                title=f"start: {start}", xlabel="learning rate", xscale="log", ylim=(-0.02, 1.02)
            )
        panels[0].set(ylabel="lookup's token or a tie")
        if panels[0].has_data():
            panels[0].legend()

    caption = (
        "Share of prompts on which the search ends at the lookup's token or a tie, by learning "
        "rate; mean over steps and targets."
    )
    return [Figure("agreement", caption, draw)]


EXPERIMENT = Experiment(TITLE, QUESTION, SearchSetup, cells, run, tables, figures)
