"""The plug-in and one LLM: does a target by itself score as it does among others?"""

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.framework.definition import (
    Cell,
    Experiment,
    Page,
    Result,
    Setup,
    Table,
    judged,
    short,
)
from experiments.framework.workspace import Lab

METRICS = ("rel", "gen", "loc", "avg", "portability")
NEARLY = 0.95


@dataclass(frozen=True)
class SingleSetup(Setup):
    """`dataset`: whose edits."""

    dataset: str = "zsre"


def cells(setup: SingleSetup) -> Mapping[str, Cell]:
    """One a target."""
    return {short(spec): {"dataset": setup.dataset, "target": spec} for spec in setup.targets}


def run(lab: Lab, setup: SingleSetup, cell: Cell) -> Result:
    """Both modes of scoring."""
    plugin = lab.plugin(setup.dataset, lab.settings())
    ensemble = lab.ensemble(plugin, [cell["target"]])
    return lab.evaluate(ensemble, lab.records(setup.dataset), "both")


def page(setup: SingleSetup, results: Mapping[str, Result]) -> Page:
    """Scores before and after."""
    rows = [
        [name, score["mode"], when, *(score[when].get(m) for m in METRICS)]
        for name, result in results.items()
        for score in result["scores"]
        for when in ("before", "after")
    ]
    told, kept, local = [], [], []
    for name, result in results.items():
        score = next(s for s in result["scores"] if s["mode"] == "teacher-forced")
        forced, alone = score["after"], result["plugin"]
        told.append(
            f"{name} with the plug-in: Rel {forced['rel']:.3f}, Gen {forced['gen']:.3f}, Loc "
            f"{forced['loc']:.3f}, where the plug-in alone has Rel {alone['rel']:.3f} and Gen "
            f"{alone['gen']:.3f}: the pair keeps {forced['gen'] / max(alone['gen'], 1e-9):.0%} of "
            "its generality."
        )
        if forced["portability"] is not None:  # not every data set asks for it
            told.append(
                f"The target's portability goes from {score['before']['portability']:.3f} to "
                f"{forced['portability']:.3f}."
            )
        kept += [forced[m] / max(alone[m], 1e-9) for m in ("rel", "gen")]
        local.append(forced["loc"])
    return Page(
        " ".join(told),
        judged(
            "a target answers edits nearly as the plug-in does, and unrelated questions as before",
            min(kept) >= NEARLY and min(local) >= NEARLY,
            f"by the default rule {min(kept):.1%} of Rel and Gen are kept, Loc is "
            f"{min(local):.3f}, at the least",
        ),
        [
            Table(
                "Before and after the edit",
                ("target", "mode", "", "Rel", "Gen", "Loc", "Avg", "Portability"),
                rows,
            )
        ],
    )


EXPERIMENT = Experiment(
    title="One target",
    expected=(
        "The paper's ensemble carries the plug-in's answers to a target nearly whole: Rel and Gen "
        "close to the plug-in's own, Loc near 1, whichever the target."
    ),
    setup=SingleSetup,
    cells=cells,
    run=run,
    page=page,
)
