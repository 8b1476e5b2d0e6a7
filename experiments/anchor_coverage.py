"""How many anchors does the relative space need, and which rule finds them?"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onceedit_jax.ensemble.pair import Side, build_transfer, pair_anchors

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
from onceedit_jax.errors import InputError
from onceedit_jax.text.anchors import Anchors, anchors
from onceedit_jax.text.tokenizer import load_tokenizer

METRICS = ("rel", "gen", "loc", "avg")
RULES = ("paper", "bytes")


@dataclass(frozen=True)
class CoverageSetup(Setup):
    """Anchors by `rules`, of `bytes` the shares `kept`; `tokenizers`: a folder to count in."""

    rules: Sequence[str] = RULES
    kept: Sequence[float] = (1.0, 0.5, 0.25, 0.1, 0.01)
    tokenizers: str = "../tokenizers"


def cells(setup: CoverageSetup) -> Mapping[str, Cell]:
    """The counts; then scores by rule, and by the share of anchors kept."""
    found: dict[str, Cell] = {"counts": {"kind": "counts", "tokenizers": setup.tokenizers}}
    for spec in setup.targets:
        name = short(spec)
        if "paper" in setup.rules:
            found[f"{name}, paper"] = {"target": spec, "rule": "paper", "kept": 1.0}
        for kept in setup.kept if "bytes" in setup.rules else ():
            found[f"{name}, bytes, {kept:.0%}"] = {"target": spec, "rule": "bytes", "kept": kept}
    return found


def run(lab: Lab, setup: CoverageSetup, cell: Cell) -> Result:
    """Counts of all pairs, or the scores of one pair with some of its anchors."""
    if cell.get("kind") == "counts":
        return _counts(lab, setup)
    plugin, target = lab.plugin("zsre", lab.settings()), lab.target(cell["target"])
    sides = Side.of_plugin(plugin), Side.of_model(target)
    shared = pair_anchors(plugin.tokenizer, target.tokenizer)
    if cell["rule"] == "paper":
        shared = anchors(plugin.tokenizer.vocabulary, target.tokenizer.vocabulary, rule="paper")
    if cell["kept"] < 1:
        shared = _thinned(shared, cell["kept"], plugin.tokenizer.end_id, setup.seed)
    rule = lab.rule("relative", gate="both")
    transfer, health = build_transfer(*sides, rule, shared=shared, allow_lossy=True)
    assert health is not None
    ensemble = lab.ensemble(plugin, [cell["target"]], fusion=rule, transfers=[transfer])
    found = lab.evaluate(ensemble, lab.records("zsre"))
    return {
        "anchors": len(shared),
        "coverage": health[1].coverage,
        **{metric: found["scores"][0]["after"][metric] for metric in METRICS},
    }


def _thinned(shared: Anchors, kept: float, end_id: int, seed: int) -> Anchors:
    """A seeded choice of the anchors; the end token stays: without it no answer could stop."""
    chosen = np.random.default_rng(seed).random(len(shared)) < kept
    chosen |= shared.ids_a == end_id
    return Anchors(shared.ids_a[chosen], shared.ids_b[chosen])


def _counts(lab: Lab, setup: CoverageSetup) -> Result:
    folder = lab.data / setup.tokenizers
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set `tokenizers` in the configuration")
    known = {
        path.name: load_tokenizer(path).vocabulary
        for path in sorted(folder.iterdir())
        if (path / "tokenizer.json").is_file()
    }
    for spec in (setup.plugin, *setup.targets):
        known[short(spec)] = load_tokenizer(spec).vocabulary
    return {
        "pairs": [
            [one, other, *(len(anchors(known[one], known[other], rule=rule)) for rule in RULES)]
            for one, other in itertools.combinations(known, 2)
        ]
    }


def page(setup: CoverageSetup, results: Mapping[str, Result]) -> Page:
    """Counts, scores, and the curve of scores over anchors."""
    rows = [
        [*name.split(", ")[:2], r["anchors"], r["coverage"], *(r[m] for m in METRICS)]
        for name, r in results.items()
        if name != "counts"
    ]
    told, order = [], []
    for spec in setup.targets:
        name = short(spec)
        curve = [
            (kept, results[key]["coverage"], results[key]["rel"])
            for kept in setup.kept
            if (key := f"{name}, bytes, {kept:.0%}") in results
        ]
        if curve:
            told.append(
                f"{name}, share of anchors kept, coverage of the text, Rel: "
                + "; ".join(f"{kept:.0%}, {covers:.2f}, {rel:.2f}" for kept, covers, rel in curve)
                + "."
            )
            order += [more > fewer for (*_, more), (*_, fewer) in itertools.pairwise(curve)]
        if (both := results.get(f"{name}, paper")) and curve:
            told.append(
                f"The `paper` rule's {both['anchors']:,} anchors give Rel {both['rel']:.3f}."
            )

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for spec, metric in itertools.product(setup.targets, ("rel", "gen")):
            name = short(spec)
            points = [
                (results[key]["anchors"], results[key][metric])
                for kept in setup.kept
                if (key := f"{name}, bytes, {kept:.0%}") in results
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=f"{name}, {metric}")
        axes.set(xscale="log", xlabel="anchors", ylim=(0, 1.02))
        if axes.lines:  # a smoke run keeps one target and no curve
            axes.legend()

    counts = results.get("counts", {}).get("pairs", [])
    return Page(
        " ".join(told),
        judged(
            "fewer anchors give a lower score",
            all(order) if order else None,
            f"Rel falls in {sum(order)} of {len(order)} steps that leave anchors out",
        ),
        [
            Table("Anchors by pair", ("one", "other", *RULES), counts),
            Table(
                "Scores of `relative` (gate `both`, lookup)",
                ("target", "rule", "anchors", "coverage of text", "Rel", "Gen", "Loc", "Avg"),
                rows,
            ),
        ],
        [Figure("coverage", "Scores by the number of anchors kept.", draw)],
    )


EXPERIMENT = Experiment(
    title="Anchors and coverage",
    expected=(
        "The paper counts 31,999 anchors for TinyLlama and Llama-2 and 17,830 for TinyLlama and "
        "GPT-J, and scores .97 and .87 with them: fewer anchors, a lower score. Dropping anchors "
        "at random should cost little while most words of the answers are still covered."
    ),
    setup=CoverageSetup,
    cells=cells,
    run=run,
    page=page,
)
