"""All results in one HTML file that needs no network, and tables of other Markdown files."""

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt

from experiments.framework.datasets import DATASETS, load_edits
from experiments.framework.page import PAGE, fill_marks, marked_blocks, without_marks
from experiments.framework.results import (
    read_records,
    read_results,
    records_file,
    result_folders,
)
from onceedit_jax.data.records import EditRecord
from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import read_text
from onceedit_jax.storage.text_files import write_whole

COLUMNS = (
    "experiment", "cell", "rule", "target", "mode", "metric", "kind", "record", "prompt", "alpha",
    "before", "after",
)  # fmt: skip
_IMAGE = re.compile(r'<img src="([^":/]+\.svg)"')


def write_report(results: Path, out: Path, *, data: Path | None = None) -> int:
    """One page of all experiments, with a browser of every record that was scored.

    Args:
      results: folder of the experiments' results.
      out: the HTML file.
      data: folder of the data sets, to show the prompts; without it records have numbers only.

    Returns:
      How many records the page holds.

    Raises:
      InputError: there are no results in the folder.
    """
    places = result_folders(results)
    rows = [row for place in places for row in _records(place, data)]
    page = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        links=" ".join(f'<a href="#{escaped}">{escaped}</a>' for escaped in map(_escaped, places)),
        sections="\n".join(_section(place) for place in places),
        # "</script>" in a prompt would end the element that holds the data.
        data=json.dumps({"columns": COLUMNS, "rows": rows}).replace("<", "\\u003c"),
    )
    write_whole(out, text)
    return len(rows)


def fill_readme(readme: Path, results: Path) -> None:
    """Fill a file's marks `<!-- table: EXPERIMENT/NAME -->` with tables of the experiments' pages.

    Raises:
      InputError: the file has no such mark, or one that names no table.
    """
    text = read_text(readme)
    if not marked_blocks(text, readme):
        raise InputError(f"{readme}: no <!-- table: EXPERIMENT/NAME --> ... <!-- end --> in it")
    write_whole(readme, fill_marks(text, tables_of_pages(results), readme))


def tables_of_pages(results: Path) -> dict[str, str]:
    """The tables of all pages, by the mark `table: EXPERIMENT/NAME`."""
    return {
        f"table: {place.name}/{mark.removeprefix('table: ')}": block
        for place in result_folders(results)
        if (page := place / PAGE).is_file()
        for mark, block in marked_blocks(read_text(page), page).items()
        if mark.startswith("table: ")
    }


def _section(place: Path) -> str:
    """An experiment's page with its pictures inside."""

    def inside(match: re.Match[str]) -> str:
        picture = base64.b64encode((place / match[1]).read_bytes()).decode()
        return f'<img src="data:image/svg+xml;base64,{picture}"'

    source = read_text(place / PAGE) if (place / PAGE).is_file() else ""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    rendered = markdown.render(without_marks(source))
    return f'<section id="{_escaped(place)}">{_IMAGE.sub(inside, rendered)}</section>'


def _escaped(place: Path) -> str:
    """The name of an experiment's folder, for text and attributes of HTML."""
    return html.escape(place.name)


def _records(place: Path, data: Path | None) -> Iterator[list[Any]]:
    """Rows of the browser, in the order of `COLUMNS`."""
    values = read_results(place)
    for cell, entry in values["cells"].items():
        path = records_file(place, cell)
        if not path.is_file():
            continue
        dataset = str({**values["setup"], **entry["cell"]}.get("dataset", ""))
        prompts = _prompts(data, dataset) if data else {}
        scores = entry["result"].get("scores", ())
        rule = {s.get("target"): s.get("fusion", "") for s in scores if isinstance(s, dict)}
        for row in read_records(path):
            prompt = prompts.get((row["record"], row["metric"]), "")
            # Where a gate alone is measured no target has answered.
            answered = (row.get(key) for key in ("before", "after"))
            target, mode = (row.get(key, "") for key in ("target", "mode"))
            yield [
                place.name, cell, rule.get(target, ""), target, mode, row["metric"],
                row.get("kind", ""), row["record"], prompt, row["alpha"], *answered,
            ]  # fmt: skip


def _prompts(data: Path, dataset: str) -> Mapping[tuple[int, str], str]:
    """The prompt by record and metric; several prompts of one metric stand together."""
    if dataset not in DATASETS:
        return {}
    prompts: dict[tuple[int, str], str] = {}

    def add(record: EditRecord, metric: str, texts: list[str]) -> None:
        prompts[record.index, metric] = " | ".join(texts)

    for record in load_edits(data, dataset):
        add(record, "rel", [f"{record.prompt} -> {record.target}"])
        add(record, "gen", [*record.rephrases])
        add(record, "loc", [pair.prompt for pair in record.locality])
        add(record, "portability", [pair.prompt for pair in record.portability])
    return prompts
