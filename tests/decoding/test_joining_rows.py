"""Rows that come and go have the states that they have alone, whatever their neighbours do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax.decoding import joining_rows
from onceedit_jax.decoding.joining_rows import Fresh, JoiningRows
from onceedit_jax.decoding.prefix_batching import states_after


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()[0]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Caches that are soon too small."""
    monkeypatch.setattr(joining_rows, "NARROWEST", 8)
    monkeypatch.setattr(joining_rows, "SHORTEST", 16)


def alone(model, texts):
    return states_after(model.params, model.config, texts)


def same(found, model, texts):
    np.testing.assert_allclose(found, alone(model, texts), atol=2e-5)


def text(seed, length):
    return np.random.default_rng(seed).integers(1, 200, length).tolist()


def test_rows_join_and_advance(model):
    rows = JoiningRows(model.params, model.config, largest=4, context=60)
    one, two = text(1, 5), text(2, 9)
    (place,), states = rows.join([one], [2])
    same(states[0, :2], model, [one[:4], one])
    (other,), states = rows.join([two], [1])
    assert place != other
    same(states[:1, 0], model, [two])
    states = rows.advance({place: Fresh(5, [7]), other: Fresh(9, [8])})
    same(np.asarray(states)[[place, other], 0], model, [[*one, 7], [*two, 8]])


def test_a_row_is_cut_back_and_goes_on_otherwise(model):
    rows = JoiningRows(model.params, model.config, largest=2, context=60)
    base = text(3, 6)
    (place,), _ = rows.join([base], [1])
    rows.advance({place: Fresh(6, [5, 6, 7], 3)})
    states = rows.advance({place: Fresh(7, [9, 4], 2)})
    whole = [*base, 5, 9, 4]
    same(states[place, :2], model, [whole[:-1], whole])


def test_a_place_is_taken_again(model):
    rows = JoiningRows(model.params, model.config, largest=2, context=60)
    (first, second), _ = rows.join([text(1, 4), text(2, 4)], [1, 1])
    rows.leave(first)
    assert rows.free == 1
    new = text(5, 3)
    (place,), _ = rows.join([new], [1])
    assert place == first
    states = rows.advance({place: Fresh(3, [2]), second: Fresh(4, [3])})
    same(np.asarray(states)[[place, second], 0], model, [[*new, 2], [*text(2, 4), 3]])


def test_what_is_only_read_leaves_no_trace(model):
    rows = JoiningRows(model.params, model.config, largest=4, context=60)
    one, two = text(1, 9), text(2, 6)
    (first, second), states = rows.join([one, two], [4, 1], kept=[6, 6], columns=8)
    assert states.shape[1] == 8
    same(states[0, :4], model, [one[:6], one[:7], one[:8], one])
    same(states[1, :1], model, [two])
    assert rows.lengths == {first: 6, second: 6}
    states = rows.advance({first: Fresh(6, [5]), second: Fresh(6, [5])})
    same(np.asarray(states)[[first, second], 0], model, [[*one[:6], 5], [*two, 5]])


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "step", "narrow"]),
                          st.integers(0, 99)), min_size=4, max_size=14))  # fmt: skip
def test_any_history_leaves_every_row_as_if_it_were_alone(model, history):
    rows = JoiningRows(model.params, model.config, largest=4, context=60)
    texts: dict[int, list[int]] = {}
    for kind, number in history:
        if kind == "join" and rows.free:
            new = text(number, 1 + number % 12)
            (place,), states = rows.join([new], [1])
            assert place not in texts
            texts[place] = new
            same(states[:1, 0], model, [new])
        elif kind == "narrow" and texts:
            moved = rows.narrow(rows.height_for(len(texts)))
            assert sorted(moved.values()) == list(range(len(texts)))
            texts = {moved[place]: row for place, row in texts.items()}
        elif kind == "leave" and texts:
            place = sorted(texts)[number % len(texts)]
            rows.leave(place)
            del texts[place]
        elif kind == "step" and texts:
            keep = {place: max(1, len(row) - number % 3) for place, row in texts.items()}
            fresh = {place: text(number + place, 1 + number % 2) for place in texts}
            states = rows.advance({p: Fresh(keep[p], fresh[p]) for p in texts})
            texts = {place: row[: keep[place]] + fresh[place] for place, row in texts.items()}
            order = sorted(texts)
            same(np.asarray(states)[order, 0], model, [texts[place] for place in order])


def test_a_cache_is_no_longer_than_rows_may_be_and_shrinks_again(model, monkeypatch):
    monkeypatch.setattr(joining_rows, "SPARE", 8)
    rows = JoiningRows(model.params, model.config, largest=2, context=60)
    long, short = text(1, 40), text(2, 5)
    (first,), _ = rows.join([long], [1])
    (second,), _ = rows.join([short], [1])
    for token in range(1, 21):
        rows.advance({first: Fresh(39 + token, [token])})
        assert rows.capacity <= 68
    rows.leave(first)
    for token in range(30):
        states = rows.advance({second: Fresh(len(short), [token + 1])})
        short.append(token + 1)
        same(np.asarray(states)[[second], 0], model, [short])
    assert rows.capacity < 68
