"""All results in one HTML file that needs no network, and the README's table out of them."""

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

from experiments.framework.definition import Table
from experiments.framework.page import PAGE, markdown_table
from experiments.framework.runner import RESULTS, records_file
from experiments.framework.workspace import DATASETS, load_edits
from onceedit_jax.data.records import EditRecord
from onceedit_jax.errors import InputError
from onceedit_jax.storage.files import write_whole

COLUMNS = (
    "experiment", "cell", "rule", "target", "mode", "metric", "record", "prompt", "alpha",
    "before", "after",
)  # fmt: skip
_IMAGE = re.compile(r'<img src="([^":/]+\.svg)"')
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(\n<!-- end of results -->)", re.DOTALL)


def write_report(results: Path, out: Path, *, data: Path | None = None) -> int:
    """One page of all experiments, with a browser of every record that was scored.

    Args:
      results: folder of the experiments' results.
      out: HTML file.
      data: folder of the data sets, to show what was asked; without it records have numbers only.

    Returns:
      How many records the page holds.

    Raises:
      InputError: there are no results in the folder.
    """
    places = sorted(place.parent for place in results.glob(f"*/{RESULTS}"))
    if not places:
        raise InputError(f"{results}: no results here; run `onceedit experiment NAME` first")
    rows = [row for place in places for row in _records(place, data)]
    page = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        links=" ".join(f'<a href="#{p.name}">{html.escape(p.name)}</a>' for p in places),
        sections="\n".join(_section(place) for place in places),
        # "</script>" in a prompt would end the element that holds the data.
        data=json.dumps({"columns": COLUMNS, "rows": rows}).replace("<", "\\u003c"),
    )
    write_whole(out, text)
    return len(rows)


def fill_readme(readme: Path, results: Path) -> None:
    """Replace what stands between `<!-- results: NAME -->` and its end by NAME's first table.

    Raises:
      InputError: the file marks no place for results, or the experiment named has none.
    """
    text = readme.read_text(encoding="utf-8")
    if not _BLOCK.search(text):
        raise InputError(f"{readme}: no <!-- results: NAME --> ... <!-- end of results --> in it")
    write_whole(readme, _BLOCK.sub(lambda m: m[1] + headline(results / m[2]) + m[3], text))


def headline(place: Path) -> str:
    """An experiment's first table as Markdown.

    Raises:
      InputError: it has no results.
    """
    path = place / RESULTS
    first = json.loads(path.read_text(encoding="utf-8"))["headline"] if path.is_file() else None
    if first is None:
        raise InputError(f"{path}: no table there; run `onceedit experiment {place.name}` first")
    return markdown_table(Table(**first))


def _section(place: Path) -> str:
    """An experiment's page with its pictures inside."""

    def inside(match: re.Match[str]) -> str:
        picture = base64.b64encode((place / match[1]).read_bytes()).decode()
        return f'<img src="data:image/svg+xml;base64,{picture}"'

    source = (place / PAGE).read_text(encoding="utf-8") if (place / PAGE).is_file() else ""
    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render(source)
    return f'<section id="{place.name}">{_IMAGE.sub(inside, rendered)}</section>'


def _records(place: Path, data: Path | None) -> Iterator[list[Any]]:
    """Rows of the browser, in the order of `COLUMNS`."""
    kept = json.loads((place / RESULTS).read_text(encoding="utf-8"))
    for cell, entry in kept["cells"].items():
        path = records_file(place, cell)
        if not path.is_file():
            continue
        told = {**kept["setup"], **entry["cell"]}
        asked = _questions(data, str(told.get("dataset", ""))) if data else {}
        rule = {s["target"]: s["fusion"] for s in entry["result"].get("scores", ())}
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            prompt = asked.get((row["record"], row["metric"]), "")
            yield [
                place.name, cell, rule.get(row["target"], ""), row["target"], row["mode"],
                row["metric"], row["record"], prompt, row["alpha"], row["before"], row["after"],
            ]  # fmt: skip


def _questions(data: Path, dataset: str) -> Mapping[tuple[int, str], str]:
    """Record and metric to what was asked; several questions of one metric stand together."""
    if dataset not in DATASETS:
        return {}
    found: dict[tuple[int, str], str] = {}

    def add(record: EditRecord, metric: str, texts: list[str]) -> None:
        found[record.index, metric] = " | ".join(texts)

    for record in load_edits(data, dataset):
        add(record, "rel", [f"{record.prompt} -> {record.target}"])
        add(record, "gen", [record.rephrase or ""])
        add(record, "loc", [pair.prompt for pair in record.locality])
        add(record, "portability", [pair.prompt for pair in record.portability])
    return found
