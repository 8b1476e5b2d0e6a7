"""The main job on the real models, as a newcomer runs it, and what its plug-in is good for."""

import json
import subprocess
import sys

import pytest
from stepwise import stepwise_answers

from onceedit_jax import fusion
from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.records import demo_path
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble import Ensemble, load_target
from onceedit_jax.errors import RunError
from onceedit_jax.evaluation.forms import in_texts
from onceedit_jax.storage.sources import resolve

pytestmark = pytest.mark.slow
TARGETS = ("demo:gemma3-270m", "demo:smollm2-135m")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of a finished `onceedit demo`, and what it printed."""
    try:
        for target in TARGETS:
            resolve(target)
    except RunError as error:
        pytest.skip(f"the demo models cannot be fetched here: {error}")
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-c", "from onceedit_jax.cli.main import run; run()"]
    done = subprocess.run([*command, "demo", "--out", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_one_plugin_is_edited_and_two_real_targets_answer(demo):
    folder, printed = demo
    results = json.loads((folder / "results.json").read_text())["results"]
    scores = {r["target"]: r for r in results if r["mode"] == "teacher-forced"}
    gemma, smollm = scores["gemma3-270m"], scores["smollm2-135m"]
    assert gemma["before"]["rel"] < 0.5 and smollm["before"]["rel"] < 0.5
    assert gemma["after"]["rel"] >= 0.95
    assert smollm["after"]["rel"] >= 0.95
    assert min(gemma["after"]["loc"], smollm["after"]["loc"]) >= 0.95
    written = [r["after"] for r in results if r["mode"] == "generate"]
    assert min(scores[name] for scores in written for name in ("rel", "gen", "loc")) >= 0.9
    assert "done in" in printed


def test_a_question_inside_a_text_is_answered_as_by_itself(demo):
    records = load_records(demo_path("demo_edits.jsonl"))[:3]
    plugin, target = EditedPlugin.load(demo[0] / "plugin"), load_target(TARGETS[0])
    ensemble = Ensemble(plugin, [target], chat=False)
    texts = [text for record in records for text in in_texts(record.prompt, str(record.subject))]
    (found,) = ensemble.answers(texts)
    answers = [record.target for record in records for _ in range(3)]
    assert [answer in text for answer, text in zip(answers, found, strict=True)] == [True] * 9


@pytest.mark.parametrize("name", TARGETS)
def test_answers_are_those_of_one_token_at_a_time(demo, name):
    """Drafts on both targets; token by token on the one that splits words otherwise."""
    records = load_records(demo_path("demo_edits.jsonl"))
    prompts = [r.prompt for r in records[:3]] + [str(r.rephrase) for r in records[:3]]
    plugin, target = EditedPlugin.load(demo[0] / "plugin"), load_target(name)
    rules = [fusion.draft(), fusion.vocabulary()] if name == TARGETS[0] else [fusion.draft()]
    for rule in rules:
        ensemble = Ensemble(plugin, [target], rule=rule, alpha_threshold=0, chat=False)
        (found,) = ensemble.answers(prompts, max_new_tokens=9)
        assert found == stepwise_answers(ensemble, 0, prompts, max_new_tokens=9)
