"""The framework of the experiments, on a study that is written here as a user writes one."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

import experiments
from experiments.__main__ import main
from experiments.framework.definition import load_experiment, load_setup, names
from experiments.framework.html_report import fill_readme, write_report
from experiments.framework.page import fill_marks, fill_page, marked_blocks
from experiments.framework.results import OUT_OF_DATE, RESULTS, commit
from experiments.framework.runner import run_experiment
from onceedit_jax.errors import InputError

SQUARES = '''
"""Squares of small numbers."""

from experiments.framework import Experiment, Figure, Setup, Table


def cells(setup):
    return {f"n {n}": {"n": n} for n in range(3)}


def run(workspace, setup, cell):
    fails = workspace.data / "fails"
    if fails.exists() and fails.read_text() == str(cell["n"]):
        raise RuntimeError("cut")
    with open(workspace.data / "log", "a") as log:
        log.write(str(cell["n"]))
    record = {"target": "</script>", "mode": "teacher-forced", "metric": "rel", "record": cell["n"],
              "alpha": 0.5, "before": 0.0, "after": 1.0}
    return {"square": cell["n"] ** 2 + setup.seed, "records": [record]}


def tables(setup, results):
    rows = [[name, result["square"]] for name, result in results.items()]
    return [Table("squares", "Squares.", ("cell", "square"), rows)]


def figures(setup, results):
    return [Figure("curve", "A line.", lambda figure: figure.subplots().plot([0, 1]))]


EXPERIMENT = Experiment("Squares </script>", "Do they grow?", Setup, cells, run, tables, figures)
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a study in the package's reach, and a function that runs it."""
    studies, configured = tmp_path / "studies", tmp_path / "squares.yaml"
    studies.mkdir()
    (studies / "squares.py").write_text(SQUARES)
    configured.write_text("seed: 0\n")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(studies)])
    importlib.invalidate_caches()

    def run(failing=None, setup_file=configured, **options):
        fails = tmp_path / "fails"
        fails.write_text(str(failing))
        out, work = tmp_path / "results", tmp_path / "work"
        return run_experiment(
            "squares", data=tmp_path, out=out, work=work, setup_file=setup_file, **options
        )

    yield tmp_path, run
    sys.modules.pop("experiments.squares", None)


def cells_of(place, key="cells"):
    return json.loads((place / RESULTS).read_text()).get(key, {})


def squares(place, key="cells"):
    return {name: entry["result"]["square"] for name, entry in cells_of(place, key).items()}


def test_a_study_of_ones_own_is_measured_and_has_a_page(project):
    _, run = project
    assert "squares" in names()
    place = run()
    assert squares(place) == {"n 0": 0, "n 1": 1, "n 2": 4}
    page = (place / "README.md").read_text()
    for part in (
        "# Squares", "**Question.** Do they grow?", "| n 2 | 4 |", "![A line.](curve.svg)",
        "- Commit: ", "seed: 0",
    ):  # fmt: skip
        assert part in page
    assert "<svg" in (place / "curve.svg").read_text()
    assert len(list((place / "records").iterdir())) == 3


def test_the_study_of_the_readme_is_one(project):
    folder, _ = project
    readme = (Path(experiments.__file__).parent / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    configuration = re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)[1]
    (folder / "studies" / "learning_rate.py").write_text(code)
    (folder / "learning-rate.yaml").write_text(configuration)
    study = load_experiment("learning-rate")
    setup = load_setup(folder / "learning-rate.yaml", study.setup)
    cells = study.cells(setup)
    assert list(cells) == ["1e-05", "0.0001", "0.001"]
    scores = [{"target": "a", "after": {"rel": 1.0, "gen": 0.5, "loc": 1.0, "avg": 0.8}}]
    (table,) = study.tables(setup, {name: {"scores": scores} for name in cells})
    assert table.rows[0] == ["1e-05", "a", 1.0, 0.5, 1.0, 0.8] and len(table.rows) == 3
    sys.modules.pop("experiments.learning_rate")


def test_a_run_that_was_cut_continues_with_the_cells_it_has_not_measured(project):
    folder, run = project
    with pytest.raises(RuntimeError, match="cut"):
        run(failing=2)
    assert (folder / "log").read_text() == "01"
    assert "Not measured yet: n 2." in (folder / "results/squares/README.md").read_text()
    place = run()
    assert (folder / "log").read_text() == "012"
    for entry in cells_of(place).values():
        assert entry["versions"]["jax"] and entry["machine"]["cores"] >= 1
        assert entry["commit"] == commit()
    before = (place / "README.md").read_bytes(), (place / "curve.svg").read_bytes()
    assert b"Not measured yet" not in before[0]
    run()
    assert (folder / "log").read_text() == "012"
    assert before == ((place / "README.md").read_bytes(), (place / "curve.svg").read_bytes())


def test_a_changed_configuration_measures_again(project):
    folder, run = project
    run()
    (folder / "squares.yaml").write_text("seed: 7\n")
    assert squares(run()) == {"n 0": 7, "n 1": 8, "n 2": 11}
    assert (folder / "log").read_text() == "012012"


def test_cells_that_are_out_of_date_stay_until_all_are_measured_again(project):
    folder, run = project
    file = run() / RESULTS
    # One of the cells has another name in the configuration that comes after.
    file.write_text(file.read_text().replace('"n 2": {', '"m 2": {'))
    (folder / "squares.yaml").write_text("seed: 7\n")
    with pytest.raises(RuntimeError, match="cut"):
        run(failing=1)
    assert squares(file.parent) == {"n 0": 7}
    assert squares(file.parent, OUT_OF_DATE) == {"n 1": 1, "m 2": 4}
    assert "Not measured yet: n 1; n 2." in (file.parent / "README.md").read_text()
    run()
    assert squares(file.parent) == {"n 0": 7, "n 1": 8, "n 2": 11}
    assert squares(file.parent, OUT_OF_DATE) == {}


def test_results_of_another_configuration_stand_beside_the_others(project):
    folder, run = project
    other = folder / "seven.yaml"
    other.write_text("seed: 7\n")
    run()
    run(setup_file=other)
    run(limit=2)
    places = {path.name for path in (folder / "results").glob("[!.]*")}
    assert places == {"squares", "squares-seven", "squares-limit2"}
    with pytest.raises(InputError, match=r"paper has several configurations, .*; choose one"):
        run_experiment("paper", data=folder, out=folder, work=folder)


def test_only_the_marked_places_of_a_page_change(project):
    _, run = project
    place = run()
    page = place / "README.md"
    prose = "# Mine\n\nI say so: {}.\n\n<!-- table: squares -->\n{}<!-- end -->\n\nThe end.\n"
    page.write_text(prose.format("they grow", "old\n"))
    fill_page(place)
    text = page.read_text()
    blocks = marked_blocks(text, page)
    assert "| n 2 | 4 |" in blocks["table: squares"] and "old" not in text
    assert text == prose.format("they grow", blocks["table: squares"] + "\n")
    page.write_text(prose.replace("squares", "circles").format("they grow", ""))
    with pytest.raises(InputError, match=r"nothing to put at <!-- table: circles -->; there are"):
        fill_page(place)


@pytest.mark.parametrize(
    "text",
    ["<!-- measured -->\nnever closed", "<!-- measured -->\n<!-- table: a -->\nx\n<!-- end -->"],
)
def test_a_mark_without_an_end_is_named(text, tmp_path):
    with pytest.raises(InputError, match="no <!-- end --> after <!-- "):
        fill_marks(text, {"measured": "", "table: a": ""}, tmp_path / "README.md")


def test_a_cell_without_a_commit_is_shown_as_not_recorded(project):
    place = project[1]()
    values = json.loads((place / RESULTS).read_text())
    for name, entry in values["cells"].items():
        entry["commit"] = {"hash": "a" * 40, "dirty": True} if name == "n 1" else None
    del values["cells"]["n 2"]["commit"]
    (place / RESULTS).write_text(json.dumps(values))
    fill_page(place)
    page = (place / "README.md").read_text()
    assert "- Commit: aaaaaaaaaaaa with uncommitted changes; not recorded." in page


def test_a_report_is_one_file_with_pictures_and_records_inside(project):
    folder, run = project
    run()
    assert write_report(folder / "results", folder / "report.html") == 3
    text = (folder / "report.html").read_text()
    assert "data:image/svg+xml;base64," in text and "&lt;!--" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("</script>") == 2  # those of the title and of the records are escaped


def test_names_of_folders_are_escaped_in_a_report(project):
    folder, run = project
    run()
    odd = folder / "results" / 'x" onmouseover="alert(7)" <b>'
    (folder / "results" / "squares").rename(odd)
    write_report(folder / "results", folder / "report.html")
    text = (folder / "report.html").read_text()
    assert 'onmouseover="' not in text and "<b>" not in text
    assert text.count("x&quot; onmouseover=&quot;alert(7)&quot; &lt;b&gt;") == 3


@pytest.mark.parametrize("line", ["{", "[1]", '{"record": 1}', "7"])
def test_a_line_that_is_no_record_is_named(project, line):
    folder, run = project
    run()
    (path,) = (folder / "results" / "squares" / "records").glob("n 1*")
    path.write_text(path.read_text() + line)
    with pytest.raises(InputError, match=r"n 1\.jsonl:2: "):
        write_report(folder / "results", folder / "report.html")


def test_a_readme_is_filled_with_tables_of_the_pages(project):
    folder, run = project
    run()
    readme = folder / "README.md"
    readme.write_text("a\n<!-- table: squares/squares -->\nold\n<!-- end -->\nb\n")
    fill_readme(readme, folder / "results")
    text = readme.read_text()
    assert "old" not in text and "| n 2 | 4 |" in text
    assert text.startswith("a\n") and text.endswith("<!-- end -->\nb\n")
    readme.write_text("nothing")
    with pytest.raises(InputError, match="table: EXPERIMENT/NAME"):
        fill_readme(readme, folder / "results")


def test_an_unknown_experiment_and_a_module_without_one_are_named(project):
    folder, _ = project
    (folder / "studies" / "empty.py").write_text("")
    with pytest.raises(InputError, match=r"'circles': expected one of .*squares"):
        load_experiment("circles")
    with pytest.raises(InputError, match="defines no EXPERIMENT"):
        load_experiment("empty")
    sys.modules.pop("experiments.empty")
    with pytest.raises(InputError, match="no results here"):
        write_report(folder / "nothing", folder / "x.html")


def test_a_configuration_with_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "quality.yaml"
    path.write_text("limits: 3\n")
    with pytest.raises(InputError, match=r"quality\.yaml: unknown key 'limits'; .*limit"):
        load_setup(path, load_experiment("quality").setup)


def test_the_command_measures_refills_and_reports(project, capsys):
    folder, _ = project
    results = str(folder / "results")
    setup = ["--setup", str(folder / "squares.yaml"), "--out", results]
    assert main(["squares", "--data", str(folder), *setup, "--work", str(folder / "work")]) == 0
    assert main(["pages", results]) == 0
    assert main(["report", results]) == 0
    assert "(3 records)" in capsys.readouterr().out
    assert (folder / "results" / "report.html").is_file()


@pytest.mark.parametrize(
    "arguments", [["circles", "--data", "."], ["report", "nowhere"], ["quality", "--data", "no"]]
)
def test_an_error_is_one_line(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.strip().splitlines()) == 1
