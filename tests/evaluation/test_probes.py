"""Probes: what counts as the new answer, as unchanged, and as an intrusion."""

import dataclasses

import numpy as np
import pytest
from editing_cases import FAST, RECORDS, UNRELATED
from relation_cases import sharp_head

from onceedit_jax import fusion
from onceedit_jax.editing.edit import edit
from onceedit_jax.ensemble import Ensemble, Target
from onceedit_jax.evaluation.check import check, checked
from onceedit_jax.evaluation.probes import Probe, columns, interval, says, score_probe


@pytest.mark.parametrize(
    ("answer", "fact", "said"),
    [
        ("It is Oslo.", "Oslo", True),
        ("oslo", "Oslo", True),
        ("Oslofjord", "Oslo", False),
        ("The painter Müller did.", "muller", True),
        ("New  York, I think", "New York", True),
        ("York", "New York", False),
        ("", "Oslo", False),
        ("Oslo", "", False),
    ],
)
def test_an_answer_says_a_fact_in_its_own_words(answer, fact, said):
    assert says(answer, fact) is said


def probe(expects="new", **options):
    return Probe("column", 0, "Where?", "Oslo", expects=expects, **options)


def test_each_expectation_has_its_own_score():
    assert score_probe(probe(), "Paris", "It is Oslo") == {"right": 1.0}
    assert score_probe(probe(), "Paris", "Paris") == {"right": 0.0}
    strict = probe(old=("Paris",), strict=True)
    assert score_probe(strict, "Paris", "Oslo, not Paris") == {"right": 0.0}
    worded = probe(worded=True)
    assert score_probe(worded, "Paris", "Oslo.") == {"right": 0.0}
    assert score_probe(worded, "Paris", "Oslo, in Norway") == {"right": 0.0}
    assert score_probe(worded, "Paris", "It is in Oslo.") == {"right": 1.0}
    assert score_probe(worded, "Paris", "It is in Paris.") == {"right": 0.0}
    hop = probe("answer", answers=("Norway", "Norge"))
    assert score_probe(hop, "?", "In Norge.") == {"right": 1.0}
    unchanged = probe("unchanged")
    assert score_probe(unchanged, "Cold.", "cold") == {"right": 1.0, "intrusion": 0.0}
    assert score_probe(unchanged, "Cold.", "Oslo") == {"right": 0.0, "intrusion": 1.0}
    # An answer that said the new fact before the edit is no intrusion.
    assert score_probe(unchanged, "Oslo!", "In Oslo") == {"right": 0.0, "intrusion": 0.0}


def test_a_column_is_the_mean_over_edits_of_each_edits_mean():
    probes = [Probe("a", fact, "?", "x") for fact in (0, 0, 0, 1)]
    found = columns(probes, [{"right": r} for r in (1.0, 1.0, 0.0, 0.0)])["a"]
    assert found.value == pytest.approx((2 / 3 + 0) / 2)
    assert (found.facts, found.probes) == (2, 4)
    assert found.low <= found.value <= found.high


def test_an_interval_holds_the_mean_and_narrows_with_more_edits():
    rng = np.random.default_rng(0)
    few, many = (rng.integers(2, size=n).astype(float) for n in (20, 2000))
    for values in (few, many):
        low, high = interval(values)
        assert low <= values.mean() <= high
    widths = [np.diff(interval(values))[0] for values in (few, many)]
    assert widths[1] < widths[0] / 4
    assert interval(np.ones(5)) == (1.0, 1.0)
    assert interval(few) == interval(few)


def test_any_systems_answers_are_checked():
    probes = [Probe("Rel", 0, "Who?", "Ada"), Probe("Same", 0, "When?", "Ada", "unchanged")]
    result = checked("target", probes, ["Bo", "1900"], ["Ada", "Ada"])
    assert result.columns["Rel"].value == 1 and result.columns["Same"].value == 0
    assert result.columns["Same: intrusion"].value == 1
    assert [row["after"] for row in result.rows] == ["Ada", "Ada"]


def test_every_target_is_asked_before_and_after_the_edit(tiny_model, monkeypatch):
    model, tokenizer = tiny_model()
    plugin = edit(model, tokenizer, RECORDS, UNRELATED, FAST, head=sharp_head(model, tokenizer))
    targets = [Target(*tiny_model(80, 1)), Target(*tiny_model(20, 2))]
    probes = [
        Probe("Rel", 0, RECORDS[0].prompt, RECORDS[0].target),
        Probe("Long", 0, f"{RECORDS[0].prompt} Write a line.", RECORDS[0].target),
        Probe("Unrelated", 0, UNRELATED[0].prompt, RECORDS[0].target, "unchanged"),
    ]
    ensemble = Ensemble(plugin, targets)
    found = check(ensemble, probes)
    prompts = [probe.prompt for probe in probes if probe.column != "Long"]
    answers = ensemble.generate(prompts)
    for t, each in enumerate(found):
        rows = [row for row in each.rows if row["column"] != "Long"]
        assert [row["before"] for row in rows] == answers.before[t]
        assert [row["after"] for row in rows] == answers.after[t]
        assert [row["edit"] for row in rows] == answers.edits.tolist() == [0, -1]
        assert each.columns["Rel"].value == each.columns["Unrelated"].value == 1
    told = check(Ensemble(plugin, targets, rule=fusion.context()), probes, known=found)
    for one, other in zip(found, told, strict=True):
        assert [row["before"] for row in one.rows] == [row["before"] for row in other.rows]
    # What two columns ask is asked once.
    asked, answers_of = [], ensemble.answers

    def answers_once(prompts, **options):
        asked.extend(prompts)
        return answers_of(prompts, **options)

    monkeypatch.setattr(ensemble, "answers", answers_once)
    twice = [*probes[:1], dataclasses.replace(probes[0], column="form")]
    rows = check(ensemble, twice)[0].rows
    assert asked == [RECORDS[0].prompt]
    assert rows[0]["after"] == rows[1]["after"] == found[0].rows[0]["after"]
    # Nothing opens the gate: the target is not asked again.
    assert (
        check(ensemble, probes[2:], known=[checked("a", probes[2:], ["x"], ["y"])] * 2)[0].rows[0][
            "after"
        ]
        == "x"
    )
