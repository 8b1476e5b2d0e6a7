"""Editors by name: every one runs, and what a name or a setting has to be."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baseline_cases import LOCATED, TEXTS

from onceedit_jax import editors
from onceedit_jax.editing.editor import Editor, EditorResult, editor_inputs, run_editor
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.tuning import editor_of
from onceedit_jax.editors import registry
from onceedit_jax.editors.codebook import GRACESettings
from onceedit_jax.editors.ftl import FTLSettings
from onceedit_jax.editors.multi_layer import AlphaEditSettings, MEMITSettings
from onceedit_jax.editors.registry import EDITORS, editor_by_name
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.editors.side_memory import WISESettings
from onceedit_jax.editors.values import ValueSettings
from onceedit_jax.errors import InputError

OPTIONS = {
    "full": {},
    "lora": {"rank": 2},
    "last-n-layers": {"count": 1},
    "adapter": {"layers": 1},
    "ft-l": {"layer": 1, "epochs": 1},
    "rome": {"layer": 0, "steps": 1},
    "memit": {"layers": [1, 0], "steps": 1, "moment_weight": 0.1},
    "alphaedit": {"layers": [1], "steps": 1, "threshold": 1e-5},
    "grace": {"layer": 0, "steps": 1},
    "wise": {"layer": 1, "epochs": 1},
}


def test_every_registered_editor_is_tested_here():
    assert OPTIONS.keys() == EDITORS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_editor_changes_what_the_model_says_and_nothing_that_it_was_given(tiny_model, name):
    model, tokenizer = tiny_model(80)
    editor = editor_by_name(name, OPTIONS[name])
    assert editor is editor_by_name(name, OPTIONS[name])  # equal settings, one value
    assert editor.describe()["name"] == editor.name == name
    before = jax.tree.map(np.array, model.params)
    settings = EditSettings(epochs=1, learning_rate=1e-2)
    inputs = editor_inputs(LOCATED, tokenizer, settings, texts=TEXTS, unrelated=TEXTS)
    result = run_editor(editor, model.params, model.config, inputs)
    jax.tree.map(np.testing.assert_array_equal, before, model.params)
    shapes = [jax.tree.map(jnp.shape, params) for params in (before, result.params)]
    assert shapes[0] == shapes[1]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    same = all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(result.params), strict=True)
    )
    assert same == (editor.read is not None or editor.apart)
    assert editor.apart == (result.adapters is not None)
    if editor.read is not None:
        rows = target_rows(LOCATED, tokenizer, batch_size=4)[0]
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        read = jax.jit(editor.read, static_argnums=2)
        states = read(result.state, result.params, model.config, *place)
        assert states.shape == (*rows.tokens.shape, model.config.hidden_size)
        assert jnp.isfinite(states).all()


def test_settings_name_the_editor_that_trains():
    chosen = EditSettings(method="lora", lora_rank=3, lora_alpha=6.0)
    assert editor_of(chosen) is editors.lora(3, alpha=6.0)
    assert editor_of(EditSettings()) is editors.last_layers()
    assert editor_of(EditSettings(method="full")) is editors.full()
    chosen = EditSettings(method="last-n-layers", last_layers=2)
    assert editor_of(chosen) is editors.last_layers(count=2)


def test_a_name_or_setting_that_there_is_not_is_refused():
    with pytest.raises(InputError, match=r"editor 'mend': expected one of full, lora, .*wise"):
        editor_by_name("mend")
    with pytest.raises(InputError, match=r"editor lora: no setting radius; .* rank, alpha"):
        editor_by_name("lora", {"radius": 1})
    with pytest.raises(InputError, match="editor full: no setting rank; it has no settings"):
        editor_by_name("full", {"rank": 1})
    with pytest.raises(InputError, match="editor ft-l: setting layer is missing"):
        editor_by_name("ft-l", {"epochs": 3})


def test_an_installed_package_adds_a_name(monkeypatch):
    def update(state, params, config, inputs):
        return EditorResult(params)

    own = Editor("own", update)
    values = {"own": own, "made": lambda size: Editor("made", update, settings=size)}

    def entry_points(group, name=None):
        assert group == "onceedit_jax.editors"
        points = [SimpleNamespace(name=key, load=lambda v=v: v) for key, v in values.items()]
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert editor_by_name("own") is own
    assert editor_by_name("made", {"size": 3}).settings == 3
    with pytest.raises(InputError, match="wise, made, own"):
        editor_by_name("other")


def test_a_method_says_what_it_lacks(tiny_model):
    model, tokenizer = tiny_model(80)
    inputs = editor_inputs(LOCATED, tokenizer)
    for editor, expected in (
        (editors.memit(layers=(0,)), "no texts to take statistics"),
        (editors.wise(0), "wise: no unrelated prompts"),
    ):
        with pytest.raises(InputError, match=expected):
            run_editor(editor, model.params, model.config, inputs)
    with pytest.raises(InputError, match=r"setting layers=\(\): expected at least one"):
        editors.memit(layers=())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FTLSettings, {"layer": 0, "bound": 0}),
        (GRACESettings, {"layer": 0, "radius": -1}),
        (WISESettings, {"layer": 0, "share": 0}),
        (ValueSettings, {"steps": 0}),
        (ValueSettings, {"kl_weight": -1}),
        (MEMITSettings, {"layers": (0,), "moment_weight": 0}),
        (AlphaEditSettings, {"layers": (0,), "ridge": 0}),
    ],
)
def test_settings_that_cannot_edit_are_refused(kind, wrong):
    with pytest.raises(InputError, match=f"setting {list(wrong)[-1]}="):
        kind(**wrong)
