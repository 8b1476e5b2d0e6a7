"""An ensemble whose models multiply in bfloat16: its scores, answers and programs."""

import dataclasses

import jax
import numpy as np
import pytest
from compiled_steps import compilations
from editing_cases import LEARNT, RECORDS, UNRELATED

from onceedit_jax import fusion, gates
from onceedit_jax.data.records import Pair
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.edit import edit
from onceedit_jax.ensemble import Ensemble, Target
from onceedit_jax.ensemble.likelihood import fused_likelihoods
from onceedit_jax.ensemble.scoring import Text

PAIRS = [Pair(record.prompt, record.target) for record in RECORDS]
PROMPTS = [*(record.prompt for record in RECORDS), UNRELATED[0].prompt]
RULES = [fusion.draft(), fusion.vocabulary(), fusion.relative(allow_lossy=True)]
NAMES = ["draft", "vocabulary", "relative"]


@pytest.fixture(scope="module")
def plugin(tiny_model):
    return edit(*tiny_model(), RECORDS, UNRELATED, LEARNT)


@pytest.fixture(scope="module")
def target(tiny_model):
    return Target(*tiny_model(80, 1))


def short(model):
    """The same plug-in or model, computing in bfloat16."""
    return dataclasses.replace(model, config=model.config.with_compute_dtype("bfloat16"))


def ensemble(plugin, target, rule):
    return Ensemble(plugin, [target], rule=rule, gate=gates.both(), alpha_threshold=0.0)


@pytest.fixture(scope="module", params=RULES, ids=NAMES)
def both(request, plugin, target):
    """The same ensemble in float32 and in bfloat16."""
    narrow = dataclasses.replace(target, model=short(target.model))
    return ensemble(plugin, target, request.param), ensemble(short(plugin), narrow, request.param)


def test_scores_and_answers_are_those_of_float32(both):
    """The plug-in has learnt its edits well, so rounding does not change a token."""
    scored, ours = (each.score(PAIRS) for each in both)
    for mine, exact in zip(ours.targets[0], scored.targets[0], strict=True):
        assert mine.after.tolist() == exact.after.tolist()
    answers = [each.generate(PROMPTS[:3], max_new_tokens=8).after[0] for each in both]
    assert answers[1] == answers[0]


def test_what_a_gate_reads_is_float32(both):
    exact, ours = (each.alphas(PROMPTS) for each in both)
    np.testing.assert_array_equal(ours, exact)


def test_likelihoods_are_near_those_of_float32(both):
    found = []
    for each in both:
        prepared = each.prepared[0]
        texts = [Text.of(pair, prepared) for pair in PAIRS]
        prompts = [pair.prompt for pair in PAIRS]
        likely = fused_likelihoods(each.prepared_plugin, prepared, prompts, texts)
        found.append([one.log_probability for one in likely])
    np.testing.assert_allclose(found[1], found[0], rtol=0.05, atol=0.05)
    assert found[0] != found[1]


def test_a_second_call_compiles_nothing(both):
    for _ in range(2):
        both[1].score(PAIRS)
        both[1].generate(PROMPTS, max_new_tokens=8)
        sizes = compilations()
    both[1].score(PAIRS[::-1])
    both[1].generate(PROMPTS[::-1], max_new_tokens=8)
    assert compilations() == sizes


def test_an_artifact_is_loaded_in_float32_on_cpu_unless_asked(plugin, tmp_path):
    short(plugin).save(tmp_path / "edit")
    assert EditedPlugin.load(tmp_path / "edit").config == plugin.config
    asked = EditedPlugin.load(tmp_path / "edit", compute_dtype="bfloat16")
    assert asked.config == short(plugin).config
    jax.tree.map(np.testing.assert_array_equal, asked.params, plugin.params)
