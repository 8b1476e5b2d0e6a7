"""Several hops: an inner phrase that asks for an edit gives way to its answer."""

import numpy as np
import pytest
from editing_cases import RECORDS

from onceedit_jax import fusion, gates
from onceedit_jax.data.records import Pair
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.ensemble.hops import followed, rewritten
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.check import check
from onceedit_jax.evaluation.probes import Probe
from onceedit_jax.gates.fitting import Verdicts
from onceedit_jax.text.subjects import Subjects

EDITS = {
    "What is the writer of Maus?": ("Ada Quill", 0),
    "What is the country of Ada Quill?": ("Norland.", 1),
    "What is the teacher of Sol Marrow?": ("Ada Quill", 2),
    "What is the home of Sol Marrow?": ("Norland, D.C.", 3),
}
SUBJECTS = Subjects([["Maus"], ["Ada Quill"], ["Sol Marrow"]])


def ask(texts, also=()):
    known = {**{text: edit for text, (_, edit) in EDITS.items()}, **dict(also)}
    edits = np.array([known.get(text, -1) for text in texts], np.int32)
    return Verdicts((edits >= 0).astype(np.float32), edits)


def after(text, *, hops=3, ask=ask):
    (found,) = followed(
        [text],
        mentions=SUBJECTS.find,
        ask=ask,
        answers=[answer for answer, _ in EDITS.values()],
        threshold=0.7,
        hops=hops,
    )
    return rewritten(text, found), [hop.edit for hop in found]


def test_phrases_give_way_one_after_another():
    text = "What is the capital of the country of the writer of Maus?"
    assert after(text) == ("What is the capital of Norland?", [0, 1])
    assert after(text, hops=1) == ("What is the capital of the country of Ada Quill?", [0])
    assert after(text, hops=0) == (text, [])


def test_an_answer_loses_its_full_stop_and_no_other():
    assert after("Who leads the country of Ada Quill?")[0] == "Who leads Norland?"
    assert after("Who leads the home of Sol Marrow?")[0] == "Who leads Norland, D.C.?"


@pytest.mark.parametrize(
    "text",
    [
        "Who was the father of Maus?",
        "What is the age of the reader of Maus?",
        "What is the name of the writer of Maus?",
        "Good evening, I would like to know the name of the writer of Maus.",
        "Which writer taught Sol Marrow?",
        "Did Ada Quill know the writer of Maus?",
        "Why is the writer of Maus called Ada Quill?",
        "How old is the writer of Mausoleums?",
        "Who was the leader of the country of Ada Quill in 1950?",
        "How big was the country of Ada Quill a hundred years ago?",
    ],
)
def test_a_text_without_such_a_phrase_stays_as_it_is(text):
    assert after(text) == (text, [])


def test_a_question_for_the_edit_itself_is_one_hop():
    text = "In which city does the writer of Maus work?"
    assert after(text)[1] == [0]
    around = {"In which city does Maus work?": 0}
    assert after(text, ask=lambda texts: ask(texts, around)) == (text, [])
    around = {"In which city does Maus work?": 1}
    assert after(text, ask=lambda texts: ask(texts, around))[1] == [0]


def test_a_question_that_is_an_edit_itself_stays():
    text = "What is the age of the writer of Maus?"
    assert after(text, ask=lambda texts: ask(texts, {text: 2})) == (text, [])


def test_where_the_gate_opens_anyway_a_noun_must_say_what_is_asked_of_the_phrase():
    texts = ("How old is the writer of Maus?", "What is the capital of the writer of Maus?")
    for text, edits in zip(texts, ([], [0]), strict=True):
        assert after(text)[1] == [0]
        assert after(text, ask=lambda asked, text=text: ask(asked, {text: 0}))[1] == edits


def test_of_phrases_with_one_beginning_the_likeliest_gives_way():
    likely = {"What is Ada Quill's head?": 0.75, "What is Ada Quill's head teacher?": 0.99}
    likely["What is Ada Quill's head teacher born?"] = 0.8

    def by_degrees(texts):
        alphas = np.array([likely.get(text, 0) for text in texts], np.float32)
        return Verdicts(alphas, np.where(alphas > 0, 2, -1).astype(np.int32))

    text = "Where was Ada Quill's head teacher born?"
    assert after(text, hops=1, ask=by_degrees) == ("Where was Ada Quill born?", [2])


def test_in_a_conversation_the_last_words_are_rewritten():
    (found,) = followed(
        ["How old is the writer of Maus?"],
        mentions=SUBJECTS.find,
        ask=ask,
        answers=["Ada Quill", "", ""],
        threshold=0.7,
        hops=1,
    )
    turns = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "How old?"}]
    assert rewritten(turns, found)[0] == turns[0]
    assert rewritten(turns, found)[1]["content"] == "How old is Ada Quill?"
    assert rewritten(turns, []) == turns


TWO_HOPS = "Which river runs through the capital of Norland?"
INSTEAD = "Which river runs through Vinterby?"
OTHERS = [
    "What is the age of the capital of Norland?",
    "How far is the harbour?",
    RECORDS[0].prompt,
]
OTHERS_INSTEAD = ["What is the age of Vinterby?", *OTHERS[1:]]


@pytest.mark.parametrize("rule", [fusion.draft(), fusion.context(), fusion.vocabulary()])
def test_the_rewritten_question_is_what_is_asked(plugin, targets, rule):
    asked, instead = [TWO_HOPS, *OTHERS], [INSTEAD, *OTHERS_INSTEAD]
    ensemble = Ensemble(plugin, targets, rule=rule, hops=1)
    plain = Ensemble(plugin, targets, rule=rule)
    answers, expected = (
        each.generate(texts, max_new_tokens=5)
        for each, texts in ((ensemble, asked), (plain, instead))
    )
    assert answers.after == expected.after == ensemble.answers(asked, max_new_tokens=5)
    assert answers.before == plain.answers_alone(asked, max_new_tokens=5)
    assert answers.edits.tolist() == expected.edits.tolist() == [2, -1, -1, 0]
    assert [[hop.edit for hop in hops] for hops in answers.hops] == [[0], [0], [], []]

    pairs, others = ([Pair(text, "the Ask") for text in texts] for texts in (asked, instead))
    scored, wanted = ensemble.score(pairs), plain.score(others)
    alone = plain.score(pairs)
    for found, new, old in zip(scored.targets, wanted.targets, alone.targets, strict=True):
        for one, then, before in zip(found, new, old, strict=True):
            np.testing.assert_array_equal(one.after, then.after)
            np.testing.assert_array_equal(one.before, before.before)


def test_probes_follow_hops_too(plugin, targets):
    ensemble = Ensemble(plugin, targets[:1], rule=fusion.context(), hops=1)
    probes = [
        Probe("2-hop", 0, text, "Vinterby", expects="answer", answers=("the Ask",))
        for text in (TWO_HOPS, OTHERS[0])
    ]
    (checked,) = check(ensemble, probes)
    expected = ensemble.answers([probe.prompt for probe in probes])[0]
    assert [row["after"] for row in checked.rows] == expected


def test_a_gate_that_knows_no_phrase_is_refused(plugin, targets):
    with pytest.raises(InputError, match="hops=1 with the gate both: expected 0"):
        Ensemble(plugin, targets, gate=gates.both(), hops=1)
    with pytest.raises(InputError, match="hops=-1"):
        Ensemble(plugin, targets, hops=-1)
