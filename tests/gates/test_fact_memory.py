"""The scope memory: which texts can concern an edit."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax.data.records import EditRecord
from onceedit_jax.gates.calibration import reach_evidence, reach_threshold
from onceedit_jax.gates.fact_memory import NOTHING, fit_memory, reach, weigh
from onceedit_jax.gates.fact_memory import reaches as reaches_of_words
from onceedit_jax.gates.types import EDIT, UNRELATED, GateFeatures
from onceedit_jax.gates.words import edit_keys, word_ids
from onceedit_jax.text.words import names, word_id, words


def scope_memory(records, others):
    """The memory of edits, with other texts that were trained on."""
    texts = [record.prompt for record in records] + list(others)
    own = edit_keys(records)
    keys = np.full((len(texts), own.shape[1]), NOTHING, np.int32)
    keys[: len(records)] = own
    labels = np.array([EDIT] * len(records) + [UNRELATED] * len(others), np.int32)
    held_out = np.zeros(len(texts), bool)
    return fit_memory(GateFeatures(word_ids(texts), keys=keys, held_out=held_out), labels)


def reaches(memory, texts):
    return reaches_of_words(memory, word_ids(texts))


RECORDS = [
    EditRecord("Which voice is Lola Beeth?", "bass", subject="Lola Beeth"),
    EditRecord("Which constellation is HD 180902 in?", "Leo", subject="HD 180902"),
    EditRecord("Who wrote the play of two lovers?", "Marlowe"),
    EditRecord("Who painted the Mona Lisa?", "Rubens"),
]
OTHERS = ["who sang it must have been love", "Where is the play set?", "Who wrote the song?"] * 3
MEMORY = scope_memory(RECORDS, OTHERS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What was LOLA BEETH's vocal range?", 1.0),
        ("In the sky, where's HD-180902?", 1.0),
        ("Who wrote the play of two lovers?", 1.0),
        ("By whom is the Mona Lisa?", 1.0),
        ("types in winter", 0.0),
        ("", 0.0),
        ("...", 0.0),
    ],
)
def test_a_text_reaches_an_edit_by_the_words_of_its_subject(text, expected):
    assert reaches(MEMORY, [text])[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("Who is the president of the US?", "United States"),
        ("서울은 어느 나라의 수도입니까", "서울"),
    ],
)
def test_an_edits_own_prompt_is_in_reach_whatever_its_subject(prompt, subject):
    memory = scope_memory([EditRecord(prompt, "x", subject=subject)], OTHERS)
    assert reaches(memory, [prompt, "Who wrote the song?"]).tolist() == [1.0, 0.0]


def test_rare_words_weigh_more_than_common_ones():
    rare, common = reaches(MEMORY, ["of two lovers", "who wrote the play"])
    assert 0 < common < 0.5 < rare < 1


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Which team is Noyan Öz a member of?", "Noyan Öz"),
        ("What year was Panzer 58 made?", "Panzer 58"),
        ("which is the largest planet?", ""),
        ("東京はどこですか", ""),
        ("", ""),
    ],
)
def test_names_are_what_a_prompt_without_a_subject_is_about(prompt, found):
    assert names(prompt) == found


def test_reach_equals_a_plain_statement_of_it():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 12, (5, 4)).astype(np.int32)
    keys[:, 3] = NOTHING
    weights = rng.random((5, 4)).astype(np.float32)
    texts = rng.integers(0, 12, (9, 6)).astype(np.int32)
    texts[:, 5] = NOTHING
    expected = [
        max(
            sum(w for k, w in zip(key, value, strict=True) if k != NOTHING and k in text)
            for key, value in zip(keys.tolist(), weights.tolist(), strict=True)
        )
        for text in texts.tolist()
    ]
    np.testing.assert_allclose(reach({"words": keys, "weights": weights}, texts), expected, 1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.text(max_size=20))
def test_reach_is_a_share_and_more_text_never_lowers_it(texts, more):
    found = reaches(MEMORY, texts)
    assert ((found >= 0) & (found <= 1 + 1e-6)).all()
    longer = reaches(MEMORY, [f"{text} {more}" for text in texts])
    assert (longer >= found - 1e-6).all()


def test_many_texts_are_asked_in_order():
    texts = ["Lola Beeth" if i % 3 == 0 else "nothing" for i in range(150)]
    np.testing.assert_allclose(reaches(MEMORY, texts), [i % 3 == 0 for i in range(150)], atol=1e-6)
    assert reaches(MEMORY, []).shape == (0,)


def test_an_edit_without_a_word_reaches_nothing():
    memory = scope_memory([EditRecord("???", "!", subject="***")], [])
    assert reaches(memory, ["???", "any text"]).tolist() == [0, 0]


def test_words_are_the_same_whatever_their_case_and_encoding():
    assert words("Caf\u00e9, HD 180902's") == words("CAFE\u0301 hd-180902 S") != []
    assert words("東京 Tower") == ["東", "京", "tower"]
    assert word_id("beeth") == 1863223378 and 0 <= word_id("") < 2**31


def test_the_line_is_halfway_from_unrelated_texts_to_a_whole_key():
    assert reach_threshold([0.4] * 20) == pytest.approx(0.7)
    assert reach_threshold([]) == pytest.approx(0.5)


def test_a_whole_key_is_in_reach_even_where_every_unrelated_row_holds_one():
    names = ("Her", *(f"Lord {' '.join('XVIII'[: n % 6])} of {n}" for n in range(40)))
    records = [EditRecord(f"Who is {name}?", "x", subject=name) for name in names]
    memory = scope_memory(records, ["Her again"] * 40)
    assert reaches(memory, [record.prompt for record in records]).min() < 1  # by rounding
    threshold = reach_threshold(reaches(memory, ["Who saw her?"] * 20))
    assert (reaches(memory, [record.prompt for record in records]) >= threshold).all()


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_both_witnesses_together_are_bayes_rule(prior, hit, false_alarm):
    """[WEIGHT] says how likely an edit is; being in reach multiplies the odds by hit over alarm."""
    logit = np.log(prior / (1 - prior))
    alpha = weigh(jnp.float32(logit), jnp.array(True), float(np.log(hit / false_alarm)))
    expected = prior * hit / (prior * hit + (1 - prior) * false_alarm)
    np.testing.assert_allclose(alpha, expected, rtol=1e-4)


def test_the_evidence_of_reach_is_a_smoothed_likelihood_ratio():
    assert reach_evidence([True] * 10, [False] * 20) == pytest.approx(
        np.log((10.5 / 11) / (0.5 / 21)), abs=1e-5
    )
    assert reach_evidence([True], [True]) == 0
    assert np.isfinite(reach_evidence([True], []))
