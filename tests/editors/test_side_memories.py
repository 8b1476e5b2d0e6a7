"""GRACE and WISE: what their papers define, and each on a tiny model."""

import jax.numpy as jnp
import numpy as np
from baseline_cases import LOCATED, TEXTS, running, says, token_batch
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editors.codebook import (
    Codebook,
    GRACESettings,
    distances,
    empty_codebook,
    grace_codebook,
    grace_states,
    lookup,
)
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.editors.side_memory import (
    SideMemory,
    WISESettings,
    activation,
    margin_loss,
    wise_memory,
    wise_states,
)


def test_a_codebook_answers_inside_its_radius_and_nowhere_else():
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(3, 4)), rng.normal(size=(3, 2))
    book = Codebook(
        *(jnp.asarray(a, jnp.float32) for a in (keys, values)), jnp.array([0.5, 0.1, -1.0])
    )
    step = rng.normal(size=4)
    step /= np.linalg.norm(step)
    # In the first key's radius, outside of the second's, and where the third has not been written.
    queries = np.stack([keys[0] + 0.4 * step, keys[1] + 0.2 * step, keys[2]])
    key = jnp.zeros((3, 5, 4)).at[:, 2].set(jnp.asarray(queries, jnp.float32))
    output = jnp.asarray(rng.normal(size=(3, 5, 2)), jnp.float32)
    wanted_gaps = np.linalg.norm(queries[:, None] - keys[None, :2], axis=-1)
    np.testing.assert_allclose(distances(book, key[:, 2])[:, :2], wanted_gaps, rtol=1e-5)
    assert np.all(np.isinf(distances(book, key[:, 2])[:, 2]))
    found = np.asarray(lookup(book, jnp.full(3, 2))(key, output))
    np.testing.assert_array_equal(found[0, 2], book.values[0])
    np.testing.assert_array_equal(np.delete(found[0], 2, 0), np.delete(output[0], 2, 0))
    np.testing.assert_array_equal(found[1:], output[1:])


def test_grace_makes_its_edits_the_argmax_and_nothing_else_changes(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = target_rows(LOCATED, tokenizer, batch_size=1)
    settings = GRACESettings(0, radius=0.01, steps=60, learning_rate=0.5)
    book = grace_codebook(model.params, model.config, edits, settings)
    assert np.all(book.radii == np.float32(0.01))

    def states(rows, book):
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        return grace_states(model.params, model.config, *place, book, 0)

    empty = empty_codebook(model.config, len(edits))
    together = target_rows(LOCATED, tokenizer, batch_size=3)[0]
    assert not says(model.config, states(together, empty), model.params, together).any()
    assert says(model.config, states(together, book), model.params, together).all()
    other = [EditRecord(text, "Ada") for text in TEXTS]
    rows = target_rows(other, tokenizer, batch_size=3)[0]
    np.testing.assert_array_equal(states(rows, book), states(rows, empty))
    plain = running(model.params, model.config, rows.tokens, rows.positions)[0]
    np.testing.assert_allclose(states(rows, book), plain, atol=1e-5)


def test_grace_widens_a_key_of_the_same_target_and_halves_the_way_to_another(tiny_model):
    model, tokenizer = tiny_model()
    first = EditRecord("What is the capital of Norland?", "Ada")
    again = EditRecord("What is the capital of Vinterby?", "Ada")
    other = EditRecord("What is the capital of Vinterby?", "Sol")

    def book(*records):
        edits = target_rows(records, tokenizer, batch_size=1)
        return written(edits, 1e3)

    def written(edits, radius):
        settings = GRACESettings(0, radius=radius, steps=1)
        return grace_codebook(model.params, model.config, edits, settings)

    keys = [book(record).keys[0] for record in (first, again)]
    gap = float(jnp.linalg.norm(keys[0] - keys[1]))
    assert book(first, again).radii.tolist() == [1e3, -1.0]
    np.testing.assert_allclose(book(first, other).radii, [gap / 2, gap / 2], rtol=1e-4)
    edits = target_rows((first, again), tokenizer, batch_size=1)
    np.testing.assert_allclose(written(edits, 0.6 * gap).radii, [1.001 * gap, -1.0], rtol=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_a_side_memorys_activation_and_hinges_are_the_papers(seed):
    rng = np.random.default_rng(seed)
    key, change = rng.normal(size=(2, 4, 6)), rng.normal(size=(6, 3))
    columns = np.array([1, 3])
    prompts = [key[i, : last + 1] for i, last in enumerate(columns)]
    wanted = np.array([np.mean(np.linalg.norm(k @ change, axis=-1)) for k in prompts])
    arrays = (jnp.asarray(a, jnp.float32) for a in (key, change))
    np.testing.assert_allclose(activation(*arrays, jnp.asarray(columns)), wanted, rtol=1e-5)
    settings = WISESettings(0, quiet=1.0, loud=6.0, margin=4.0)
    edits, others = rng.uniform(0, 10, 5), rng.uniform(0, 10, 5)
    hinges = [
        max(0, o - 1.0) + max(0, 6.0 - e) + max(0, 4.0 - (e - o))
        for e, o in zip(edits, others, strict=True)
    ]
    arrays = (jnp.asarray(a, jnp.float32) for a in (edits, others))
    np.testing.assert_allclose(margin_loss(*arrays, settings), hinges, rtol=1e-4, atol=1e-5)


def test_wise_makes_its_edits_the_argmax_and_leaves_unrelated_texts_alone(tiny_model):
    model, tokenizer = tiny_model(80)
    params, config = model.params, model.config
    batches = target_rows(LOCATED, tokenizer, batch_size=2)
    unrelated = token_batch(model, tokenizer, TEXTS[:2])
    settings = WISESettings(1, learning_rate=2e-2, epochs=80, quiet=1.0, loud=4.0, margin=3.0)
    memory = wise_memory(params, config, batches, [unrelated], settings)
    nothing = SideMemory(memory.down, jnp.asarray(jnp.inf))

    def states(tokens, positions, columns, memory):
        return wise_states(params, config, tokens, positions, columns, memory, 1)

    for rows in batches:
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        assert not says(config, states(*place, nothing), params, rows)[0]
        assert says(config, states(*place, memory), params, rows).all()
    tokens, positions = unrelated
    place = tokens, positions, jnp.argmax(positions, axis=1)
    np.testing.assert_array_equal(states(*place, memory), states(*place, nothing))
    np.testing.assert_allclose(
        states(*place, nothing), running(params, config, *unrelated)[0], atol=1e-5
    )
