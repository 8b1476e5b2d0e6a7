"""The published results: measured as their configurations say, and shown as they are."""

import json

import pytest
from support import ROOT

from experiments.framework.definition import load_experiment, load_setup
from experiments.framework.html_report import tables_of_pages
from experiments.framework.page import PAGE, marked_blocks, page_blocks
from experiments.framework.results import OUT_OF_DATE, RESULTS, read_results, up_to_date
from onceedit_jax.evaluation.summaries import write_json

PUBLISHED = sorted(path.parent.name for path in (ROOT / "results").glob(f"*/{RESULTS}"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_results_are_up_to_date_with_their_configuration(name):
    """Every cell of the configuration is there, and no cell was measured by another one."""
    values = read_results(ROOT / "results" / name)
    assert values["experiment"] == name and OUT_OF_DATE not in values
    experiment = load_experiment(name)
    setup = load_setup(ROOT / "configs" / f"{name}.yaml", experiment.setup)
    cells = experiment.cells(setup)
    assert list(up_to_date(setup, cells, values["cells"])) == list(cells) == list(values["cells"])
    # JSON has lists where a configuration may have tuples.
    assert values["setup"] == json.loads(json.dumps(vars(setup)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_page_shows_what_its_results_give(name, tmp_path):
    place = ROOT / "results" / name
    _, figures, blocks = page_blocks(place)
    shown = marked_blocks((place / PAGE).read_text(), place / PAGE)
    assert shown == {mark: blocks[mark] for mark in shown}
    assert shown.keys() == blocks.keys(), "a table or a figure has no place on the page"
    assert all((place / f"{figure.name}.svg").is_file() for figure in figures)
    write_json(tmp_path / RESULTS, read_results(place))
    assert (tmp_path / RESULTS).read_text() == (place / RESULTS).read_text()


def test_the_readme_shows_a_table_of_the_pages():
    shown = marked_blocks((ROOT / "README.md").read_text(), ROOT / "README.md")
    tables = tables_of_pages(ROOT / "results")
    assert "table: quality/scores" in shown
    assert shown == {mark: tables[mark] for mark in shown}
