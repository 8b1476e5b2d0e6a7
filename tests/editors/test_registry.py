"""Baselines: how they are scored, and the experiment that compares them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from baseline_cases import running

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

ROOT = Path(__file__).parents[2]


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
