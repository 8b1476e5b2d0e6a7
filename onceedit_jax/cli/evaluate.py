"""`onceedit evaluate`: reliability, generality, locality and portability of each target."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from onceedit_jax.cli.rules import RuleOptions, fusion_arguments
from onceedit_jax.evaluation.options import EvaluationOptions

if TYPE_CHECKING:
    from rich.table import Table

    from onceedit_jax.evaluation.from_files import EvaluationReport

SHOWN = ("rel", "gen", "loc", "avg")


def evaluate(options: Annotated[EvaluationOptions, arg(name="")], rule: RuleOptions) -> None:
    """Measure reliability, generality, locality and portability of each target."""
    from onceedit_jax.cli.console import note, warn
    from onceedit_jax.cli.progress import evaluation_progress
    from onceedit_jax.evaluation.from_files import evaluate_from_files

    fusion = fusion_arguments(rule, options.edited, verify=options.verify)
    note(f"loading {options.edited} and {', '.join(options.target)}")
    with evaluation_progress() as (on_block, on_records):
        report = evaluate_from_files(
            options,
            on_block=on_block,
            **fusion,
            on_records=on_records,
            on_warning=warn,
        )
    if report is None:
        note(f"this host's parts are done; the first host writes {options.out}")
    else:
        print_report(report)


def print_report(report: "EvaluationReport") -> None:
    """Print an evaluation's table, its warnings and where it was written."""
    from onceedit_jax.cli.console import out

    out.print(scores_table(report.evaluation.results, plugin=report.summary["plugin"]))
    if table := kinds_table(report.evaluation.results):
        out.print(table)
    for text in report.warnings:
        out.print(f"warning: {text}")
    out.print(f"written: {report.out}")


def scores_table(
    results: Sequence[Mapping[str, Any]], plugin: Mapping[str, Any] | None = None
) -> "Table":
    """A terminal table, at most 100 columns wide: one row a target and mode, before and after.

    Args:
      results: one entry per target and mode, as `Evaluation.results` has them.
      plugin: scores of the plug-in alone (`rel`, `gen`), printed under the table.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from onceedit_jax.evaluation.summaries import rule_label

    table = Table(box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
    for header, width in (("target", 16), ("mode", 14), ("rule", 17)):
        table.add_column(f"\n{header}", overflow="fold", max_width=width)
    for when in ("before", "after"):
        for number, metric in enumerate(SHOWN):
            over = when if number == 0 else ""
            table.add_column(
                f"{over}\n{metric.capitalize()}", justify="right", no_wrap=True, min_width=5
            )
    for result in results:
        scores = [
            _score(result[when].get(metric)) for when in ("before", "after") for metric in SHOWN
        ]
        names = (result["target"], result["mode"], rule_label(result))
        table.add_row(*map(Text, names), *scores)
    notes = []
    if plugin is not None and (plugin.get("rel") is not None or plugin.get("gen") is not None):
        notes.append(
            f"plug-in alone: Rel {_score(plugin.get('rel'))}, Gen {_score(plugin.get('gen'))}"
        )
    for result in results:
        if consistent := result.get("consistent"):
            after = consistent["after"]
            texts = (f"{metric.capitalize()} {_score(after.get(metric))}" for metric in SHOWN)
            notes.append(
                f"{result['target']} ({result['mode']}) without its {result['contradicting']} "
                f"contradicting edits: {', '.join(texts)}"
            )
    table.caption = "\n".join(notes) or None
    return table


def kinds_table(results: Sequence[Mapping[str, Any]]) -> "Table | None":
    """A terminal table of the kinds of locality and portability; None where there are none.

    Args:
      results: one entry per target and mode, as `Evaluation.results` has them.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for header, width in (("target", 16), ("mode", 14), ("kind", 34)):
        table.add_column(header, overflow="fold", max_width=width)
    for header in ("before", "after", "records"):
        table.add_column(header, justify="right", no_wrap=True, min_width=7)
    for result in results:
        for metric, after in result["after"].get("kinds", {}).items():
            before = result["before"]["kinds"][metric]
            names = (result["target"], result["mode"])
            for kind, found in after["by_kind"].items():
                old = before["by_kind"][kind]["value"]
                scores = (_score(old), _score(found["value"]), str(found["records"]))
                table.add_row(*map(Text, (*names, f"{metric}: {kind}")), *scores)
            means = (_score(before["mean"]), _score(after["mean"]), "")
            table.add_row(*map(Text, (*names, f"{metric}: mean of the kinds")), *means)
    return table if table.row_count else None


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
