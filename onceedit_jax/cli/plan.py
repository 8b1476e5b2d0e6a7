"""`onceedit plan`: memory, compute and speed of a model pair, without weights or hardware."""

from typing import Annotated

from tyro.conf import arg

from onceedit_jax.planning.options import PlanOptions


def plan(options: Annotated[PlanOptions, arg(name="")]) -> None:
    """Estimate memory, compute and speed for a model pair without its weights or hardware."""
    from rich.table import Table

    from onceedit_jax.cli.console import out
    from onceedit_jax.planning.report import plan_pair, table_rows, verdict

    pair = plan_pair(options)
    table = Table("on each device; a step is of all", *pair.models)
    for label, texts in table_rows(pair):
        table.add_row(label, *texts)
    out.print(table)
    for text in verdict(pair):
        out.print(text)
