"""The gate `fact` from texts to alphas: what it promises of names, of new edits and their order."""

import unicodedata

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from relation_cases import ASKED, sharp_head

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.gate_features import PromptReader, gate_rows
from onceedit_jax.gates.fact import fact_with
from onceedit_jax.gates.fitting import fit_gate
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.gates.weight_token import init_gate

# Names that share words, so that some are parts of others.
NAMES = ("York", "New York", "New York City", "Zoë Étoile", "Straße", "Ada Quill", "Quill")
QUESTIONS = tuple(f"What is the {relation} of {{}}?" for relation in ASKED[:5])
NAMES_DRAWN = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)
QUESTION = st.sampled_from(QUESTIONS)
FEW = settings(max_examples=25)


@pytest.fixture(scope="module")
def gate_of(tiny_model):
    """From edits to what the gate says of prompts."""
    model, tokenizer = tiny_model()
    learnt = sharp_head(model, tokenizer)

    def build(records):
        relations = learnt.reader(model, tokenizer, records)
        kernel = init_gate(model.config.hidden_size)
        reader = PromptReader(model.params, kernel, model.config, tokenizer, relations)
        fitted = fit_gate(fact_with(learnt.head), *gate_rows({"relation"}, records, reader))
        return lambda prompts: reader.verdicts(fitted.gate, fitted.state, prompts)

    return build


def edits(names, **changes):
    return [
        EditRecord(QUESTIONS[n % 2].format(name), "Ask", subject=name, **changes)
        for n, name in enumerate(names)
    ]


def one_by_one(verdicts, prompts):
    """Alphas of prompts that are read alone, so that no other prompt widens a batch."""
    return [float(verdicts([prompt]).alphas[0]) for prompt in prompts]


def prompts_about(names):
    return [question.format(name) for name in names for question in QUESTIONS]


@FEW
@given(NAMES_DRAWN)
def test_an_edits_own_question_opens_it_and_a_prompt_without_a_subject_nothing(gate_of, names):
    verdicts = gate_of(edits(names))
    own = verdicts([record.prompt for record in edits(names)])
    assert own.edits.tolist() == list(range(len(names))) and (own.alphas > 0.9).all()
    others = [name for name in ("Norland", "Yorkshire", "Adaquill", "it") if name not in names]
    elsewhere = verdicts([*prompts_about(others), "", "?", "Who?"])
    assert (elsewhere.alphas == 0).all() and (elsewhere.edits == NOTHING).all()


@FEW
@given(
    st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True),
    st.randoms(use_true_random=False),
)
def test_new_edits_and_their_order_leave_other_prompts_as_they_were(gate_of, names, random):
    first, new = names[:-1], names[-1:]
    shuffled = edits(names)
    random.shuffle(shuffled)
    before, after = gate_of(edits(names)[:-1]), gate_of(shuffled)
    # A name that is a part of the new one, or holds it, may be found otherwise now.
    apart = [n for n in first if not any(m in n or n in m for m in new)]
    for prompt in prompts_about(apart):
        one, other = before([prompt]), after([prompt])
        # The edits are read in a batch of another shape, and this head is sharper than a real one.
        np.testing.assert_allclose(other.alphas, one.alphas, rtol=1e-3)
        assert shuffled[int(other.edits[0])].subject == first[int(one.edits[0])]


def decomposed(text):
    return unicodedata.normalize("NFD", text)


def without_accents(text):
    return "".join(c for c in decomposed(text) if not unicodedata.combining(c))


@FEW
@given(
    st.sampled_from(NAMES),
    QUESTION,
    st.sampled_from([str.upper, str.lower, str.title, decomposed, without_accents, str.casefold]),
)
def test_case_accents_and_their_encoding_do_not_change_alpha(gate_of, name, question, written):
    verdicts = gate_of(edits([name]))
    prompts = [question.format(name), question.format(written(name))]
    one, other = one_by_one(verdicts, prompts)
    assert one == other > 0


@FEW
@given(QUESTION, st.sampled_from([str, str.lower, str.upper]))
def test_of_names_within_names_the_longest_is_asked_about(gate_of, question, written):
    names = ["York", "New York", "New York City"]
    verdicts = gate_of(edits(names))
    for n, name in enumerate(names):
        found = verdicts([written(question.format(name))])
        assert found.edits.tolist() == [n]


@FEW
@given(st.permutations(NAMES[3:]).map(lambda names: names[:2]), QUESTION)
def test_an_alias_opens_as_the_subject_does(gate_of, names, question):
    name, alias = names
    prompts = [question.format(name), question.format(alias)]
    one, called = one_by_one(gate_of(edits([name], aliases=(alias,))), prompts)
    alone, not_called = one_by_one(gate_of(edits([name])), prompts)
    assert one == called == alone > 0 and not_called == 0
