"""Runs of experiments on one or two edits: all but one on a tiny model of random weights."""

import json
from pathlib import Path

import tiny_tokenizers
from model_folders import LLAMA, random_tensors, write_folder
from support import ROOT

from experiments.framework.definition import load_experiment, load_setup
from experiments.framework.html_report import write_report
from experiments.framework.results import RESULTS
from experiments.framework.runner import run_experiment

SMOKE = ROOT / "tests" / "experiments" / "smoke"
NAMES = sorted(path.stem for path in SMOKE.glob("*.yaml"))
# The gate `fact` asks for a relation head, and there is one for the demo's plug-in alone.
ON_A_REAL_MODEL = ("fact-gate", "realworld", "sequential", "standard-sets")
WITHOUT_FIGURE = {"quality", "single-target", "paper", "realworld", "standard-sets"}
# What the configurations call the tiny model.
TINY = "TINY"


def run_all(names: list[str], data: Path, folder: Path) -> None:
    """Run experiments, which share one edited plug-in where they edit the same facts."""
    folder.joinpath("setups").mkdir()
    for name in names:
        setup_file = folder / "setups" / f"{name}.yaml"
        setup_file.write_text((SMOKE / setup_file.name).read_text().replace(TINY, tiny(folder)))
        place = run_experiment(
            name, data=data, out=folder / "results", work=folder / "work", setup_file=setup_file
        )
        experiment = load_experiment(name)
        cells = experiment.cells(load_setup(setup_file, experiment.setup))
        assert json.loads((place / RESULTS).read_text())["cells"].keys() == cells.keys()
        assert "| --- |" in (place / "README.md").read_text()
        assert list(place.glob("*.svg")) or name in WITHOUT_FIGURE
    assert write_report(folder / "results", folder / "report.html", data=data) > 0


def tiny(folder: Path) -> str:
    """A folder of a model that computes in no time, with a tokenizer of its own."""
    place = folder / "tiny"
    if not place.exists():
        tokenizer = tiny_tokenizers.byte_level()
        rows = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024}
        hf_config = {**LLAMA, **rows}
        write_folder(place, hf_config, random_tensors(hf_config))
        tokenizer.save_pretrained(place)
    return str(place)
