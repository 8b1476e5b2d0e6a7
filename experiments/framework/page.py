"""An experiment's page: prose that a person writes, around marked places that are filled here.

A marked place is `<!-- table: NAME -->`, `<!-- figure: NAME -->` or `<!-- measured -->`, up to the
next `<!-- end -->`. What stands between is replaced; everything else is left as it is.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.framework.definition import (
    Experiment,
    Figure,
    Table,
    load_experiment,
    setup_from,
)
from experiments.framework.results import RESULTS, Entry, read_results
from onceedit_jax.errors import InputError
from onceedit_jax.storage.text_files import write_whole

PAGE = "README.md"
MEASURED = "measured"
_OPENING = re.compile(r"<!-- ((?:table|figure): [\w/-]+|measured) -->")
_PLACE = re.compile(_OPENING.pattern + r"\n(.*?)\n?<!-- end -->", re.DOTALL)
_NOT_RECORDED = "not recorded"


def fill_page(place: Path) -> None:
    """Fill the page of a folder of results, and draw its figures; without a page, begin one.

    Raises:
      InputError: the results cannot be read, or the page marks a place that does not exist.
    """
    experiment, figures, blocks = page_blocks(place)
    page = place / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else skeleton(experiment, blocks)
    filled = fill_marks(text, blocks, page)
    for figure in figures:
        save_figure(figure.draw, place / f"{figure.name}.svg")
    write_whole(page, filled)


def page_blocks(place: Path) -> tuple[Experiment, Sequence[Figure], dict[str, str]]:
    """The experiment of a folder of results, its figures, and what each mark stands for.

    Raises:
      InputError: the results cannot be read.
    """
    values = read_results(place)
    experiment = load_experiment(values["experiment"])
    setup = setup_from(values["setup"], experiment.setup, place / RESULTS)
    entries: Mapping[str, Entry] = values["cells"]
    results = {name: entry["result"] for name, entry in entries.items()}
    missing = [name for name in experiment.cells(setup) if name not in entries]
    tables = experiment.tables(setup, results)
    figures = experiment.figures(setup, results)
    blocks = {f"table: {table.name}": markdown_table(table) for table in tables}
    blocks |= {f"figure: {figure.name}": markdown_figure(figure) for figure in figures}
    blocks[MEASURED] = measured_with(list(entries.values()), values["setup"], missing)
    return experiment, figures, blocks


def skeleton(experiment: Experiment, marks: Mapping[str, str]) -> str:
    """A page to be written: title, question, headings, and every marked place."""
    places = {mark: f"<!-- {mark} -->\n<!-- end -->" for mark in marks}
    parts = [
        f"# {experiment.title}",
        f"**Question.** {experiment.question}",
        "**What the paper says.** To be written.",
        "**Result.** To be written.",
        "**Keep in mind.** To be written.",
        *(block for mark, block in places.items() if mark != MEASURED),
        "## How it was measured",
        places[MEASURED],
    ]
    return "\n\n".join(parts) + "\n"


def fill_marks(text: str, blocks: Mapping[str, str], where: Path) -> str:
    """Replace the content of every marked place.

    Args:
      text: Markdown with marks.
      blocks: the new content by mark, as in `table: scores`.
      where: the file, for messages.

    Raises:
      InputError: a mark has no content, or no end.
    """
    for mark in marked_blocks(text, where):
        if mark not in blocks:
            raise InputError(
                f"{where}: nothing to put at <!-- {mark} -->; there are {', '.join(blocks)}"
            )
    return _PLACE.sub(lambda found: f"<!-- {found[1]} -->\n{blocks[found[1]]}\n<!-- end -->", text)


def marked_blocks(text: str, where: Path) -> dict[str, str]:
    """The content of every marked place of a text, by its mark.

    Raises:
      InputError: a mark has no end.
    """
    blocks = {found[1]: found[2] for found in _PLACE.finditer(text)}
    open_marks = set(_OPENING.findall(text)) - blocks.keys()
    open_marks |= {mark for block in blocks.values() for mark in _OPENING.findall(block)}
    if open_marks:
        raise InputError(f"{where}: no <!-- end --> after <!-- {min(open_marks)} -->")
    return blocks


def without_marks(text: str) -> str:
    """The page as a reader sees it."""
    return re.sub(_OPENING.pattern + "|<!-- end -->", "", text)


def markdown_table(table: Table) -> str:
    """A table under its title."""
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(_text(value) for value in row) + " |" for row in table.rows),
    ]
    return f"{table.title}\n\n" + "\n".join(lines)


def markdown_figure(figure: Figure) -> str:
    """A picture above its caption."""
    return f"![{figure.caption}]({figure.name}.svg)\n\n*{figure.caption}*"


def measured_with(
    entries: Sequence[Entry], setup: Mapping[str, Any], missing: Sequence[str] = ()
) -> str:
    """How the cells were measured: time, versions, machine, commit, configuration.

    Args:
      entries: the measured cells.
      setup: the configuration.
      missing: names of the cells that are not measured.
    """
    seconds = sum(entry["seconds"] for entry in entries)
    time = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    versions = [entry["versions"] for entry in entries]
    lines = [
        f"- Time: {time}. A cell that reuses an edited plug-in does not count its editing.",
        f"- Versions: jax {_each(v['jax'] for v in versions)}, "
        f"Python {_each(v['python'] for v in versions)}.",
        f"- Machine: {_each(v['machine'] for v in versions)}; "
        f"{_each(_machine(entry.get('machine')) for entry in entries)}.",
        f"- Commit: {_each(_commit(entry.get('commit')) for entry in entries)}.",
        *([f"- Not measured yet: {'; '.join(missing)}."] if missing else []),
        "- Configuration:",
    ]
    configuration = yaml.safe_dump(
        dict(setup), default_flow_style=None, sort_keys=False, width=100, allow_unicode=True
    )
    return "\n".join(lines) + f"\n\n```yaml\n{configuration}```"


def _machine(machine: Mapping[str, Any] | None) -> str:
    if machine is None:
        return f"processor {_NOT_RECORDED}"
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    return f"{machine['processor']}, {cores}, {', '.join(sorted(set(machine['devices'])))}"


def _commit(commit: Mapping[str, Any] | None) -> str:
    if commit is None:
        return _NOT_RECORDED
    changes = " with uncommitted changes" if commit["dirty"] else ""
    return f"{commit['hash'][:12]}{changes}"


def _each(values: Any) -> str:
    """Values that cells were measured with, each once."""
    return "; ".join(sorted(set(values)))


def save_figure(draw: Callable[[Any], None], path: Path) -> None:
    """Draw on a new matplotlib figure and save it; the same picture gives the same file.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "experiments draw with matplotlib; pip install 'onceedit-jax[experiments]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context({"svg.hashsalt": "onceedit", "font.size": 9}):
        figure = Canvas(figsize=(7, 3.6), layout="constrained")
        draw(figure)
        figure.savefig(path, metadata={"Date": None})


def _text(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
    return str(value)
