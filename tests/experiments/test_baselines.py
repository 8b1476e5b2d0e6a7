"""The study that edits every target by itself, by every method, on a tiny model."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from baseline_cases import LOCATED, TEXTS

from experiments.baselines import EXPERIMENT
from experiments.framework.page import save_figure
from experiments.framework.workspace import Workspace
from onceedit_jax.ensemble import Target
from onceedit_jax.errors import InputError

BRIEF = {"epochs": 1}
METHODS = {
    "full": BRIEF, "lora": BRIEF, "ft-l": BRIEF, "rome": {"steps": 1}, "memit": {"steps": 1},
    "alphaedit": {"steps": 1, "threshold": 1e-5}, "grace": {"steps": 1}, "wise": BRIEF,
}  # fmt: skip
LAYERS = {"ft-l": 1, "rome": 0, "memit": [0, 1], "alphaedit": [1], "grace": 0, "wise": 1}
SETUP = EXPERIMENT.setup(
    limit=2,
    texts=3,
    prefixes=1,
    ridge=0.01,
    targets=["tiny"],
    third="tiny",
    bare={"paraphrase_ratio": 0.0},
    methods=METHODS,
    layers={"tiny": LAYERS},
)
ONE_EDIT = ("once edit", "once edit (prompts alone)", "once edit (the paper's)")


@pytest.fixture
def workspace(tmp_path, tiny_model):
    """A workspace with a data set of a few records, whose only target is tiny."""
    edits = [
        {
            "subject": record.subject, "src": record.prompt, "alt": record.target, "pred": "",
            "rephrase": record.prompt + "?", "answers": ["Sol"], "loc": "nq question: the cat sat",
            "loc_ans": "on the mat", "cond": "",
        }
        for record in LOCATED
    ]  # fmt: skip
    texts = [{"Corpus": "c", "Text": text} for text in (*TEXTS, *TEXTS)]
    files = {
        "zsre_eval": edits, "zsre_train": edits[:1], "zsre_unrelated_nq": TEXTS, "me_ppl": texts,
    }  # fmt: skip
    for name, values in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    opened = Workspace(tmp_path, tmp_path, SETUP)
    model, tokenizer = tiny_model(80)
    opened.target = lambda spec: Target(model, tokenizer)
    return opened


def tables(results):
    """The tables by name, from results as a file gives them back."""
    made = EXPERIMENT.tables(SETUP, json.loads(json.dumps(results)))
    return {table.name: {row[0]: row[1:] for row in table.rows} for table in made}


@pytest.mark.long
def test_a_target_is_edited_by_every_method(workspace, tmp_path):
    cells = EXPERIMENT.cells(SETUP)
    places = ("tiny", "random weights")
    assert list(cells) == [*ONE_EDIT, *(f"{m}, {place}" for place in places for m in METHODS)]
    params = workspace.target("tiny").model.params
    before = jax.tree.map(np.array, params)
    results = {
        name: EXPERIMENT.run(workspace, SETUP, cell)
        for name, cell in cells.items()
        if name.endswith(", tiny")
    }
    jax.tree.map(np.testing.assert_array_equal, before, params)
    for name, result in results.items():
        scores = result["scores"][0]
        assert scores["before"]["loc"] == 1.0 and scores["after"]["counts"]["rel"] == 2
        assert (result["preparation"] > 0) == (name.split(",")[0] in ("rome", "memit", "alphaedit"))
    assert len(tables(results)["scores"]) == len(METHODS)
    name = "ft-l, random weights"
    result = EXPERIMENT.run(workspace, SETUP, cells[name])
    assert result["scores"] == [] and result["seconds"] > 0
    (figure,) = EXPERIMENT.figures(SETUP, results)
    save_figure(figure.draw, tmp_path / "time.svg")
    assert "<svg" in (tmp_path / "time.svg").read_text()


def test_one_edit_is_scored_by_its_rule_and_takes_its_own_time(workspace):
    # The plug-in's time is what its record says, whoever edited it.
    workspace.plugin = lambda dataset, settings: SimpleNamespace(editing_seconds=2.0)
    rules = []
    workspace.ensemble = lambda plugin, targets, rule: rules.append(rule)
    workspace.evaluate = lambda ensemble, records: {"scores": []}
    cells = EXPERIMENT.cells(SETUP)
    results = [EXPERIMENT.run(workspace, SETUP, cells[name]) for name in ONE_EDIT]
    draft, relative = {"preset": "draft"}, {"preset": "relative", "alpha_threshold": 0.0}
    assert rules == [draft, draft, relative]
    assert [result["seconds"] for result in results] == [2.0] * 3


def test_times_add_up_over_the_targets_as_far_as_they_are_measured():
    def result(seconds, avg=0.5):
        after = dict.fromkeys(("rel", "gen", "loc", "avg"), avg)
        return {
            "scores": [{"target": "tiny", "after": after}],
            "seconds": seconds,
            "preparation": 0.0,
        }

    results = {
        "once edit": result(2.0),
        "ft-l, tiny": result(3.0),
        "rome, tiny": result(1.0),
        "ft-l, random weights": {**result(4.0), "scores": []},
    }
    made = tables(results)
    assert made["time"]["once edit"] == [2.0, 2.0, 1.0, 1.0, 1.0]
    assert made["time"]["ft-l"] == [3.0, 7.0, 1.5, 3.5, 2.13]
    assert made["time"]["rome"] == [1.0, None, 0.5, None, None]
    assert made["averages"]["ft-l"] == [0.5] * 4


def test_a_method_without_a_layer_is_refused():
    with pytest.raises(InputError, match="layers: none for a and rome"):
        EXPERIMENT.cells(EXPERIMENT.setup(methods={"rome": {}}, targets=["a"]))
