"""`onceedit plan`: memory, compute and speed of a model pair, without weights or hardware."""

from typing import Annotated

from tyro.conf import arg

from onceedit_jax.planning.options import PlanOptions


def plan(options: Annotated[PlanOptions, arg(name="")]) -> None:
    """Estimate memory, compute and speed for a model pair without its weights or hardware."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.planning.pair import plan_pair
    from onceedit_jax.planning.report import summary, table

    pair = plan_pair(options)
    for part in (table(pair), *summary(pair)):
        out.print(part)
