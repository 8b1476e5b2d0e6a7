"""`onceedit check`: how an edited plug-in holds, on questions about its own edits."""

from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from onceedit_jax.cli.rules import RuleOptions, fusion_arguments
from onceedit_jax.evaluation.options import CheckOptions

if TYPE_CHECKING:
    from rich.table import Table

    from onceedit_jax.evaluation.check import Checked
    from onceedit_jax.evaluation.check_from_files import CheckReport

INTRUSION = ": intrusion"


def check(options: Annotated[CheckOptions, arg(name="")], rule: RuleOptions) -> None:
    """Ask questions about the edits: in other forms, and about what must stay as it was."""
    from onceedit_jax.cli.console import note, out
    from onceedit_jax.cli.progress import check_progress
    from onceedit_jax.evaluation.check_from_files import check_from_files

    fusion = fusion_arguments(rule, options.edited, verify=options.verify)
    note(f"loading {options.edited} and {', '.join(options.target)}")
    with check_progress() as (on_block, on_questions):
        report = check_from_files(
            options,
            on_block=on_block,
            **fusion,
            on_questions=on_questions,
        )
    print_check(report, show=options.show)
    if options.json:
        out.print(f"written: {options.json}")


def print_check(report: "CheckReport", *, show: int) -> None:
    """Print a table for each target, and the first of its wrong answers.

    Args:
      report: the check.
      show: how many wrong answers of each target are printed.
    """
    from onceedit_jax.cli.console import out

    for target in report.targets:
        out.print(shares_table(target))
        wrong = report.wrong(target)
        if shown := min(show, len(wrong)):
            out.print(f"{target.target}: {shown} of {len(wrong)} wrong answers")
            out.print(_wrong_table(report, target, shown))
        else:
            out.print(f"{target.target}: {len(wrong)} wrong answers")


def shares_table(target: "Checked") -> "Table":
    """A terminal table of one target: a row for each column of the check."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption_justify="left")
    table.add_column(target.target)
    for header in ("right", "95% interval", "edits", "questions"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, column in target.columns.items():
        table.add_row(
            Text(name),
            f"{column.value:.2f}",
            f"{column.low:.2f} to {column.high:.2f}",
            str(column.facts),
            str(column.probes),
        )
    if any(name.endswith(INTRUSION) for name in target.columns):
        table.caption = "intrusion: share that said the new fact where something else was asked"
    return table


def _wrong_table(report: "CheckReport", target: "Checked", count: int) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from onceedit_jax.evaluation.check_from_files import expected

    headers = ("column", "question", "before", "after", "expected", "alpha", "edit")
    table = Table(*headers, show_lines=True)
    for probe, row in report.wrong(target)[:count]:
        wanted = "as before" if probe.expects == "unchanged" else expected(probe, row["before"])
        edit = "-" if row["edit"] < 0 else str(report.numbers[row["edit"]])
        answers = (row[when] or "(nothing)" for when in ("before", "after"))
        texts = (probe.column, probe.prompt, *answers, wanted, f"{row['alpha']:.2f}", edit)
        table.add_row(*map(Text, texts))
    return table
