"""Experiments: cells resume, pages say what was measured, and every experiment runs."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support import ROOT

from experiments.framework.html_report import fill_readme, headline, write_report
from experiments.framework.runner import (
    OUT_OF_DATE,
    RESULTS,
    load_experiment,
    load_setup,
    publish,
    run_experiment,
    up_to_date,
)
from onceedit_jax.errors import InputError

PUBLISHED = sorted(  # those of a project's own configurations, as they are
    path.parent.name
    for path in (ROOT / "results").glob("*/" + RESULTS)
    if (ROOT / "configs" / f"{path.parent.name}.yaml").exists()
)
SMOKE = Path(__file__).parent / "smoke"
NAMES = sorted(path.stem for path in SMOKE.glob("*.yaml"))
ON_EIGHT_DEVICES = {"meshes"}  # no smoke run: test_meshes.py does as much on tiny models

COUNTING = """
from experiments.framework.definition import Experiment, Figure, Page, Setup, Table, judged

def run(lab, setup, cell):
    if cell.get("fails"):
        raise RuntimeError("cut")
    with open(lab.data / "log", "a") as log:
        log.write(str(cell["n"]))
    record = {"target": "</script>", "mode": "teacher-forced", "metric": "rel", "record": cell["n"],
              "alpha": 0.5, "before": 0.0, "after": 1.0}
    return {"square": cell["n"] ** 2 + setup.seed, "records": [record]}

EXPERIMENT = Experiment(
    "Squares </script>", "They grow.", Setup,
    lambda setup: {f"n {n}": {"n": n, "fails": n == FAILING} for n in range(3)},
    run,
    lambda setup, results: Page(
        f"{len(results)} squares.",
        judged("squares grow", True, "as squares do"),
        [Table("Squares", ("cell", "square"), [[k, r["square"]] for k, r in results.items()])],
        [Figure("curve", "A line.", lambda figure: figure.subplots().plot([0, 1]))],
    ),
)
"""


@pytest.fixture
def project(tmp_path):
    """A folder with an experiment that counts its cells, and how to run it."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "squares.yaml").write_text("seed: 0\n")

    def run(failing=None, **options):
        source = COUNTING.replace("FAILING", str(failing))
        (tmp_path / "experiments" / "squares.py").write_text(source)
        return run_experiment(
            "squares",
            data=tmp_path,
            out=tmp_path / "results",
            work=tmp_path / "work",
            folder=tmp_path / "experiments",
            **options,
        )

    return tmp_path, run


def test_a_run_that_was_cut_goes_on_with_the_cells_it_has_not_measured(project):
    folder, run = project
    with pytest.raises(RuntimeError, match="cut"):
        run(failing=2)
    assert (folder / "log").read_text() == "01"
    # The cell that failed is described otherwise than the one that replaces it.
    place = run()
    assert (folder / "log").read_text() == "012"
    cells = json.loads((place / RESULTS).read_text())["cells"]
    assert [entry["result"]["square"] for entry in cells.values()] == [0, 1, 4]
    assert all(entry["versions"]["jax"] for entry in cells.values())
    assert all(entry["machine"]["cores"] >= 1 for entry in cells.values())
    before = (place / "README.md").read_bytes(), (place / "curve.svg").read_bytes()
    run()
    assert (folder / "log").read_text() == "012"
    assert before == ((place / "README.md").read_bytes(), (place / "curve.svg").read_bytes())


def test_another_configuration_measures_anew(project):
    folder, run = project
    run()
    (folder / "configs" / "squares.yaml").write_text("seed: 7\n")
    place = run()
    assert (folder / "log").read_text() == "012012"
    cells = json.loads((place / RESULTS).read_text())["cells"]
    assert cells["n 2"]["result"]["square"] == 11


def test_what_is_out_of_date_is_kept_until_all_is_measured_anew(project):
    folder, run = project
    file = run() / RESULTS

    def squares(key="cells"):
        cells = json.loads(file.read_text()).get(key, {})
        return {name: entry["result"]["square"] for name, entry in cells.items()}

    # One of the cells has another name in the configuration that comes after.
    file.write_text(file.read_text().replace('"n 2": {', '"m 2": {'))
    (folder / "configs" / "squares.yaml").write_text("seed: 7\n")
    with pytest.raises(RuntimeError, match="cut"):
        run(failing=1)
    assert squares() == {"n 0": 7} and squares(OUT_OF_DATE) == {"n 1": 1, "m 2": 4}
    page = (file.parent / "README.md").read_text()
    assert "1 squares." in page and "not judged: n 1; n 2." in page
    run()
    assert squares() == {"n 0": 7, "n 1": 8, "n 2": 11} and squares(OUT_OF_DATE) == {}
    assert "not judged" not in (file.parent / "README.md").read_text()


def test_results_of_another_configuration_stand_beside_the_others(project):
    folder, run = project
    other = folder / "seven.yaml"
    other.write_text("seed: 7\n")
    assert run() != run(setup_file=other)
    assert {path.name for path in (folder / "results").iterdir()} == {"squares", "squares-seven"}
    (folder / "configs" / "squares").mkdir()
    other.rename(folder / "configs" / "squares" / "seven.yaml")
    with pytest.raises(InputError, match=r"several configurations, seven\.yaml"):
        run()


def test_a_page_says_what_was_expected_and_what_came_out(project):
    page = (project[1]() / "README.md").read_text()
    for part in ("# Squares", "**Expected.** They grow.", "3 squares.", "| n 2 | 4 |", "curve.svg"):
        assert part in page


def test_a_report_is_one_file_with_pictures_and_records_inside(project):
    folder, run = project
    run()
    assert write_report(folder / "results", folder / "report.html") == 3
    text = (folder / "report.html").read_text()
    assert "data:image/svg+xml;base64," in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("</script>") == 2  # those of the title and of the records are escaped


def test_a_readme_is_filled_with_the_first_table(project):
    folder, run = project
    place = run()
    readme = folder / "README.md"
    readme.write_text("a\n<!-- results: squares -->\nold\n<!-- end of results -->\nb\n")
    fill_readme(readme, folder / "results")
    text = readme.read_text()
    assert "old" not in text and headline(place) in text
    assert text.startswith("a\n") and text.endswith("<!-- end of results -->\nb\n")
    readme.write_text("nothing")
    with pytest.raises(InputError, match="results: NAME"):
        fill_readme(readme, folder / "results")


def test_what_is_not_there_is_named(project, tmp_path):
    folder, _ = project
    with pytest.raises(InputError, match="there are squares"):
        (folder / "experiments" / "squares.py").write_text("")
        load_experiment(folder / "experiments", "circles")
    with pytest.raises(InputError, match="no EXPERIMENT"):
        load_experiment(folder / "experiments", "squares")
    with pytest.raises(InputError, match="no results here"):
        write_report(tmp_path / "nothing", tmp_path / "x.html")


def test_a_configuration_with_an_unknown_key_is_refused(tmp_path):
    kind = load_experiment(ROOT / "experiments", "quality").setup
    path = tmp_path / "quality.yaml"
    path.write_text("limits: 3\n")
    with pytest.raises(InputError, match=r"quality\.yaml: key 'limits' is not known; .*limit"):
        load_setup(path, kind)


def test_every_experiment_has_a_configuration_and_a_smoke_run():
    files = {p.stem.replace("_", "-") for p in (ROOT / "experiments").glob("*.py")}
    assert files == {*NAMES, *ON_EIGHT_DEVICES}
    for name in files:
        experiment = load_experiment(ROOT / "experiments", name)
        configured = sorted((ROOT / "configs" / name).glob("*.yaml"))
        for path in (
            *(configured or [ROOT / "configs" / f"{name}.yaml"]),
            *SMOKE.glob(f"{name}.yaml"),
        ):
            setup = load_setup(path, experiment.setup)
            assert setup.limit == yaml.safe_load(path.read_text())["limit"]
            assert experiment.cells(setup)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_page_says_what_its_results_say(name, tmp_path):
    """Pages are made from results alone, and anew whenever what makes them changes."""
    experiment = load_experiment(ROOT / "experiments", name)
    setup = load_setup(ROOT / "configs" / f"{name}.yaml", experiment.setup)
    kept = json.loads((ROOT / "results" / name / RESULTS).read_text())
    found = up_to_date(setup, experiment.cells(setup), kept["cells"])
    assert found, f"no cell of {name} is up to date"
    publish(tmp_path, experiment, setup, found, kept.get(OUT_OF_DATE, {}))
    for file in ("README.md", RESULTS):
        published = (ROOT / "results" / name / file).read_text()
        assert published == (tmp_path / file).read_text(), f"{name}/{file} is of another state"


def test_a_mesh_whose_states_are_no_numbers_does_not_hold():
    experiment = load_experiment(ROOT / "experiments", "meshes")
    setup = load_setup(ROOT / "configs" / "meshes.yaml", experiment.setup)
    kept = json.loads((ROOT / "results" / "meshes" / RESULTS).read_text())["cells"]
    results = {name: entry["result"] for name, entry in kept.items()}
    assert "It holds." in experiment.page(setup, results).outcome
    results["data=8"]["states"] = None  # as results.json has NaN
    assert "It does not hold on data=8." in experiment.page(setup, results).outcome


def test_the_readme_shows_the_results_that_are_there():
    text = (ROOT / "README.md").read_text()
    assert headline(ROOT / "results" / "quality") in text


@pytest.mark.slow
def test_every_experiment_runs_on_a_real_plugin(shared, tmp_path):
    """All of them share one plug-in; the page they make opens in a browser."""
    for name in NAMES:
        place = run_experiment(
            name,
            data=shared / "data",
            out=tmp_path / "results",
            work=tmp_path / "work",
            folder=ROOT / "experiments",
            setup_file=SMOKE / f"{name}.yaml",
        )
        experiment = load_experiment(ROOT / "experiments", name)
        wanted = experiment.cells(load_setup(SMOKE / f"{name}.yaml", experiment.setup))
        assert json.loads((place / RESULTS).read_text())["cells"].keys() == wanted.keys()
        assert "| --- |" in (place / "README.md").read_text()
        assert list(place.glob("*.svg")) or name in ("quality", "single-target", "paper")
    assert len(list((tmp_path / "work" / "plugins").glob("*/edit.json"))) == 1
    report = tmp_path / "report.html"
    assert write_report(tmp_path / "results", report, data=shared / "data") > 30
    shown = browsed(report, tmp_path / "report.png")
    visible = re.sub(r"<script.*?</script>", "", shown, flags=re.DOTALL)
    assert re.search(r"\d+ of \d+ rows", visible)
    assert re.search(r"<td>Which family does Ramalinaceae belong to\?", visible)  # ZsRE's first


def browsed(page, picture):
    """The page as headless Chromium shows it, after its script has run; a screenshot beside."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to open the report in")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run",
        f"--user-data-dir={picture.parent / 'profile'}", "--window-size=1200,1600",
    ]  # fmt: skip
    subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], check=True, timeout=120)
    assert picture.stat().st_size > 10_000
    dump = [*command, "--dump-dom", page.as_uri()]
    return subprocess.run(dump, check=True, timeout=120, capture_output=True, text=True).stdout
