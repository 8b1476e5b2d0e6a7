"""The gate `fact`: the subject is named and the relation asked; edits do not meet one another."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax import gates
from onceedit_jax.errors import InputError
from onceedit_jax.gates.fact import edit_likeness, edit_meant, fact_with
from onceedit_jax.gates.fitting import fit_gate, score_prompts
from onceedit_jax.gates.relation_head import (
    LEAST,
    SHARPNESS,
    RelationHead,
    likeness,
    relation_vectors,
    unit,
)
from onceedit_jax.gates.types import EDIT, NOTHING, GateFeatures

SIZE, WIDTH, BANK = 6, 4, 5
# Products of matrices of another height are rounded otherwise in their last bits.
ROUNDING = {"rtol": 1e-5, "atol": 1e-7}


def head(seed=0, weights=(9.0, 0.5), bias=-4.0):
    rng = np.random.default_rng([seed, 5])
    return RelationHead(
        jnp.asarray(rng.normal(size=SIZE), jnp.float32),
        jnp.asarray(rng.uniform(0.5, 2, SIZE), jnp.float32),
        jnp.asarray(rng.normal(size=(SIZE, WIDTH)), jnp.float32),
        unit(jnp.asarray(rng.normal(size=(BANK, WIDTH)), jnp.float32)),
        jnp.array(weights, jnp.float32),
        jnp.float32(bias),
    )


def features(subjects, seed):
    subjects = np.array(subjects, np.int32)
    rng = np.random.default_rng([seed, 7])
    relation = rng.normal(size=(*subjects.shape, SIZE)).astype(np.float32)
    return GateFeatures(np.zeros((len(subjects), 1), np.int32), subjects, relation=relation)


def fitted(subjects, seed=1):
    own = [[subject, NOTHING] for subject in subjects]
    rows = features(own, seed)
    return fit_gate(fact_with(head()), rows, np.full(len(own), EDIT, np.int32))


def numpy_likeness(gate, asked):
    """[B, E], in float64."""
    h = RelationHead(*(np.asarray(part, np.float64) for part in gate.state["head"]))

    def vectors(states):
        projected = (np.asarray(states, np.float64) - h.mean) / h.scale @ h.projection
        return projected / np.linalg.norm(projected, axis=-1, keepdims=True)

    def near(vector):
        chances = np.exp(SHARPNESS * h.bank @ vector)
        return chances / chances.sum()

    keys = np.asarray(gate.state["keys"], np.float64)
    found = np.zeros((len(asked.subjects), len(keys)))
    for b, row in enumerate(asked.subjects):
        for m, subject in enumerate(row):
            for e, own in enumerate(np.asarray(gate.state["subjects"])):
                if subject == own and subject != NOTHING:
                    vector = vectors(asked.relation[b, m])
                    overlap = np.sqrt(near(vector) * near(keys[e])).sum()
                    logit = h.weights @ [vector @ keys[e], np.log(overlap + LEAST)] + h.bias
                    found[b, e] = max(found[b, e], 1 / (1 + np.exp(-logit)))
    return found


SUBJECTS = st.lists(st.integers(0, 3), min_size=1, max_size=6)
ASKED = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=5)


@given(SUBJECTS, ASKED, st.integers(0, 9))
def test_alpha_is_the_likeliest_edit_whose_subject_is_named(subjects, asked, seed):
    gate, asked = fitted(subjects), features(asked, seed)
    expected = numpy_likeness(gate, asked)
    np.testing.assert_allclose(edit_likeness(gate.state, asked), expected, atol=2e-5)
    verdicts = score_prompts(gate.gate, gate.state, asked)
    np.testing.assert_allclose(verdicts.alphas, expected.max(axis=1), atol=2e-5)
    named = (expected > 0).any(axis=1)
    assert (verdicts.edits[~named] == NOTHING).all()
    likely = expected[np.arange(len(expected)), verdicts.edits]
    np.testing.assert_allclose(likely[named], expected.max(axis=1)[named], atol=2e-5)


BITS = st.tuples(st.integers(0, 7), st.integers(0, 7)).map(lambda p: (p[0], p[0] | p[1]))


@given(SUBJECTS, ASKED, st.data(), st.integers(0, 9))
def test_alpha_is_0_where_a_prompt_and_an_edit_are_apart(subjects, asked, data, seed):
    gate, plain = fitted(subjects), features(asked, seed)
    own = data.draw(st.lists(BITS, min_size=len(subjects), max_size=len(subjects)))
    shape = (len(asked), 2, 2, 1)
    said = data.draw(st.lists(BITS, min_size=2 * len(asked), max_size=2 * len(asked)))
    state = {**gate.state, "qualifiers": np.array(own, np.int32)[..., None]}
    prompts = plain._replace(qualifiers=np.array(said, np.int32).reshape(shape))
    found = np.asarray(edit_likeness(state, prompts))
    for b, row in enumerate(np.asarray(plain.subjects)):
        for e, subject in enumerate(subjects):
            # Each mention alone: what it asks with has to be in what the edit mentions, and back.
            alone = [0.0]
            for m in np.flatnonzero(row == subject).tolist():
                (asks, mentions), (edit_asks, edit_mentions) = said[2 * b + m], own[e]
                if asks & ~edit_mentions == 0 and edit_asks & ~mentions == 0:
                    only = np.where(np.arange(2) == m, row, NOTHING)[None].astype(np.int32)
                    one = plain._replace(
                        words=plain.words[:1], subjects=only, relation=plain.relation[b : b + 1]
                    )
                    alone.append(float(edit_likeness(gate.state, one)[0, e]))
            np.testing.assert_allclose(found[b, e], max(alone), **ROUNDING)


@given(SUBJECTS, SUBJECTS, ASKED, st.integers(0, 9))
def test_more_edits_leave_every_edits_alpha_as_it_was(subjects, new, asked, seed):
    asked = features(asked, seed)
    before = np.asarray(edit_likeness(fitted(subjects).state, asked))
    # The states of edits are drawn row by row: those of the first ones stay.
    after = np.asarray(edit_likeness(fitted([*subjects, *new]).state, asked))
    np.testing.assert_allclose(after[:, : len(subjects)], before, **ROUNDING)


@given(SUBJECTS, SUBJECTS, ASKED, st.integers(0, 9))
def test_a_prompt_that_names_no_new_subject_keeps_its_verdict(subjects, new, asked, seed):
    asked = features(asked, seed)
    before, after = fitted(subjects), fitted([*subjects, *new])
    one = score_prompts(before.gate, before.state, asked)
    other = score_prompts(after.gate, after.state, asked)
    kept = ~np.isin(asked.subjects, new).any(axis=1)
    np.testing.assert_allclose(other.alphas[kept], one.alphas[kept], **ROUNDING)
    np.testing.assert_array_equal(other.edits[kept], one.edits[kept])


@given(SUBJECTS, ASKED, st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_order_of_edits_does_not_matter(subjects, asked, random, seed):
    asked, order = features(asked, seed), list(range(len(subjects)))
    random.shuffle(order)
    rows = features([[subject] for subject in subjects], 1)
    shuffled = GateFeatures(*(None if part is None else np.asarray(part)[order] for part in rows))
    labels = np.full(len(order), EDIT, np.int32)
    one, other = (fit_gate(fact_with(head()), part, labels) for part in (rows, shuffled))
    before, after = (np.asarray(edit_likeness(gate.state, asked)) for gate in (one, other))
    np.testing.assert_allclose(after, before[:, order], **ROUNDING)
    verdicts = score_prompts(other.gate, other.state, asked)
    np.testing.assert_allclose(verdicts.alphas, before.max(axis=1, initial=0), **ROUNDING)
    meant = np.array([NOTHING if n == NOTHING else order[n] for n in verdicts.edits.tolist()])
    named = score_prompts(one.gate, one.state, asked).edits != NOTHING
    np.testing.assert_array_equal(meant != NOTHING, named)
    # Which of two edits is likelier by a rounding may change with their places.
    likely = before[np.arange(len(before)), meant]
    np.testing.assert_allclose(likely[named], before.max(axis=1)[named], **ROUNDING)


def test_an_edits_own_prompt_opens_its_gate():
    gate = fitted([0, 0, 1])
    own = features([[0, NOTHING], [0, NOTHING], [1, NOTHING]], 1)
    verdicts = score_prompts(gate.gate, gate.state, own)
    assert verdicts.edits.tolist() == [0, 1, 2]
    assert (verdicts.alphas > gate.threshold).all()


def test_without_a_named_subject_nothing_is_read():
    gate, asked = fitted([0]), features([[NOTHING], [3]], 0)

    def read(chosen):
        assert chosen.tolist() == [1]
        return features([[3]], 0)

    verdicts = score_prompts(gate.gate, gate.state, asked._replace(relation=None), read)
    assert verdicts.alphas.tolist() == [0, 0] and verdicts.edits.tolist() == [NOTHING, NOTHING]


def test_the_gate_with_a_head_is_the_gate_without_one_and_only_this_cannot_be_fitted():
    assert fact_with(head()) == gates.fact() and gates.fact() is gates.fact()
    with pytest.raises(InputError, match="gate-train"):
        fit_gate(gates.fact(), features([[0]], 0), np.array([EDIT], np.int32))


def test_relation_vectors_have_length_one_and_a_text_is_likest_to_itself():
    states = np.random.default_rng(3).normal(size=(5, SIZE)).astype(np.float32)
    vectors = relation_vectors(head(), jnp.asarray(states))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    likely = np.asarray(likeness(head(), vectors, vectors))
    assert (likely.argmax(axis=1) == np.arange(5)).all()
    np.testing.assert_allclose(likely, likely.T, rtol=1e-4)
    assert (likely > 0).all() and (likely < 1).all()


def test_nothing_named_means_no_edit():
    gate = fitted([0])
    assert edit_meant(gate.state, features([[NOTHING, 2]], 0)).tolist() == [NOTHING]
