"""Where does the gradient search find the token of its closed form, and where does it break?"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from onceedit_jax.ensemble.pair import Side, build_transfer
from onceedit_jax.fusion.rules import PRESETS, fused_anchor

from experiments.framework.definition import (
    Cell,
    Experiment,
    Figure,
    Page,
    Result,
    Setup,
    Table,
    judged,
    short,
)
from experiments.framework.workspace import Lab
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.fusion.search import SearchSettings, gradient_search
from onceedit_jax.models.decoder import unembed

CHUNK = 20  # searches at once: each holds a few [CHUNK, V] arrays
TIE = 1e-3  # columns this close count as equal
METRICS = ("rel", "gen", "loc")
# The optimizer, reduction, rate and steps that DeePEn publishes.
_SEARCH = SearchSettings()
PUBLISHED = (_SEARCH.optimizer, _SEARCH.reduction, f"{_SEARCH.learning_rate:g}", _SEARCH.steps)


@dataclass(frozen=True)
class SearchSetup(Setup):
    """The grid; `limit` prompts are searched from, `scored` records are evaluated."""

    starts: Sequence[str] = ("zeros", "prior")
    rates: Sequence[float] = (1e-4, 1e-3, 1e-5, 0.05, 0.15, 0.5)
    steps: Sequence[int] = (1, 5, 20)
    reductions: Sequence[str] = ("mean", "sum")
    optimizers: Sequence[str] = ("adamw", "sgd")
    scored: int = 20


def cells(setup: SearchSetup) -> Mapping[str, Cell]:
    """Agreement by start, optimizer and reduction; scores by start and rate as published else."""
    found: dict[str, Cell] = {}
    for spec in setup.targets:
        name = short(spec)
        for start, optimizer, reduction in itertools.product(
            setup.starts, setup.optimizers, setup.reductions
        ):
            found[f"{name}, {start}, {optimizer}, {reduction}"] = {
                "target": spec,
                "start": start,
                "optimizer": optimizer,
                "reduction": reduction,
                "grid": list(itertools.product(setup.rates, setup.steps)),
            }
    for start, rate in itertools.product(setup.starts, setup.rates):
        found[f"scores, {start}, {rate:g}"] = {
            "start": start,
            "rate": rate,
            "records": setup.scored,
        }
    return found


def run(lab: Lab, setup: SearchSetup, cell: Cell) -> Result:
    """A cell of either kind."""
    return _agreement(lab, setup, cell) if "target" in cell else _scores(lab, setup, cell)


def _agreement(lab: Lab, setup: SearchSetup, cell: Cell) -> Result:
    """Share of prompts where the search finds the lookup's token, or a tie; and its last loss."""
    source, target = lab.target(setup.plugin), lab.target(cell["target"])
    sides = Side.of_model(source), Side.of_model(target)
    transfer, _ = build_transfer(*sides, PRESETS["relative"])
    assert transfer.plugin is not None and transfer.target is not None
    assert transfer.lookup is not None
    prompts = [pair.prompt for pair in lab.same_form("zsre", setup.limit)]
    states = [
        states_after(side.params, side.config, [side.tokenizer.encode(p) for p in prompts])
        for side in sides
    ]
    grid = cell["grid"]
    same, near, loss = np.zeros(len(grid)), np.zeros(len(grid)), np.zeros(len(grid))
    for start in range(0, len(prompts), CHUNK):
        logits = [
            unembed(side.params, side.config, jnp.asarray(part[start : start + CHUNK]))
            for side, part in zip(sides, states, strict=True)
        ]
        half = jnp.full(len(logits[0]), 0.5)
        anchors = fused_anchor(*logits, half, transfer.plugin, transfer.target)
        looked_up = transfer.lookup[anchors]
        columns = jax.vmap(transfer.target.column)(anchors)
        lines = jnp.arange(len(anchors))
        begin = jnp.zeros_like(logits[1]) if cell["start"] == "zeros" else logits[1]
        for n, (rate, steps) in enumerate(grid):
            settings = SearchSettings(
                steps=steps,
                learning_rate=rate,
                optimizer=cell["optimizer"],
                reduction=cell["reduction"],
            )
            found = gradient_search(anchors, transfer.target, begin, settings=settings)
            token = jnp.argmax(found.logits, axis=-1)
            same[n] += float(jnp.sum(token == looked_up))
            near[n] += float(
                jnp.sum(columns[lines, token] >= (1 - TIE) * columns[lines, looked_up])
            )
            loss[n] += float(jnp.sum(found.losses[:, -1]))
    return {
        "grid": [
            {
                "rate": rate,
                "steps": steps,
                "same": same[n] / len(prompts),
                "same or tied": near[n] / len(prompts),
                "loss": loss[n] / len(prompts),
            }
            for n, (rate, steps) in enumerate(grid)
        ]
    }


def _scores(lab: Lab, setup: SearchSetup, cell: Cell) -> Result:
    """Teacher-forced scores with the published search but for start and rate."""
    search = dataclasses.replace(SearchSettings(), learning_rate=cell["rate"])
    rule = lab.rule(
        "relative", gate="both", search="gradient", start=cell["start"], gradient=search
    )
    ensemble = lab.ensemble(lab.plugin("zsre", lab.settings()), setup.targets, fusion=rule)
    scores = lab.evaluate(ensemble, lab.records("zsre")[: cell["records"]])["scores"]
    return {"scores": [{"target": s["target"], **s["after"]} for s in scores]}


class Point(NamedTuple):
    """A setting of the search, and how its end stands to the lookup: shares of prompts, and KL."""

    target: str
    start: str
    optimizer: str
    reduction: str
    rate: str
    steps: int
    same: float
    tied: float
    loss: float


def page(setup: SearchSetup, results: Mapping[str, Result]) -> Page:
    """Agreement with the lookup in words and as a grid, and the scores."""
    grid = [
        Point(*name.split(", "), f"{found['rate']:g}", found["steps"], *shares)
        for name, result in results.items()
        for found in result.get("grid", ())
        for shares in [[found[key] for key in ("same", "same or tied", "loss")]]
    ]
    scores = [
        [*name.split(", ")[1:], score["target"], *(score[m] for m in METRICS)]
        for name, result in results.items()
        for score in result.get("scores", ())
    ]
    kinds = list(itertools.product(setup.starts, setup.optimizers, setup.reductions))
    told = [_agreed(kind, [p for p in grid if p[1:4] == kind]) for kind in kinds]
    published = [f"{p.target} {p.tied:.0%} from {p.start}" for p in grid if p[2:6] == PUBLISHED]
    told.append(f"With the published settings: {', '.join(published) or 'not measured'}.")

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(setup.starts), sharey=True, squeeze=False)[0]
        for axes, start in zip(panels, setup.starts, strict=True):
            for kind in kinds:
                found = [p for p in grid if p[1:4] == kind and kind[0] == start]
                rates = sorted({p.rate for p in found}, key=float)
                means = [np.mean([p.tied for p in found if p.rate == rate]) for rate in rates]
                if found:
                    label = ", ".join(kind[1:])
                    axes.plot(list(map(float, rates)), means, marker="o", label=label)
            axes.set(
                title=f"start: {start}", xlabel="learning rate", xscale="log", ylim=(-0.02, 1.02)
            )
        panels[0].set(ylabel="lookup's token or a tie")
        if panels[0].has_data():
            panels[0].legend()

    return Page(
        " ".join(filter(None, told)),
        _claim(scores),
        [
            Table(
                "Scores with the published search but for start and rate",
                ("start", "rate", "target", "Rel", "Gen", "Loc"),
                scores,
            ),
            Table(
                "Agreement with the lookup, share of prompts, and the last KL divergence",
                (*Point._fields[:6], "same", "same or tied", "KL"),
                grid,
            ),
        ],
        [
            Figure(
                "agreement",
                "Share of prompts on which the search ends at the lookup's token or a tie, by "
                "learning rate; mean over steps and targets.",
                draw,
            )
        ],
    )


def _agreed(kind: tuple[str, ...], points: Sequence[Point]) -> str:
    """In how many settings every prompt ends at the lookup's token, and where the fewest do."""
    if not points:
        return ""
    every = sum(point.tied == 1 for point in points)
    told = f"{', '.join(kind)}: the lookup's token or a tie on every prompt in {every} of "
    told += f"{len(points)} settings"
    least = min(points, key=lambda point: point.tied)
    if every < len(points):
        told += f", on {least.tied:.0%} of them at the least ({least.target}, rate {least.rate}, "
        told += f"{least.steps} steps)"
    return told + "."


def _claim(scores: Sequence[Sequence[Any]]) -> str:
    """Whether zeros score higher, with the published search but for its start."""
    rate = PUBLISHED[2]
    worse = {
        start: min(rel for begin, at, _, rel, *_ in scores if (begin, at) == (start, rate))
        for start in dict.fromkeys(row[0] for row in scores if row[1] == rate)
    }
    return judged(
        "the ensemble scores higher where the search begins at zeros",
        worse["zeros"] > worse["prior"] if {"zeros", "prior"} <= worse.keys() else None,
        f"at its rate {rate} Rel of the worse target is "
        + " and ".join(f"{rel:.3f} from {start}" for start, rel in worse.items()),
    )


EXPERIMENT = Experiment(
    title="The search's start and settings",
    expected=(
        "From zeros, with a one-hot target, plain gradient descent keeps the order of the target's "
        "column at every step, so that it must agree with the lookup at any rate (docs/method.md "
        "has the proof). AdamW need not: its first step is sign-like where its epsilon is small "
        "against the gradient, as with the summed loss. From the target's own logits (DeePEn's "
        "start) five small steps should hardly move the token."
    ),
    setup=SearchSetup,
    cells=cells,
    run=run,
    page=page,
)
