"""Relation heads: learnt on a tiny model, kept, found by the base's hash, and used by an edit."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from editing_cases import FAST, RECORDS, UNRELATED
from relation_cases import ASKED, BANK, QUICK, sharp_head

from onceedit_jax import gates
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing import relation_heads
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.explanation import explain
from onceedit_jax.editing.gate_training import learn_relation_head
from onceedit_jax.editing.head_settings import HeadSettings
from onceedit_jax.editing.relation_heads import (
    find_head,
    keep_head,
    known_relations,
    read_head,
    write_head,
)
from onceedit_jax.editing.relation_reading import subjects_of
from onceedit_jax.errors import InputError
from onceedit_jax.gates.fact import THRESHOLD
from onceedit_jax.gates.relation_head import likeness, relation_vectors
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.models.layout import stack_layers


@pytest.fixture(scope="module")
def learnt(tiny_model):
    model, tokenizer = tiny_model()
    return model, tokenizer, learn_relation_head(model, tokenizer, QUICK, bank=BANK)


@pytest.fixture(scope="module")
def plugin(learnt):
    model, tokenizer, _ = learnt
    head = sharp_head(model, tokenizer)
    return edit(model, tokenizer, RECORDS, UNRELATED, FAST, head=head)


def test_a_head_says_what_it_was_learnt_from(learnt):
    _, _, head = learnt
    assert head.relations == ASKED and head.layers == 1
    assert head.learnt["held_back"] == 5 and set(head.learnt["scores"]) == {
        "same relation open",
        "other relation shut",
    }
    np.testing.assert_allclose(np.linalg.norm(head.head.bank, axis=1), 1, rtol=1e-5)


def test_the_same_seed_learns_the_same_head(learnt):
    model, tokenizer, head = learnt
    again = learn_relation_head(model, tokenizer, QUICK, bank=BANK)
    for one, other in zip(head.head, again.head, strict=True):
        np.testing.assert_array_equal(one, other)


def test_too_few_relations_and_too_many_layers_are_refused(learnt):
    model, tokenizer, _ = learnt
    with pytest.raises(InputError, match="9 relations: a relation head needs ten"):
        learn_relation_head(model, tokenizer, QUICK, bank=BANK[:9])
    with pytest.raises(InputError, match="layers=99"):
        learn_relation_head(model, tokenizer, HeadSettings(layers=99), bank=BANK)


def test_a_kept_head_is_found_by_its_base(learnt, tmp_path, monkeypatch):
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))
    model, _, head = learnt
    assert find_head(model.content_hash) is None
    path = keep_head(head)
    found = find_head(model.content_hash)
    assert found.relations == head.relations and found.learnt == head.learnt
    np.testing.assert_allclose(found.head.projection, head.head.projection, atol=2e-3)
    path.write_bytes(b"no head")
    with pytest.raises(InputError, match="gate-train"):
        find_head(model.content_hash)


def test_a_head_of_another_model_is_refused(learnt, tiny_model, tmp_path):
    _, _, head = learnt
    path = tmp_path / "head.safetensors"
    write_head(head, path)
    model, tokenizer = tiny_model(80)
    with pytest.raises(InputError, match="relation head of another model"):
        edit(model, tokenizer, RECORDS, UNRELATED, FAST, head=read_head(path))


def test_an_edit_with_a_head_has_the_gate_fact(plugin):
    assert plugin.default_gate == gates.fact()
    verdicts = plugin.verdicts([record.prompt for record in RECORDS])
    assert verdicts.edits.tolist() == [0, 1, 2]
    assert (verdicts.alphas > plugin.fitted(gates.fact()).threshold).all()
    elsewhere = plugin.verdicts(["Who wrote it?", "What is the capital of Sudland?"])
    assert elsewhere.alphas.tolist() == [0, 0] and elsewhere.edits.tolist() == [NOTHING] * 2


def test_a_saved_plugin_gates_as_before_whatever_the_edit_changed(plugin, learnt, tmp_path):
    model, _, _ = learnt
    prompts = [RECORDS[0].prompt, RECORDS[0].rephrase, "What is the size of Norland?"]
    again = EditedPlugin.load(plugin.save(tmp_path / "plugin"))
    np.testing.assert_allclose(again.alphas(prompts), plugin.alphas(prompts), atol=1e-6)
    # Full fine-tuning changes the lower layers: those of the base are kept beside it.
    assert "base" in plugin.relation
    lower, _ = plugin._lower_layers()
    base = stack_layers(model.params)["layers"]["attention"]["wq"][:1]
    np.testing.assert_array_equal(lower["layers"]["attention"]["wq"], base)


def test_an_edit_of_upper_layers_keeps_no_copy_of_the_base(learnt):
    model, tokenizer, head = learnt
    settings = dataclasses.replace(FAST, method="last-n-layers", last_layers=1, epochs=2)
    edited = edit(model, tokenizer, RECORDS, UNRELATED, settings, head=head)
    assert "base" not in edited.relation


def test_findings_name_the_subject_as_the_prompt_writes_it(plugin):
    ((finding, *rest),) = explain(plugin, ["what is the capital of NORLAND"])
    assert (finding.edit, finding.name, rest) == (0, "NORLAND", [])
    assert explain(plugin, ["Where?"]) == [[]] and explain(plugin, []) == []


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("What was the capital of Norland in 1950?", "1950"),
        ("What was the previous capital of Norland?", "previous"),
        ("What is the capital of the founder of Norland?", "maker"),
    ],
)
def test_a_question_for_another_fact_of_the_kind_is_shut(plugin, prompt, word):
    verdicts = plugin.verdicts([prompt])
    assert verdicts.alphas.tolist() == [0] and verdicts.edits.tolist() == [NOTHING]
    ((finding,),) = explain(plugin, [prompt])
    assert finding.likeness == 0 and finding.apart == {word}


def test_no_wording_without_the_qualifier_of_an_edit_is_taken_for_it(learnt, plugin, monkeypatch):
    _, _, head = learnt
    reader, plain = plugin.reader.relations, RECORDS[0]
    previous = dataclasses.replace(plain, prompt="What was the previous capital of Norland?")
    monkeypatch.setattr(relation_heads, "KNOWN", 0.0)
    monkeypatch.setattr(relation_heads, "THRESHOLD", 0.0)
    assert head.bank_relations(reader, [plain]) != [None]
    assert head.bank_relations(reader, [previous]) == [None]
    texts = [plain.prompt, previous.prompt]
    assert head.asking_the_same(reader, [plain, previous], [texts, texts]) == [
        texts[:1],
        texts[1:],
    ]


def test_without_a_head_the_gate_is_both_and_fact_says_why(learnt, monkeypatch, tmp_path):
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))
    model, tokenizer, _ = learnt
    edited = edit(model, tokenizer, RECORDS, UNRELATED, dataclasses.replace(FAST, epochs=1))
    assert edited.default_gate == gates.both() and edited.relation is None
    with pytest.raises(InputError, match="gate-train"):
        edited.alphas(["Who?"], gates.fact())
    with pytest.raises(InputError, match="gate-train"):
        explain(edited, ["Who?"])


def head_says(head, reader, record, text):
    """Whether the gate `fact` would open for a text about the record's subject."""
    one, other = (
        reader.read([each.replace("Norland", "it").replace("norland", "it")])
        for each in (text, record.prompt)
    )
    vectors = [relation_vectors(head.head, jnp.asarray(states)) for states in (one, other)]
    return float(likeness(head.head, *vectors)[0, 0]) >= THRESHOLD


def test_an_edit_is_matched_to_a_relation_of_the_bank(learnt, monkeypatch):
    model, tokenizer, _ = learnt
    monkeypatch.setattr("onceedit_jax.editing.relation_heads.relation_bank", lambda: BANK)
    head = sharp_head(model, tokenizer)
    records = [
        EditRecord(f"What is the {name} of Norland?", "Ask", subject="Norland") for name in ASKED
    ]
    found = head.bank_relations(head.reader(model, tokenizer), records)
    known = [(relation.name, name) for relation, name in zip(found, ASKED, strict=True) if relation]
    assert known and all(one == other for one, other in known)


def test_wordings_that_ask_for_something_else_are_left_out(learnt):
    model, tokenizer, _ = learnt
    head = sharp_head(model, tokenizer)
    records = [
        EditRecord(f"What is the {name} of Norland?", "Ask", subject="Norland")
        for name in ASKED[:3]
    ]
    wordings = [
        [records[0].prompt, records[1].prompt],
        [],
        ["Which writer does Norland have?", records[0].prompt, records[2].prompt.lower()],
    ]
    reader = head.reader(model, tokenizer)
    kept = head.asking_the_same(reader, records, wordings)
    assert records[0].prompt in kept[0] and kept[1] == []
    asked = [
        [text for text in texts if head_says(head, reader, record, text)]
        for record, texts in zip(records, wordings, strict=True)
    ]
    assert kept == asked != wordings
    assert head.asking_the_same(reader, records, [[], [], []]) == [[], [], []]


def test_the_relations_of_an_edited_plugin_are_read_with_its_head(
    plugin, learnt, monkeypatch, tmp_path
):
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))
    monkeypatch.setattr("onceedit_jax.editing.relation_heads.relation_bank", lambda: BANK)
    model, tokenizer, _ = learnt
    nothing = [None] * len(RECORDS)
    assert known_relations(plugin) == nothing
    head = sharp_head(model, tokenizer)
    keep_head(head)
    found = known_relations(plugin)
    assert found == head.bank_relations(plugin.reader.relations, RECORDS) != nothing
    # A head that reads other layers cannot read these states.
    keep_head(dataclasses.replace(head, layers=2))
    assert known_relations(plugin) == nothing


@pytest.mark.parametrize(
    ("record", "called"),
    [
        (EditRecord("Who leads Norland?", "Ada", subject="Norland"), "norland"),
        (EditRecord("Who leads the US?", "Ada", subject="United States"), "who leads the us"),
        (EditRecord("Who leads NL?", "A", subject="Norland", aliases=("NL",)), "is NL big?"),
        (EditRecord("who leads it", "Ada"), "tell me who leads it"),
    ],
)
def test_an_edits_own_prompt_names_its_subject(record, called):
    subjects = subjects_of([record])
    assert [mention.subject for mention in subjects.find(record.prompt)] == [0]
    assert [mention.subject for mention in subjects.find(called)] == [0]
