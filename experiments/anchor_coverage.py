"""The number of anchors: which rule finds them, and what is lost without some of them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.definition import short
from experiments.framework.scores import HEADINGS, METRICS
from experiments.framework.workspace import rule_of
from onceedit_jax.ensemble.side import ModelSide
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.relative_rule import pair_anchors, relative_state
from onceedit_jax.text.anchors import Anchors, anchors
from onceedit_jax.text.tokenizer import load_tokenizer

TITLE = "Anchors and coverage"
QUESTION = "How many anchors does the relative space need, and which rule finds them?"

RULES: tuple[Literal["paper", "bytes"], ...] = ("paper", "bytes")
RULE = {"preset": "relative", "gate": "both", "allow_lossy": True}


@dataclass(frozen=True)
class CoverageSetup(Setup):
    """What is compared.

    Attributes:
      rules: that find anchors.
      kept: shares of the anchors of `bytes` that are used.
      tokenizers: folder of tokenizers to count anchors in, relative to the data folder.
    """

    rules: Sequence[str] = RULES
    kept: Sequence[float] = (1.0, 0.5, 0.25, 0.1, 0.01)
    tokenizers: str = "../tokenizers"


def cells(setup: CoverageSetup) -> Mapping[str, Cell]:
    """The counts; then scores by rule, and by the share of the anchors that is used."""
    found: dict[str, Cell] = {"counts": {"kind": "counts", "tokenizers": setup.tokenizers}}
    for spec in setup.targets:
        if "paper" in setup.rules:
            found[f"{short(spec)}, paper"] = {"target": spec, "rule": "paper", "kept": 1.0}
        for kept in setup.kept if "bytes" in setup.rules else ():
            found[thinned_cell(spec, kept)] = {"target": spec, "rule": "bytes", "kept": kept}
    return found


def thinned_cell(spec: str, kept: float) -> str:
    """The name of the cell that uses a share of the anchors."""
    return f"{short(spec)}, bytes, {kept:.0%}"


def run(workspace: Workspace, setup: CoverageSetup, cell: Cell) -> Result:
    """Counts of all pairs, or the scores of one pair with some of its anchors."""
    if cell.get("kind") == "counts":
        return _counts(workspace, setup)
    plugin = workspace.plugin("zsre", workspace.settings())
    target = workspace.target(cell["target"])
    shared = pair_anchors(plugin.tokenizer, target.tokenizer)
    if cell["rule"] == "paper":
        shared = anchors(plugin.tokenizer.vocabulary, target.tokenizer.vocabulary, rule="paper")
    if cell["kept"] < 1:
        shared = _thinned(shared, cell["kept"], plugin.tokenizer.end_id, setup.seed)
    sides = ModelSide.of_plugin(plugin), ModelSide.of_model(target)
    state = relative_state(*sides, shared, rule_of(RULE)["rule"].settings)
    health = sides[1].health
    assert health is not None
    ensemble = workspace.ensemble(plugin, [cell["target"]], RULE, states=[state])
    result = workspace.evaluate(ensemble, workspace.records("zsre"))
    return {
        "anchors": len(shared),
        "coverage": health.coverage,
        **{metric: result["scores"][0]["after"][metric] for metric in METRICS},
    }


def _thinned(shared: Anchors, kept: float, end_id: int, seed: int) -> Anchors:
    """A random choice of the anchors. The end token stays: without it no answer could stop."""
    chosen = np.random.default_rng(seed).random(len(shared)) < kept
    chosen |= shared.ids_a == end_id
    return Anchors(shared.ids_a[chosen], shared.ids_b[chosen])


def _counts(workspace: Workspace, setup: CoverageSetup) -> Result:
    folder = workspace.data / setup.tokenizers
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set `tokenizers` in the configuration")
    vocabularies = {
        path.name: load_tokenizer(path).vocabulary
        for path in sorted(folder.iterdir())
        if (path / "tokenizer.json").is_file()
    }
    for spec in (setup.plugin, *setup.targets):
        vocabularies[short(spec)] = load_tokenizer(spec).vocabulary
    return {
        "pairs": [
            [a, b, *(len(anchors(vocabularies[a], vocabularies[b], rule=rule)) for rule in RULES)]
            for a, b in itertools.combinations(vocabularies, 2)
        ]
    }


def tables(setup: CoverageSetup, results: Results) -> Sequence[Table]:
    """Scores by anchors, and the number of anchors by pair."""
    rows = [
        [*name.split(", ")[:2], r["anchors"], r["coverage"], *(r[m] for m in METRICS)]
        for name, r in results.items()
        if name != "counts"
    ]
    return [
        Table(
            "scores",
            "Scores of `relative` with the gate `both`, by the anchors that are used.",
            ("target", "rule", "anchors", "coverage of the text", *HEADINGS),
            rows,
        ),
        Table(
            "pairs",
            "Anchors of each pair of tokenizers, by rule.",
            ("one", "other", *RULES),
            results.get("counts", {}).get("pairs", []),
        ),
    ]


def figures(setup: CoverageSetup, results: Results) -> Sequence[Figure]:
    """Rel and Gen by the number of anchors."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for spec, metric in itertools.product(setup.targets, ("rel", "gen")):
            names = [thinned_cell(spec, kept) for kept in setup.kept]
            used = [results[name] for name in names if name in results]
            if used:
                points = [r["anchors"] for r in used], [r[metric] for r in used]
                axes.plot(*points, marker="o", label=f"{short(spec)}, {metric}")
        axes.set(xscale="log", xlabel="anchors", ylim=(0, 1.02))
        if axes.lines:  # a smoke run has one target and no curve
            axes.legend()

    return [Figure("coverage", "Scores by the number of anchors that are used.", draw)]


EXPERIMENT = Experiment(TITLE, QUESTION, CoverageSetup, cells, run, tables, figures)
