"""Runs of experiments on one or two edits, with real models; two test files share them out."""

import json
from pathlib import Path

from support import ROOT

from experiments.framework.definition import load_experiment, load_setup
from experiments.framework.html_report import write_report
from experiments.framework.results import RESULTS
from experiments.framework.runner import run_experiment

SMOKE = ROOT / "tests" / "experiments" / "smoke"
NAMES = sorted(path.stem for path in SMOKE.glob("*.yaml"))
WITHOUT_FIGURE = {"quality", "single-target", "paper", "realworld"}


def run_all(names: list[str], data: Path, folder: Path) -> None:
    """Run experiments; they share two plug-ins, of ZsRE and of real facts."""
    for name in names:
        setup_file = SMOKE / f"{name}.yaml"
        place = run_experiment(
            name, data=data, out=folder / "results", work=folder / "work", setup_file=setup_file
        )
        experiment = load_experiment(name)
        cells = experiment.cells(load_setup(setup_file, experiment.setup))
        assert json.loads((place / RESULTS).read_text())["cells"].keys() == cells.keys()
        assert "| --- |" in (place / "README.md").read_text()
        assert list(place.glob("*.svg")) or name in WITHOUT_FIGURE
    plugins = [edit.parent.name for edit in (folder / "work" / "plugins").glob("*/edit.json")]
    kinds = sorted(name.split("-")[0] for name in plugins)
    assert kinds == (["alone", "zsre"] if "realworld" in names else ["zsre"])
    assert write_report(folder / "results", folder / "report.html", data=data) > 10
