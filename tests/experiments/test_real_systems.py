"""Systems that are asked real facts: which prompts an edit reaches, and what is left of others."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baseline_cases import LOCATED, TEXTS
from editing_cases import FAST, RECORDS, UNRELATED

from experiments import realworld_rivals
from experiments.framework.abilities import abilities
from experiments.framework.probe_tables import by_fact
from experiments.framework.systems import (
    Alone,
    System,
    check_system,
    edited_alone,
    fused,
    remembering,
)
from onceedit_jax import fusion, gates
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.editor import EditorResult
from onceedit_jax.editors.codebook import Codebook, empty_codebook, grace_codebook
from onceedit_jax.editors.registry import editor_by_name
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.editors.side_memory import SideMemory
from onceedit_jax.ensemble import Ensemble, Target
from onceedit_jax.evaluation.probes import Probe
from onceedit_jax.models.parameters import init_params

PROMPTS = [record.prompt for record in LOCATED]


@pytest.fixture
def alone(tiny_model):
    """A tiny target before any edit."""
    target = Target(*tiny_model(80))
    return Alone(target, target.model.params)


@pytest.fixture(scope="module")
def edited_tiny(tiny_model):
    """A tiny plug-in with its edits."""
    return edit(*tiny_model(), RECORDS, UNRELATED, FAST)


def other_params(alone):
    return init_params(alone.target.model.config, jax.random.key(7))


def never(prompts):
    return np.zeros(len(prompts), bool)


def test_a_prompt_is_asked_once_and_for_each_length():
    asked = []

    def write(prompts, length):
        asked.append((list(prompts), length))
        return [f"{prompt}{length}" for prompt in prompts]

    answers = remembering(write)
    assert answers(["bb", "a", "bb"], 2) == ["bb2", "a2", "bb2"]
    assert answers(["bb", "c"], 2) == ["bb2", "c2"]
    assert answers(["bb"], 3) == ["bb3"]
    assert asked == [(["a", "bb"], 2), (["c"], 2), (["bb"], 3)]


def test_only_what_counts_is_asked_and_an_edit_answers_only_where_it_reaches():
    asked = {"before": [], "after": []}

    def writer(which):
        def write(prompts, length):
            asked[which] += [(prompt, length) for prompt in prompts]
            return [which] * len(prompts)

        return write

    system = System("t", lambda prompts: np.array(["edit" in p for p in prompts]), writer("after"))
    probes = [
        Probe("Rel", 0, "edit?", "after"),
        Probe("Long", 0, "edit, please", "after"),
        Probe("Gen", 0, "other words", "after"),
        Probe("Same subject", 0, "edit: when?", "after", "unchanged"),
    ]
    found = check_system(system, SimpleNamespace(answers=writer("before")), probes)
    assert {name: column.value for name, column in found.columns.items()} == {
        "Rel": 1, "Long": 1, "Gen": 0, "Same subject": 0, "Same subject: intrusion": 1,
    }  # fmt: skip
    assert asked == {
        "before": [("other words", 20), ("edit: when?", 20)],
        "after": [("edit?", 20), ("edit: when?", 20), ("edit, please", 80)],
    }


def test_changed_parameters_reach_everything_and_move_perplexity(alone):
    system = edited_alone("full", alone, EditorResult(other_params(alone)))
    assert system.reaches(PROMPTS).all()
    found = abilities(system, alone, TEXTS)
    assert found["texts reached"] == len(TEXTS)
    assert found["perplexity after"] != found["perplexity before"]
    shut = abilities(replace(system, reaches=never), alone, TEXTS)
    assert shut["texts reached"] == 0
    assert shut["perplexity after"] == shut["perplexity before"] == found["perplexity before"]
    assert shut["facts after"] == shut["facts before"]


def test_a_side_memory_answers_as_the_model_with_its_matrix(alone):
    model = alone.target.model
    down = model.params["layers"]["mlp"]["down"][1]
    for threshold, reached in ((0.0, True), (jnp.inf, False)):
        memory = SideMemory(down + 0.5, jnp.asarray(threshold, jnp.float32))
        system = edited_alone("wise", alone, EditorResult(model.params, memory), layer=1)
        assert (system.reaches(PROMPTS) == reached).all()
        mlp = model.params["layers"]["mlp"]
        layers = {
            **model.params["layers"], "mlp": {**mlp, "down": mlp["down"].at[1].set(down + 0.5)}
        }  # fmt: skip
        plain = Alone(alone.target, {**model.params, "layers": layers})
        assert system.answers(PROMPTS, 5) == plain.answers(PROMPTS, 5) != alone.answers(PROMPTS, 5)


def test_a_codebook_writes_its_answers_token_by_token(alone):
    model, tokenizer = alone.target.model, alone.target.tokenizer
    editor = editor_by_name(
        "grace", {"layer": 0, "radius": 0.01, "steps": 60, "learning_rate": 0.5}
    )
    rows = target_rows(LOCATED, tokenizer, batch_size=1)
    book = grace_codebook(model.params, model.config, rows, editor.settings)

    def with_book(book: Codebook) -> System:
        result = EditorResult(model.params, book)
        return edited_alone("grace", alone, result, layer=0, read=editor.read)

    system = with_book(book)
    assert system.reaches([*PROMPTS, *TEXTS]).tolist() == [True] * len(PROMPTS) + [False] * len(
        TEXTS
    )
    for record, answer in zip(LOCATED, system.answers(PROMPTS, 8), strict=True):
        assert answer.startswith(record.target)
    # Without an entry the model writes as it does with its cache.
    empty = with_book(empty_codebook(model.config, 2))
    assert empty.answers(PROMPTS, 8) == alone.answers(PROMPTS, 8)
    assert not empty.reaches(PROMPTS).any()


def test_a_fused_system_has_no_perplexity_where_it_is_reached(tiny_model, edited_tiny):
    target = Target(*tiny_model(80, 1))
    alone = Alone(target, target.model.params)
    for gate, after in ((gates.fixed(1.0), None), (gates.fixed(0.0), "before")):
        ensemble = Ensemble(edited_tiny, [target], rule=fusion.draft(), gate=gate, chat=False)
        system = fused(ensemble, 0)
        found = abilities(system, alone, TEXTS)
        assert found["perplexity after"] == (after and found[f"perplexity {after}"])
        assert system.answers(PROMPTS, 6) == ensemble.answers(PROMPTS, max_new_tokens=6)[0]


def result_of(value, target):
    """What a cell measured: every column has one value."""
    probes = [Probe(name, 0, name, "x") for name in ("Rel", "Gen", "form: a", "form: b")]
    system = System(target, lambda p: np.ones(len(p), bool), lambda p, n: [value] * len(p))
    checked = check_system(system, SimpleNamespace(answers=system.answers), probes)
    names = ("perplexity before", "perplexity after", "texts reached", "facts before")
    kept = {**dict.fromkeys(names, 1.0), "facts after": 0.5}
    budget = {"method": "full", "target": target, "seconds": 2.0, "preparation": 0.0}
    return {
        "methods": {"full": {target: by_fact(checked)}},
        "abilities": {"full": {target: kept}},
        "budget": [{**budget, "effort": "3 epochs", "parameters": 7}],
    }


def test_the_cells_of_a_draw_are_shown_together_by_the_worse_target():
    results = {
        "5 facts, draw 0: full, a": result_of("x", "a"),
        "5 facts, draw 0: full, b": result_of("y", "b"),
    }
    made = realworld_rivals.tables(realworld_rivals.RivalsSetup(), results)
    by_name = {table.name: table.rows for table in made}
    ((label, method, rel, *_),) = by_name["columns"]
    assert (label, method, rel[:5]) == ("5 facts", "full", "0.000")
    assert [row[1:4] for row in by_name["targets"]] == [["a", "full", 1], ["b", "full", 0]]
    assert [row[3:] for row in by_name["abilities"]] == [[1, 1, 1, 1, 0.5]] * 2
    assert [row[3:] for row in by_name["budget"]] == [[2, 0, "3 epochs", 7]] * 2
