"""The experiment on the gate `fact` alone, on alphas whose shares and areas are known."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from experiments import fact_gate
from experiments.framework.datasets import rephrase_kinds
from experiments.framework.gate_rows import alphas_of, ask, once_more, shares_by_gate
from experiments.framework.known_relations import is_worded
from experiments.framework.separation import (
    area,
    calibration_error,
    reliability,
    shut_threshold,
)
from onceedit_jax import gates
from onceedit_jax.data.records import EditRecord
from onceedit_jax.evaluation.probes import Probe
from onceedit_jax.gates.fitting import Verdicts
from onceedit_jax.text.words import words

# Few values, so that ties are common.
ALPHAS = st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=1, max_size=12).map(np.array)


@given(ALPHAS, ALPHAS)
def test_the_area_is_the_chance_that_a_related_prompt_has_the_higher_alpha(related, others):
    higher = np.mean(related[:, None] > others) + np.mean(related[:, None] == others) / 2
    assert area(related, others) == pytest.approx(higher)


@given(ALPHAS, st.floats(0.05, 1))
def test_the_threshold_shuts_as_many_as_it_says_and_no_lower_one_does(others, share):
    bar = shut_threshold(others, share)
    assert np.mean(others <= bar) >= share - 1e-9
    lower = others[others < bar]
    assert not len(lower) or np.mean(others <= lower.max()) < share + 1e-9


@given(ALPHAS, ALPHAS)
def test_a_curve_weighs_prompts_that_ask_and_others_alike(related, others):
    curve = reliability(related, others)
    assert sum(point["weight"] for point in curve) == pytest.approx(1)
    assert sum(point["weight"] * point["share"] for point in curve) == pytest.approx(0.5)
    assert sum(point["prompts"] for point in curve) == len(related) + len(others)
    mean = sum(point["weight"] * point["alpha"] for point in curve)
    assert mean == pytest.approx((related.mean() + others.mean()) / 2)
    # Twice as many of the same prompts change nothing.
    again = reliability(np.tile(related, 2), others)
    assert calibration_error(again) == pytest.approx(calibration_error(curve))


def test_the_calibration_error_is_the_gap_between_alpha_and_the_share_that_asks():
    assert calibration_error(reliability(np.ones(3), np.zeros(5))) == 0
    assert calibration_error(reliability(np.zeros(3), np.ones(5))) == 1
    # Half of the prompts at .25 ask, and half of those at .75.
    both = np.array([0.25, 0.75])
    assert calibration_error(reliability(both, both)) == pytest.approx(0.25)


RECORDS = [EditRecord(f"Where is {name}?", "X", subject=name) for name in ("York", "New York")]
SAID = {"Where is York?": (0.95, 0), "Is New York big?": (0.8, 0), "york": (0.4, 0), "": (0, -1)}


class Plugin:
    """A plug-in whose gate says what is written above."""

    records = RECORDS

    def verdicts(self, prompts, gate):
        assert gate == gates.fact()
        alphas, edits = zip(*(SAID[prompt] for prompt in prompts), strict=True)
        return Verdicts(np.array(alphas, np.float32), np.array(edits, np.int32))

    def alphas(self, prompts, gate):
        assert gate == gates.memory()
        return np.array([float(bool(prompt)) for prompt in prompts], np.float32)


def rows():
    probes = [
        Probe("as edited", 0, "Where is York?", "X"),
        Probe("paraphrase", 1, "Is New York big?", "X"),
        Probe("form: lower case", 0, "york", "X"),
        Probe("unrelated", 1, "", "X"),
    ]
    return ask(Plugin(), probes)


def test_a_prompt_opens_from_the_threshold_on_and_the_right_edit_is_its_own():
    found = shares_by_gate(rows(), seed=0)
    shown = {gate: [columns[kind]["value"] for kind in columns] for gate, columns in found.items()}
    assert shown == {
        "fact": [1, 1, 0, 0],
        "fact, right edit": [1, 0, 0, 0],  # the gate took New York for York
        "lookup": [1, 1, 1, 0],
        "lookup, right edit": [1, 0, 1, 0],  # "york" stands in "New York"
        "memory": [1, 1, 1, 0],
    }


def test_alphas_are_chosen_by_kind_and_by_whether_a_subject_is_named():
    np.testing.assert_allclose(alphas_of(rows(), "paraphrase", "form: "), [0.8, 0.4])
    assert alphas_of(rows(), "unrelated").tolist() == [0]
    assert alphas_of(rows(), "unrelated", named=True).tolist() == []


def test_a_cell_takes_no_more_edits_than_the_limit():
    setup = fact_gate.FactGateSetup(limit=5, facts=9, draws=2, datasets={"zsre": [3, 50]})
    assert fact_gate.cells(setup) == {
        "real facts": {"facts": 5, "draws": 2},
        "zsre 3 to 7": {"dataset": "zsre", "places": [3, 8]},
    }


def test_a_generated_question_is_told_from_another_fact_of_the_subject():
    probes = [Probe("Same subject", 0, prompt, "X") for prompt in ("written", "of a data set")]
    named = [fact_gate._named(probe, {"written"}).column for probe in probes]
    assert named == [fact_gate.GENERATED, fact_gate.OTHER]


@pytest.mark.parametrize(
    ("paraphrase", "known"),
    [
        ("Who founded New York?", True),
        ("who founded NEW YORK", True),
        ("New York was founded by", True),
        ("Who founded the city of New York?", False),
    ],
)
def test_a_paraphrase_is_in_the_bank_where_its_words_are_a_wording(paraphrase, known):
    wordings = {
        tuple(words(text)) for text in ("Who founded {subject}?", "{subject} was founded by")
    }
    record = EditRecord("Who made New York?", "X", rephrase=paraphrase, subject="New York")
    assert is_worded(record, wordings) == known


def test_wordings_that_serve_many_subjects_are_generation_prompts():
    def record(subject, rephrase):
        return EditRecord(f"{subject} plays", "jazz", rephrase=rephrase, subject=subject)

    records = [
        record("Ann", "Ann is known for"),
        record("Bea", "It was late. Bea plays"),
        record("Cem", "Cem is known for"),
    ]
    kinds = rephrase_kinds(records[1:], records)
    assert kinds == ["paraphrase prompt", "generation prompt"]
    rows = [{"record": i, "metric": metric} for metric in ("rel", "gen") for i in (0, 1)]
    again = once_more(rows, "gen", kinds)
    assert [(row["record"], row["metric"]) for row in again] == [*enumerate(kinds)]
