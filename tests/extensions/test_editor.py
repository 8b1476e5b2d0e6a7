"""An editing method of one's own: written here, passed in, with no change in the package."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_cases import FAST, RECORDS, UNRELATED

from onceedit_jax import editors, gates
from onceedit_jax.data.records import EditRecord, neutral_rows
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import EditorInfo
from onceedit_jax.editing.edit import edit, parameter_hash
from onceedit_jax.editing.editor import Editor, EditorResult, editor_factory
from onceedit_jax.editing.trainable import Parts, Trainable
from onceedit_jax.editors.layers import down_projection, observed, with_down_projection
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.models.layout import stack_layers

ONE = [EditRecord("What is the capital of Norland?", "river", subject="Norland")]


@dataclasses.dataclass(frozen=True)
class RidgeSettings:
    """Of the closed form below."""

    strength: float = 4.0
    ridge: float = 1e-3


def ridge_update(settings, state, params, config, inputs):
    """Ridge regression of the last layer's MLP output onto the embeddings of the answers.

    The last residual stream meets the (tied) vocabulary head behind a norm alone: a large enough
    step towards a token's embedding makes it the most likely one.
    """
    layer = config.num_layers - 1
    keys, steps = [], []
    for rows in target_rows(inputs.records, inputs.tokenizer, batch_size=1):
        columns, targets = np.asarray(rows.columns)[0], np.asarray(rows.targets)[0]
        there = targets >= 0
        keys.append(observed(params, config, rows, layer).key[0, columns[there]])
        steps.append(params["embed"]["tokens"][targets[there]])
    keys, steps = jnp.concatenate(keys), settings.strength * jnp.concatenate(steps)
    gram = keys.T @ keys + settings.ridge * jnp.eye(keys.shape[1])
    down = down_projection(params, layer) + jnp.linalg.solve(gram, keys.T @ steps)
    return EditorResult(stack_layers(with_down_projection(params, layer, down)))


@editor_factory(RidgeSettings)
def ridge(settings: RidgeSettings) -> Editor:
    return Editor("ridge", partial(ridge_update, settings), settings=settings)


def test_a_closed_form_of_ones_own_edits_a_plugin(tiny_model, tmp_path):
    model, tokenizer = tiny_model(80)
    editor = ridge(strength=30.0)
    settings = dataclasses.replace(FAST, seed=1)
    plugin = edit(model, tokenizer, ONE, UNRELATED, settings, editor=editor)
    assert plugin_alone(plugin, ONE).rel.value == 1.0
    # No gate was trained: the memory of the edits decides alone.
    assert not np.asarray(plugin.gate["kernel"]).any()
    alphas = plugin.alphas([ONE[0].prompt, UNRELATED[0].prompt], gates.memory())
    assert alphas.tolist() == [1.0, 0.0]
    again = EditedPlugin.load(plugin.save(tmp_path / "plugin"))
    assert parameter_hash(again.params) == parameter_hash(plugin.params)
    assert again.info.editor == EditorInfo("ridge", {"strength": 30.0, "ridge": 1e-3})
    assert again.info.settings["method"] == "ridge" and again.info.settings["seed"] == 1


def test_a_gate_that_was_trained_stays_when_an_editor_without_one_goes_on(tiny_model):
    model, tokenizer = tiny_model()
    first = edit(model, tokenizer, RECORDS, UNRELATED, FAST)
    second = edit(model, tokenizer, ONE, UNRELATED, FAST, start=first, editor=ridge())
    assert np.asarray(first.gate["kernel"]).any()
    assert np.array_equal(first.gate["kernel"], second.gate["kernel"])


def split_embeddings(params, key):
    frozen = {name: part for name, part in params.items() if name != "embed"}
    return Parts({"embed": params["embed"]}, frozen)


def join_embeddings(trainable, frozen):
    return {**frozen, **trainable}


EMBEDDINGS = Trainable("embeddings", split_embeddings, join_embeddings)


def test_a_part_of_ones_own_is_trained_with_the_gate(tiny_model):
    model, tokenizer = tiny_model()
    editor = editors.trained(EMBEDDINGS)
    settings = dataclasses.replace(FAST, learning_rate=3e-2, epochs=200)
    plugin = edit(model, tokenizer, ONE, UNRELATED, settings, editor=editor)
    metrics = plugin.info.metrics
    assert metrics.reliability == metrics.gate_accuracy == 1.0
    assert metrics.epochs < settings.epochs  # early stop
    for part in ("layers", "final_norm"):
        assert parameter_hash(plugin.params[part]) == parameter_hash(model.params[part])
    assert parameter_hash(plugin.params["embed"]) != parameter_hash(model.params["embed"])
    assert np.asarray(plugin.gate["kernel"]).any()
    assert plugin.info.editor.name == "embeddings"


@pytest.mark.parametrize("make", [lambda: editors.lora(2), lambda: editors.ft_l(1, epochs=2)])
def test_an_editor_passed_in_twice_with_equal_settings_compiles_nothing_twice(tiny_model, make):
    model, tokenizer = tiny_model()
    settings = dataclasses.replace(FAST, epochs=2)
    compiled = []

    def count(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        first = edit(model, tokenizer, RECORDS, UNRELATED, settings, editor=make())
        before = len(compiled)
        second = edit(model, tokenizer, RECORDS, UNRELATED, settings, editor=make())
    finally:
        jax.monitoring.clear_event_listeners()
    assert before > 0 == len(compiled) - before
    assert parameter_hash(first.params) == parameter_hash(second.params)


def test_the_projects_own_methods_edit_a_plugin_too(tiny_model):
    model, tokenizer = tiny_model(80)
    quick = dataclasses.replace(FAST, epochs=1)
    memit = editors.memit(layers=(0,), moment_weight=0.1, steps=2)
    for editor in (memit, editors.rome(layer=0, steps=2)):
        plugin = edit(model, tokenizer, RECORDS[:2], UNRELATED, quick, editor=editor)
        assert plugin.info.editor == EditorInfo(**editor.describe())
        assert parameter_hash(plugin.params) != parameter_hash(model.params)


def test_settings_that_are_recorded_agree_with_the_editor(tiny_model):
    model, tokenizer = tiny_model()
    quick = dataclasses.replace(FAST, epochs=1)
    named = dataclasses.replace(quick, method="lora", lora_rank=2, lora_alpha=4.0)
    by_name = edit(model, tokenizer, ONE, UNRELATED, named)
    by_value = edit(model, tokenizer, ONE, UNRELATED, quick, editor=editors.lora(2, 4.0))
    assert by_name.info.settings == by_value.info.settings
    assert by_name.info.settings["method"] == "lora"
    assert parameter_hash(by_name.params) == parameter_hash(by_value.params)


def test_an_edit_needs_no_unrelated_rows(tiny_model):
    model, tokenizer = tiny_model()
    quick = dataclasses.replace(FAST, epochs=1)
    question = neutral_rows()[0].prompt
    asked = EditRecord(ONE[0].prompt, "river", rephrase=question, subject="Norland")
    plugin = edit(model, tokenizer, [asked], settings=quick)
    given = [row for row in neutral_rows() if row.prompt != question]
    other = edit(model, tokenizer, [asked], given, quick)
    assert plugin.info.unrelated == other.info.unrelated
    assert parameter_hash(plugin.params) == parameter_hash(other.params)


def test_an_editor_that_does_not_fit_is_refused_before_or_after_it_ran(tiny_model):
    model, tokenizer = tiny_model()
    with pytest.raises(InputError, match="editor 'grace' keeps its edits in a memory beside"):
        edit(model, tokenizer, ONE, UNRELATED, FAST, editor=editors.grace(0))

    def half(state, params, config, inputs):
        return EditorResult(jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params))

    with pytest.raises(InputError, match="editor 'half': its result has parameters of another"):
        edit(model, tokenizer, ONE, UNRELATED, FAST, editor=Editor("half", half))
