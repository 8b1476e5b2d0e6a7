"""The editing stage: from records to an artifact, and what it refuses."""

import dataclasses
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_cases import FAST, RECORDS, UNRELATED

from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import EditRecord, UnrelatedRow
from onceedit_jax.editing import edit as edit_module
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.augmentation import choose_unrelated, training_texts
from onceedit_jax.editing.batches import edit_row, make_batch
from onceedit_jax.editing.edit import earlier_edits, edit, parameter_hash
from onceedit_jax.editing.paraphrases import swapped_prompts, varied_prompts
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.gates.calibration import calibrate_threshold, calibrate_trust


def test_swapped_prompts_ask_about_subjects_that_no_edit_has():
    rows = swapped_prompts(RECORDS, UNRELATED, 6, np.random.default_rng(0))
    assert rows
    assert not any(r.subject in row.prompt for r in RECORDS[:1] for row in rows)
    frames = [r.prompt.replace(r.subject, "|").split("|") for r in RECORDS]
    assert all(
        any(row.prompt.startswith(a) and row.prompt.endswith(b) for a, b in frames) for row in rows
    )


def test_varied_prompts_keep_the_subject_and_the_words():
    rng = np.random.default_rng(0)
    prompts = varied_prompts(RECORDS[1:2], 3, rng)
    for prompt in prompts:
        assert RECORDS[1].subject in prompt
        assert prompt.endswith("?")
        words = [sorted(text.rstrip("?").lower().split()) for text in (prompt, RECORDS[1].prompt)]
        assert words[0] == words[1]
    assert len(set(prompts)) > 1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tiny_plugin_learns_its_edits_and_its_gate(tiny_model, method):
    model, tokenizer = tiny_model()
    settings = EditSettings(**{**FAST.as_dict(), "method": method, "epochs": 200})
    edited = edit(model, tokenizer, RECORDS, UNRELATED, settings)
    metrics = edited.info.metrics
    assert metrics.reliability == 1.0
    assert metrics.gate_accuracy == 1.0
    assert metrics.epochs < settings.epochs  # early stop
    assert metrics.alpha_edits["mean"] > 0.5


def test_the_same_seed_gives_the_same_plugin(tiny_model):
    model, tokenizer = tiny_model()
    settings = EditSettings(**{**FAST.as_dict(), "epochs": 2})
    first, second = (edit(model, tokenizer, RECORDS, UNRELATED, settings) for _ in range(2))
    assert parameter_hash([first.params, first.gate]) == parameter_hash(
        [second.params, second.gate]
    )


def test_training_leaves_the_base_model_as_it_was(tiny_model):
    model, tokenizer = tiny_model()
    before = parameter_hash(model.params)
    edited = edit(model, tokenizer, RECORDS, UNRELATED, FAST)
    assert parameter_hash(model.params) == before
    assert np.array_equal(edited.base_embeddings, model.params["embed"]["tokens"])


def test_an_edit_goes_on_from_an_earlier_one(tiny_model):
    model, tokenizer = tiny_model()
    settings = EditSettings(**{**FAST.as_dict(), "epochs": 200})
    first = edit(model, tokenizer, RECORDS[:2], UNRELATED, settings)
    changed = replace(RECORDS[0], target="Osthavn")
    second = edit(
        model, tokenizer, [changed, RECORDS[2]], UNRELATED, settings, start=first, replay=0.5
    )
    # The prompt that is asked again has its new answer, the other earlier edit stays.
    known = {entry.prompt: entry.target for entry in second.info.edits}
    assert known == {r.prompt: r.target for r in (changed, *RECORDS[1:])}
    assert second.info.edited_before == 1
    assert set(first.info.trained_texts) <= set(second.info.trained_texts)
    assert plugin_alone(second, [changed, *RECORDS[1:]]).rel.value == 1.0
    assert np.array_equal(second.base_embeddings, model.params["embed"]["tokens"])


def test_what_an_earlier_stage_trained_on_fixes_no_threshold(tiny_model):
    model, tokenizer = tiny_model()
    settings = replace(FAST, epochs=1, disguised=0.0, swapped_ratio=0.0)
    first = edit(model, tokenizer, RECORDS, UNRELATED, settings)
    trained, held_back = choose_unrelated(RECORDS[:1], UNRELATED, settings)
    known = set(first.info.trained_texts)
    assert {digest(text) for text in (*trained, *held_back)} <= known  # as the test needs
    second = edit(model, tokenizer, RECORDS[:1], UNRELATED, settings, start=first)
    assert second.info.unrelated.held_back == 0


def test_another_base_is_no_start(tiny_model):
    first = edit(*tiny_model(), RECORDS, UNRELATED, replace(FAST, epochs=1))
    other = tiny_model(seed=1)
    with pytest.raises(InputError, match="a plug-in of the same base"):
        edit(*other, RECORDS, UNRELATED, FAST, start=first)


def test_the_gate_is_not_told_of_an_edit_that_is_left_out(tiny_model):
    tokenizer = tiny_model()[1]
    told, untold = (edit_row(r, tokenizer, max_tokens=64) for r in RECORDS[:2])
    batch = make_batch([told, replace(untold, related=None)], 3)
    assert batch.gate_mask.tolist() == [1, 0, 0]
    assert batch.gate_labels.tolist() == [1, 0, 0]
    assert set(batch.target_rows[batch.target_mask > 0].tolist()) == {0, 1}
    settings = EditSettings(varied_ratio=1.0, swapped_ratio=2.0)
    texts = training_texts(*tiny_model(), RECORDS, UNRELATED, settings, ungated=[0])
    assert not any("Norland" in text for text in texts.varied)
    assert not any(text.startswith("What is the capital of") for text in texts.unrelated)


def test_an_evaluated_unrelated_row_is_refused(tiny_model):
    model, tokenizer = tiny_model()
    leak = UnrelatedRow(RECORDS[0].locality[0].prompt)
    with pytest.raises(InputError, match="1 of 13"):
        edit(model, tokenizer, RECORDS, [*UNRELATED, leak], FAST)


def test_too_few_unrelated_rows_are_refused_with_the_numbers(tiny_model):
    model, tokenizer = tiny_model()
    with pytest.raises(InputError, match=r"2 unrelated rows for 3 edits"):
        edit(model, tokenizer, RECORDS, UNRELATED[:2], FAST)


def test_rows_that_are_no_tokens_are_told_by_the_tokenizer(tiny_model):
    model, tokenizer = tiny_model()
    tokens = model.params["embed"]["tokens"]
    config = replace(model.config, vocab_size=len(tokens) + 3, num_tokens=len(tokens) + 3)
    embed = {**model.params["embed"], "tokens": jnp.pad(tokens, ((0, 3), (0, 0)))}
    padded = replace(model, config=config, params={**model.params, "embed": embed})
    edited = edit(padded, tokenizer, RECORDS, UNRELATED, replace(FAST, epochs=1))
    assert edited.config.num_tokens == len(tokenizer.vocabulary) == len(tokens)
    small = replace(model.config, vocab_size=9, num_tokens=9)
    with pytest.raises(InputError, match="9"):
        edit(replace(model, config=small), tokenizer, RECORDS, UNRELATED, FAST)


def test_an_edit_beyond_the_learnt_positions_is_refused_before_training(tiny_model):
    model, tokenizer = tiny_model()
    short = replace(model.config, rope=None, max_positions=4)
    with pytest.raises(InputError, match="a context of 4 tokens"):
        edit(replace(model, config=short), tokenizer, RECORDS, UNRELATED, FAST)


@pytest.mark.parametrize(
    ("records", "unrelated", "expected"),
    [
        ([EditRecord(" ", "x")], UNRELATED, "edit 1 of 1: its prompt is empty"),
        ([RECORDS[0], EditRecord("x", "")], UNRELATED, "edit 2 of 2: its target is empty"),
        (RECORDS, [UnrelatedRow("nq question: ")], "unrelated row 1 of 1: its prompt is empty"),
    ],
)
def test_texts_without_a_word_are_refused(tiny_model, records, unrelated, expected):
    with pytest.raises(InputError, match=expected):
        edit(*tiny_model(), records, unrelated, FAST)


def test_a_plugin_of_short_floats_is_refused(tiny_model):
    model, tokenizer = tiny_model()
    short = replace(model, params=jax.tree.map(lambda a: a.astype("bfloat16"), model.params))
    with pytest.raises(InputError, match=r'bfloat16; editing needs float32.*dtype="float32"'):
        edit(short, tokenizer, RECORDS, UNRELATED, FAST)


def test_no_later_negative_is_an_earlier_edits(tiny_model):
    model, tokenizer = tiny_model()
    settings = replace(FAST, epochs=1)
    first = edit(model, tokenizer, RECORDS[:1], UNRELATED, settings)
    with pytest.raises(InputError, match="1 of 13 unrelated rows are edits of the plug-in"):
        rows = [*UNRELATED, UnrelatedRow(RECORDS[0].prompt)]
        edit(model, tokenizer, RECORDS[1:2], rows, settings, start=first)
    # One that is asked again is no edit any more, and a new one.
    assert earlier_edits(first, [replace(RECORDS[0], target="x")]) == []
    said = [UnrelatedRow("Norland"), UnrelatedRow("Norland")]
    other = replace(RECORDS[0], prompt="What is the capital of Sudland?", subject="Sudland")
    named = swapped_prompts([other], said, 1, np.random.default_rng(0))
    assert [row.prompt for row in named] == [RECORDS[0].prompt]
    rng = np.random.default_rng(0)
    assert swapped_prompts([other], said, 1, rng, others=RECORDS[:1]) == []


@pytest.mark.parametrize(
    ("edits", "others", "wanted"),
    [
        ([0.99, 0.98], [0.01, 0.01], 0.413),
        ([0.999], [0.98], 0.9),
        ([0.2], [0.001], 0.1),
        ([0.9], [], 0.5),
    ],
)
def test_the_threshold_lies_between_edits_and_held_back_rows(edits, others, wanted):
    assert calibrate_threshold(edits, others) == pytest.approx(wanted, abs=0.001)


@pytest.mark.parametrize(
    ("edits", "others", "wanted"),
    [
        ([0.999, 0.9999], [0.1, 0.5], 0.975),  # halfway in logits
        ([0.999], [0.0001], 0.9),
        ([0.999], [0.999], 0.99),
        ([0.999], [], 0.99),
    ],
)
def test_trust_begins_between_held_back_rows_and_edits(edits, others, wanted):
    assert calibrate_trust(edits, others) == pytest.approx(wanted, abs=0.005)


def test_an_artifact_comes_back_as_it_was_saved(tiny_model, tmp_path):
    model, tokenizer = tiny_model()
    edited = edit(model, tokenizer, RECORDS, UNRELATED, FAST)
    again = EditedPlugin.load(edited.save(tmp_path / "plugin"))
    assert parameter_hash([again.params, again.gate]) == parameter_hash(
        [edited.params, edited.gate]
    )
    assert again.config == edited.config
    told = dataclasses.replace(again.info, checksums={}).as_dict()
    assert json.dumps(told) == json.dumps(edited.info.as_dict())
    assert set(again.info.checksums) == {"params", "tokenizer"}
    assert again.records[0].prompt == RECORDS[0].prompt
    assert again.records[0].rephrase == RECORDS[0].rephrase
    assert again.tokenizer.encode("the capital") == tokenizer.encode("the capital")
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture
def saved(tiny_model, tmp_path):
    model, tokenizer = tiny_model()
    settings = dataclasses.replace(FAST, epochs=1)
    return edit(model, tokenizer, RECORDS, UNRELATED, settings).save(tmp_path / "plugin")


def rewritten(folder, change):
    path = folder / "edit.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["sha256"]
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_an_artifact_of_the_format_before_opens(saved):
    """Format 4 named the editing method among the settings."""
    before = EditedPlugin.load(saved)

    def older(values):
        del values["editor"], values["checksums"]
        values["format"] = 4

    again = EditedPlugin.load(rewritten(saved, older))
    assert again.info == dataclasses.replace(before.info, format=4, checksums={})
    prompts = [record.prompt for record in RECORDS]
    assert again.alphas(prompts).tolist() == before.alphas(prompts).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format=3), r"format 3, this version reads 4, 5, 6, 7; edit again"),
        (lambda v: v.pop("rule"), r"no rule; there are .*damaged: edit again"),
        (lambda v: v["rule"].pop("fusion"), r"rule: no fusion"),
        (lambda v: v["rule"].update(reach_threshold="x"), r"reach_threshold: expected a number"),
        (lambda v: v.update(edits={}), r"edits: expected a list, found \{\}"),
        (lambda v: v["edits"].__setitem__(0, "x"), r"edits\[0\]: expected an object"),
        (lambda v: v["edits"][0].update(prompt=7), r"edits\[0\]\.prompt: expected text, found 7"),
    ],
)
def test_what_edit_json_lacks_is_named_with_its_place(saved, change, message):
    with pytest.raises(InputError, match=message):
        EditedPlugin.load(rewritten(saved, change), verify=False)


def test_a_folder_that_is_no_artifact_is_named(tmp_path):
    with pytest.raises(InputError, match=r"edit\.json is missing"):
        EditedPlugin.load(tmp_path)


def test_many_edits_share_the_default_rows_in_the_same_proportion():
    settings = edit_module._within(EditSettings(unrelated_ratio=1.0, held_back=0.5), 300, 1000)
    trained, held_back = (round(r * 1000) for r in (settings.unrelated_ratio, settings.held_back))
    assert (trained, held_back) == (200, 100)
    few = EditSettings()
    assert edit_module._within(few, 300, 10) is few
