"""Baselines: how they are scored, and the experiment that compares them."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baseline_cases import LOCATED, TEXTS, running
from support import ROOT

from experiments.framework.page import save_figure
from experiments.framework.runner import load_experiment
from experiments.framework.workspace import Lab
from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.editors.ftl import FTLSettings, ftl
from onceedit_jax.editors.grace import GRACESettings
from onceedit_jax.editors.memit import AlphaEditSettings, MEMITSettings
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.editors.values import ValueSettings
from onceedit_jax.editors.wise import WISESettings
from onceedit_jax.ensemble import Target
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.single_model import score, states_of
from onceedit_jax.models.decoder import unembed


def test_scores_are_the_protocols(tiny_model):
    model, tokenizer = tiny_model(80)
    records = [
        EditRecord(
            "What is the capital of Norland?",
            "Ada Quill",
            rephrase="Norland has which capital?",
            locality=(Pair("Who wrote The Glass Orchard?", "Sol"), Pair("the cat sat", "on a mat")),
        ),
        EditRecord("Which river runs?", "the Ask", portability=(Pair("the dog ran to", "it"),)),
    ]
    target = Target(model, tokenizer)
    # Edited with one of the two, so that no score is all or nothing.
    batches = target_rows(records[:1], tokenizer, batch_size=1)
    settings = FTLSettings(learning_rate=2e-2, epochs=12, bound=1.0)
    other = ftl(model.params, model.config, batches, 1, settings)
    found = score(target, records, other, states_of(other, model.config))

    def said(params, pair):
        tokens, start = tokenizer.encode_pair(pair.prompt, pair.target)
        states = running(params, model.config, jnp.array([tokens]), jnp.arange(len(tokens))[None])
        best = np.argmax(np.asarray(unembed(params, model.config, states[0][0])), -1)
        return best[start - 1 : -1], np.array(tokens[start:])

    def share(pair, params, against=None):
        best, gold = said(params, pair)
        return float(np.mean(best == (gold if against is None else said(against, pair)[0])))

    local = records[0].locality
    for when, params in (("before", model.params), ("after", other)):
        wanted = {
            "rel": np.mean([share(Pair(r.prompt, r.target), params) for r in records]),
            "gen": share(Pair(records[0].rephrase, records[0].target), params),
            "loc": np.mean([share(pair, params, model.params) for pair in local]),
            "portability": share(records[1].portability[0], params),
        }
        assert {name: found[when][name] for name in wanted} == pytest.approx(wanted)
    assert 0 < found["after"]["rel"] < 1
    assert found["before"]["loc"] == 1.0 > found["after"]["loc"]


def test_the_experiment_edits_a_target_by_every_method(tiny_model, tmp_path):
    model, tokenizer = tiny_model(80)
    experiment = load_experiment(ROOT / "experiments", "baselines")
    values = {"limit": 2, "texts": 3, "prefixes": 1, "ridge": 0.01, "targets": ["tiny"]}
    values |= {"third": "tiny", "bare": {"paraphrase_ratio": 0.0}}
    brief = {"epochs": 1}
    values["methods"] = {
        "full": brief, "lora": brief, "ft-l": brief, "rome": {"steps": 1}, "memit": {"steps": 1},
        "alphaedit": {"steps": 1, "threshold": 1e-5}, "grace": {"steps": 1}, "wise": brief,
    }  # fmt: skip
    layers = {"ft-l": 1, "rome": 0, "memit": [0, 1], "alphaedit": [1], "grace": 0, "wise": 1}
    setup = experiment.setup(**values, layers={"tiny": layers})
    edits = [
        {
            "subject": record.subject, "src": record.prompt, "alt": record.target, "pred": "",
            "rephrase": record.prompt + "?", "answers": ["Sol"], "loc": "nq question: the cat sat",
            "loc_ans": "on the mat", "cond": "",
        }
        for record in LOCATED
    ]  # fmt: skip
    texts = [{"Corpus": "c", "Text": text} for text in (*TEXTS, *TEXTS)]
    (tmp_path / "zsre_eval.json").write_text(json.dumps(edits))
    (tmp_path / "zsre_train.json").write_text(json.dumps(edits[:1]))
    (tmp_path / "zsre_unrelated_nq.json").write_text(json.dumps(TEXTS))
    (tmp_path / "me_ppl.json").write_text(json.dumps(texts))
    lab = Lab(tmp_path, tmp_path, setup)
    lab.target = lambda spec: Target(model, tokenizer)
    cells = experiment.cells(setup)
    twice = [
        f"{method}, {place}" for place in ("tiny", "random weights") for method in setup.methods
    ]
    shared = ["once edit", "once edit (prompts alone)", "once edit (the paper's)"]
    assert list(cells) == [*shared, *twice]
    before = jax.tree.map(np.array, model.params)
    results = {
        name: experiment.run(lab, setup, cell)
        for name, cell in cells.items()
        if name.endswith(", tiny")
    }
    jax.tree.map(np.testing.assert_array_equal, before, model.params)
    for name, result in results.items():
        scores = result["scores"][0]
        assert scores["before"]["loc"] == 1.0 and scores["after"]["counts"]["rel"] == 2
        assert (result["preparation"] > 0) == (name.split(",")[0] in ("rome", "memit", "alphaedit"))
    results["ft-l, tiny"] = {**results["ft-l, tiny"], "seconds": 3.0}
    page = experiment.page(setup, json.loads(json.dumps(results)))
    assert len(page.tables[0].rows) == 8 and "not decided" in page.claim
    name = "ft-l, random weights"
    results[name] = experiment.run(lab, setup, cells[name])
    assert results[name]["scores"] == [] and results[name]["seconds"] > 0
    results[name]["seconds"] = 4.0
    # The plug-in's cell: its time is what its record says, whoever edited it.
    lab.plugin = lambda dataset, settings: SimpleNamespace(editing_seconds=2.0)
    rules = []
    lab.ruled = lambda plugin, targets, rule: rules.append(rule)
    lab.evaluate = lambda ensemble, records: {"scores": results["full, tiny"]["scores"]}
    once = experiment.run(lab, setup, cells["once edit"])
    papers = experiment.run(lab, setup, cells["once edit (the paper's)"])
    assert rules == [{"preset": "draft"}, {"preset": "relative", "alpha_threshold": 0.0}]
    page = experiment.page(setup, json.loads(json.dumps({"once edit": once, **results})))
    times = {row[0]: row[1:] for row in page.tables[1].rows}
    assert times["once edit"] == [2.0, 2.0, 1.0, 1.0, 1.0]
    assert times["ft-l"] == [3.0, 7.0, 1.5, 3.5, 2.13]
    # A rival that is not measured on every target could be the best or the quickest.
    assert times["rome"][1] is None and "not decided" in page.claim
    for method in setup.methods:
        results[f"{method}, random weights"] = results[name]
    whole = experiment.page(setup, json.loads(json.dumps({"once edit": once, **results})))
    assert "not decided" not in whole.claim and "not measured" not in whole.claim
    # The paper's claim is about its own rule, whatever the default scores.
    best = {"after": {**once["scores"][0]["after"], "avg": 2.0}}
    once["scores"], once["seconds"] = [{**once["scores"][0], **best}], 0.0
    own = {"once edit": once, "once edit (the paper's)": {**papers, "seconds": 1e9}}
    whole = experiment.page(setup, json.loads(json.dumps({**own, **results})))
    assert "does not hold here: by the paper's rule" in whole.claim
    save_figure(page.figures[0].draw, tmp_path / "time.svg")
    assert "<svg" in (tmp_path / "time.svg").read_text()


def test_an_experiment_without_a_layer_or_of_an_unknown_method_is_refused():
    experiment = load_experiment(ROOT / "experiments", "baselines")
    with pytest.raises(InputError, match="no 'mend'; there are full, lora"):
        experiment.cells(experiment.setup(methods={"mend": {}}))
    with pytest.raises(InputError, match="layers: none for a and rome"):
        experiment.cells(experiment.setup(methods={"rome": {}}, targets=["a"]))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FTLSettings, {"bound": 0}),
        (GRACESettings, {"radius": -1}),
        (WISESettings, {"share": 0}),
        (ValueSettings, {"steps": 0}),
        (ValueSettings, {"kl_weight": -1}),
        (MEMITSettings, {"moment_weight": 0}),
        (AlphaEditSettings, {"ridge": 0}),
    ],
)
def test_settings_that_cannot_edit_are_refused(kind, wrong):
    with pytest.raises(InputError, match=f"setting {next(iter(wrong))}="):
        kind(**wrong)
