"""Edits in adapters: trained beside the weights, stage after stage, saved without the base."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from adapter_cases import ADAPTER, answers
from editing_cases import RECORDS, UNRELATED
from safetensors.numpy import load_file
from stepwise import stepwise_answers

from onceedit_jax import editors
from onceedit_jax.editing import edit as editing
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.edit import edit, parameter_hash
from onceedit_jax.editing.settings import ADAPTER as ADAPTER_USUAL
from onceedit_jax.editing.settings import WEIGHTS, EditSettings
from onceedit_jax.ensemble import Ensemble, Target
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.fusion import draft, vocabulary
from onceedit_jax.gates import fact, memory
from onceedit_jax.models.adapters import number_of_adapters
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.weights import load_model


@pytest.fixture(scope="module")
def stages(base, head):
    """Two edits in one adapter, and then a third one in another."""
    first = edit(*base, RECORDS[:2], UNRELATED, ADAPTER, head=head)
    return first, edit(*base, RECORDS[2:], UNRELATED, ADAPTER, head=head, start=first)


def test_an_adapter_learns_its_edits_and_leaves_the_weights_alone(base, stages):
    first, _ = stages
    assert first.params is base[0].params
    assert first.info.settings["method"] == "adapter"
    assert [entry.adapter for entry in first.info.edits] == [0, 0]
    assert plugin_alone(first, RECORDS[:2]).rel.value == 1


@pytest.mark.parametrize("rule", [draft(), vocabulary()])
def test_a_later_stage_leaves_the_answers_of_an_earlier_one_alone(base, stages, rule):
    first, second = stages
    assert [entry.adapter for entry in second.info.edits] == [1, 0, 0]
    prompts = [record.prompt for record in RECORDS]
    told = answers(second, base, prompts, rule=rule)
    assert told[:2] == answers(first, base, prompts[:2], rule=rule)
    assert [record.target in text for record, text in zip(RECORDS, told, strict=True)] == [True] * 3
    ensemble = Ensemble(second, [Target(*base)], rule=rule)
    assert told == stepwise_answers(ensemble, 0, prompts, max_new_tokens=12)
    kept = jax.tree.map(lambda leaf: leaf[:1], second.adapters)
    assert parameter_hash(kept) == parameter_hash(first.adapters)


def test_scores_with_several_adapters_are_those_of_each(base, stages):
    _, second = stages
    assert plugin_alone(second, RECORDS).rel.value == 1


def test_an_artifact_of_adapters_is_small_and_finds_its_base(base, stages, tmp_path):
    _, second = stages
    folder = second.save(tmp_path / "plugin")
    again = EditedPlugin.load(folder)
    assert parameter_hash(again.adapters) == parameter_hash(second.adapters)
    assert parameter_hash(again.params) == parameter_hash(base[0].params)
    assert again.params is EditedPlugin.load(folder).params  # one base for all artifacts
    size = sum(file.stat().st_size for file in (folder / "params").rglob("*") if file.is_file())
    assert size < sum(leaf.nbytes for leaf in jax.tree.leaves(base[0].params))
    prompts = [record.prompt for record in RECORDS]
    assert answers(again, base, prompts) == answers(second, base, prompts)


def test_a_base_that_is_gone_or_another_is_told(base, stages, tmp_path, tiny_model):
    first, _ = stages
    gone = dataclasses.replace(first.info.base, spec=str(tmp_path / "nowhere"))
    moved = dataclasses.replace(first, info=dataclasses.replace(first.info, base=gone))
    folder = moved.save(tmp_path / "plugin")
    with pytest.raises(InputError, match="these are not where they were"):
        EditedPlugin.load(folder)
    assert EditedPlugin.load(folder, base=base[0].spec).adapters is not None
    other, tokenizer = tiny_model(200, seed=1)
    another = tmp_path / "other"
    another.mkdir()
    export_hf(another, other.params, other.config, other.hf_config)
    tokenizer.save(another)
    with pytest.raises(InputError, match="was made for tiny with hash"):
        EditedPlugin.load(folder, base=another)


def test_one_adapter_is_exported_as_weights_and_several_are_not(base, stages, tmp_path):
    first, second = stages
    folder = first.export(tmp_path / "hf")
    exported = dataclasses.replace(first, params=load_model(folder).params, adapters=None)
    assert plugin_alone(exported, RECORDS[:2]).rel.value == 1
    with pytest.raises(InputError, match="edits in 2 adapters"):
        second.export(tmp_path / "no")


def test_an_adapter_for_peft_adds_up_to_the_exported_weights(base, stages, tmp_path):
    first, second = stages
    whole = load_file(first.export(tmp_path / "whole") / "model.safetensors")
    plain = load_file(Path(base[0].spec) / "model.safetensors")
    folder = first.export_peft(tmp_path / "peft")
    factors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["layers_to_transform"]) == (8, 8, [1])
    assert config["base_model_name_or_path"] == base[0].spec
    changed = 0
    for name, weight in whole.items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if key + "A.weight" in factors:
            update = factors[key + "B.weight"] @ factors[key + "A.weight"]
            np.testing.assert_allclose(weight, plain[name] + update, atol=1e-4)
            changed += 1
        elif name in plain:
            np.testing.assert_array_equal(weight, plain[name])
    assert changed == len(factors) / 2 == 7
    with pytest.raises(InputError, match="edits in 2 adapters"):
        second.export_peft(tmp_path / "no")


def test_an_adapter_without_edits_is_left_behind(base, head, stages, tmp_path):
    settings = dataclasses.replace(ADAPTER, epochs=1)
    again = [dataclasses.replace(record, target="Ola") for record in RECORDS[:2]]
    edited = edit(*base, again, settings=settings, head=head, start=stages[0])
    assert number_of_adapters(edited.adapters) == 1
    assert [(e.id, e.adapter) for e in edited.info.edits] == [(3, 0), (4, 0)]
    assert len(EditedPlugin.load(edited.save(tmp_path / "plugin")).records) == 2


@pytest.mark.parametrize(
    ("unrelated", "settings", "known", "method"),
    [
        (None, EditSettings(epochs=1), True, "adapter"),
        (None, EditSettings(epochs=1), False, "last-n-layers"),
        (UNRELATED, EditSettings(epochs=1), True, "last-n-layers"),
        (None, EditSettings(epochs=1, unrelated_ratio=2), True, "last-n-layers"),
        (UNRELATED, EditSettings(epochs=1, method="adapter"), True, "adapter"),
    ],
)
def test_an_adapter_is_trained_unless_it_cannot_be_or_weight_is_wanted(
    base, head, unrelated, settings, known, method
):
    settings = dataclasses.replace(settings, paraphrase_ratio=0)
    made = edit(*base, RECORDS[:1], unrelated, settings, head=head if known else None)
    assert made.info.settings["method"] == method
    assert made.info.in_adapters == (method == "adapter")


def test_a_plugin_that_is_continued_keeps_its_kind(base, head, stages):
    usual = EditSettings(epochs=1, paraphrase_ratio=0)
    weights = edit(*base, RECORDS[:1], UNRELATED, usual, head=head)
    for start in (stages[0], weights):
        made = edit(*base, RECORDS[2:], settings=usual, head=head, start=start)
        assert made.info.in_adapters == start.info.in_adapters


def test_an_editor_that_is_passed_has_its_own_rate(base, head):
    settings = EditSettings(epochs=1, paraphrase_ratio=0)
    for editor in (editors.adapter(layers=1), editors.last_layers(count=1)):
        made = edit(*base, RECORDS[:1], settings=settings, head=head, editor=editor)
        usual = ADAPTER_USUAL if editor.apart else WEIGHTS
        assert made.info.settings["learning_rate"] == usual.learning_rate


def test_several_adapters_need_a_gate_that_names_the_edit(base, stages):
    first, second = stages
    assert answers(first, base, [RECORDS[0].prompt], gate=memory())
    with pytest.raises(InputError, match="does not know which edit"):
        answers(second, base, [RECORDS[0].prompt], gate=memory())
    assert answers(second, base, [RECORDS[0].prompt], gate=fact())


def test_weights_are_not_trained_under_adapters(base, head, stages):
    with pytest.raises(InputError, match="its edits are in adapters"):
        settings = dataclasses.replace(ADAPTER, method="full", epochs=1)
        edit(*base, RECORDS[2:], UNRELATED, settings, head=head, start=stages[0])


def test_streams_of_few_epochs_at_a_time_give_the_same_adapter(base, head, stages, monkeypatch):
    monkeypatch.setattr("onceedit_jax.editing.lower_states.STREAMS", 4)
    again = edit(*base, RECORDS[:2], UNRELATED, ADAPTER, head=head)
    for found, wanted in zip(
        jax.tree.leaves(again.adapters), jax.tree.leaves(stages[0].adapters), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_an_interrupted_run_ends_with_the_same_adapter(base, head, tmp_path, monkeypatch):
    settings = dataclasses.replace(ADAPTER, epochs=6, early_stop=0)
    checkpoint = tmp_path / "checkpoint"

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.epoch == 5:
            raise Killed

    monkeypatch.setattr(editing.Checkpoint, "seconds", 0.0)
    run = (*base, RECORDS[:2], UNRELATED, settings)
    with pytest.raises(Killed):
        edit(*run, head=head, checkpoint=checkpoint, on_step=kill)
    resumed = edit(*run, head=head, checkpoint=checkpoint, resume=True)
    whole = edit(*run, head=head)
    assert parameter_hash(resumed.adapters) == parameter_hash(whole.adapters)
