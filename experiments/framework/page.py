"""An experiment's page: Markdown with its tables, and its figures as SVG."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.framework.definition import Experiment, Page, Setup, Table
from onceedit_jax.storage.files import write_whole

PAGE = "README.md"


def write_page(
    place: Path,
    experiment: Experiment,
    setup: Setup,
    page: Page,
    *,
    seconds: float,
    versions: Sequence[Mapping[str, str]],
    missing: Sequence[str] = (),
) -> None:
    """Write `README.md` and the figures of an experiment into its folder.

    Args:
      place: the folder.
      experiment: whose page it is.
      setup: its configuration.
      page: what was found.
      seconds: that measuring took.
      versions: of what measured, one a cell.
      missing: cells that are not measured, which the page tells of.
    """
    for figure in page.figures:
        save_figure(figure.draw, place / f"{figure.name}.svg")
    told = (
        f"Measured in {_duration(seconds)} (an edit that was kept from before costs nothing), jax "
        f"{_each('jax', versions)}, Python {_each('python', versions)}, "
        f"{_each('machine', versions)}. Configuration: "
        + ", ".join(f"{key} {_text(value)}" for key, value in dataclasses.asdict(setup).items())
        + "."
    )
    parts = [
        f"# {experiment.title}",
        f"**Expected.** {experiment.expected}",
        f"**What came out.** {page.outcome}",
        f"**The paper.** {page.claim}",
        *([f"**Not measured yet**, and so not judged: {'; '.join(missing)}."] if missing else []),
        *(markdown_table(table) for table in page.tables),
        *(f"![{figure.caption}]({figure.name}.svg)\n\n{figure.caption}" for figure in page.figures),
        told,
    ]
    write_whole(place / PAGE, "\n\n".join(parts) + "\n")


def markdown_table(table: Table) -> str:
    """A table under its title."""
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(_text(value) for value in row) + " |" for row in table.rows),
    ]
    return f"{table.title}\n\n" + "\n".join(lines)


def save_figure(draw: Any, path: Path) -> None:
    """Draw on a new matplotlib figure and save it; the same picture gives the same file.

    Raises:
      InputError: matplotlib is not installed.
    """
    # Imported here: only experiments draw.
    from onceedit_jax.errors import InputError

    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "experiments draw with matplotlib; pip install 'onceedit-jax[experiments]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "onceedit", "font.size": 9}):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        draw(figure)
        figure.savefig(path, metadata={"Date": None})


def _each(name: str, versions: Sequence[Mapping[str, str]]) -> str:
    """A version, or all that the cells were measured with."""
    return " and ".join(sorted({told[name] for told in versions}))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        return f"{value:.3g}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)
