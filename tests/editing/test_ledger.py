"""The ledger against a simple model of it: of each fact, a stack of its edits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax.editing.artifact_info import EditEntry, needed_adapters
from onceedit_jax.editing.ledger import added, find, next_id, reverted
from onceedit_jax.errors import InputError

FACTS = 4
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "revert"]), st.integers(0, 40)), max_size=30
)


def entry(number, fact, adapter=0):
    return EditEntry(f"fact {fact}?", f"answer {number}", id=number, adapter=adapter)


def live(entries, fact):
    return [e for e in entries if e.prompt == f"fact {fact}?" and e.state == "live"]


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_the_last_edit_of_a_fact_that_was_not_taken_back_answers(operations):
    entries, stacks = (), {fact: [] for fact in range(FACTS)}
    for kind, value in operations:
        if kind == "add":
            fact, number = value % FACTS, next_id(entries)
            old = [e.id for e in live(entries, fact)]
            entries = added(entries, [entry(number, fact)], {number: old} if old else {})
            stacks[fact].append(number)
        elif there := [number for stack in stacks.values() for number in stack]:
            number = sorted(there)[value % len(there)]
            entries = reverted(entries, [number])
            for stack in stacks.values():
                if number in stack:
                    stack.remove(number)
        for fact, stack in stacks.items():
            assert [e.id for e in live(entries, fact)] == stack[-1:]
    assert len({e.id for e in entries}) == len(entries)


@settings(max_examples=50, deadline=None)
@given(st.permutations([1, 2, 3]))
def test_taking_everything_back_in_any_order_leaves_nothing(order):
    entries = (entry(1, 0),)
    for number in (2, 3):
        entries = added(entries, [entry(number, 0)], {number: [number - 1]})
    for number in order:
        entries = reverted(entries, [number])
    assert {e.state for e in entries} == {"reverted"}


def test_an_adapter_is_needed_while_an_edit_of_it_may_answer_again():
    entries = added((entry(1, 0, adapter=0),), [entry(2, 0, adapter=1)], {2: [1]})
    assert needed_adapters(entries) == {0, 1}
    assert needed_adapters(reverted(entries, [1])) == {1}
    assert needed_adapters(reverted(entries, [2])) == {0}


def test_ids_that_are_not_there_or_taken_back_are_refused():
    entries = (entry(1, 0),)
    with pytest.raises(InputError, match="no edit has the id 7; the ids are 1 to 1"):
        reverted(entries, [7])
    with pytest.raises(InputError, match="edit 1 was taken back before"):
        reverted(reverted(entries, [1]), [1])
    assert find(entries, 1).state == "live"
