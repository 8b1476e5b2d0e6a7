"""How many unrelated rows does the gate need?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.framework.definition import Cell, Experiment, Page, Result, judged
from experiments.framework.sweep import Lowest, SweepSetup, measure, sweep_cells, sweep_page

CLOSED = 0.9


@dataclass(frozen=True)
class RatioSetup(SweepSetup):
    """`ratios`: unrelated rows an edit; of swapped prompts there are twice as many."""

    ratios: Sequence[float] = (0.0, 0.5, 1.0, 2.0)


def cells(setup: RatioSetup) -> Mapping[str, Cell]:
    """One a ratio."""
    changes = {
        f"{ratio:.0%}": {"editing": {"unrelated_ratio": ratio, "swapped_ratio": 2 * ratio}}
        for ratio in setup.ratios
    }
    return sweep_cells(setup, changes)


def page(setup: RatioSetup, results: Mapping[str, Result]) -> Page:
    """Scores by the number of unrelated rows."""
    names = list(results)

    def verdict(lowest: Lowest) -> str:
        told = []
        for gate in setup.gates:
            scores = "; ".join(
                f"at {name} "
                + ", ".join(f"{metric} {value:.2f}" for metric, value in lowest(name, gate).items())
                for name in names
            )
            told.append(f"`{gate}`, the worse target: {scores}.")
        return " ".join(told)

    def claim(lowest: Lowest) -> str:
        claim = (
            f"unrelated inputs teach [WEIGHT] to stay closed on others (Loc of {CLOSED} or more)"
        )
        if "token" not in setup.gates or len(names) == 1:
            return judged(claim, None, "two ratios with gate `token` are not measured")
        token = [lowest(name, "token") for name in names]
        locality = ", ".join(
            f"{scores['loc']:.2f} at {n}" for n, scores in zip(names, token, strict=True)
        )
        stricter = ""
        if all("same form" in scores for scores in token):
            stricter = (
                "; on unedited questions in the edits' form, which the paper does not test, "
                + ", ".join(f"{scores['same form']:.2f}" for scores in token)
            )
        return judged(
            claim,
            token[-1]["loc"] >= CLOSED,
            f"by the learnt token alone Loc is {locality}{stricter}",
        )

    return sweep_page("unrelated rows an edit", results, verdict, claim)


EXPERIMENT = Experiment(
    title="Unrelated rows",
    expected=(
        "The paper trains [WEIGHT] against unrelated inputs and does not say how many. Without any "
        "the gate has nothing to close on: Loc should fall to what the target's own words leave, "
        "and rise with their number, at no cost for Rel."
    ),
    setup=RatioSetup,
    cells=cells,
    run=measure,
    page=page,
)
