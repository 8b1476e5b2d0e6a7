"""The ledger is listed in parts, which together are the whole of it."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving.conftest import fact

from onceedit_jax.editing.artifact_info import EditEntry
from onceedit_jax.serving.edit_schemas import EditsQuery
from onceedit_jax.serving.edits import Edits
from onceedit_jax.serving.problems import Problem
from onceedit_jax.serving.service import Service

PLACES = st.sampled_from(["Norland", "Sorvik"])
LEDGER = st.dictionaries(st.integers(1, 99), st.tuples(st.booleans(), PLACES), max_size=12)


def listing(entries, numbers, **query):
    info = SimpleNamespace(edits=entries, numbers=numbers, operations=[None] * 3)
    current = SimpleNamespace(keeper=SimpleNamespace(edits=Edits(None, info)))
    return Service.edits(current, EditsQuery(**query))


def entry(place, **state):
    record = fact(place, "Ask")
    return EditEntry(record.prompt, record.target, record.subject, **state)


@given(LEDGER, st.booleans(), st.sampled_from(["", "SORV"]), st.sampled_from(["asc", "desc"]))
def test_parts_are_the_whole_in_order(ledger, every, about, order):
    entries = [entry(place, reverted=reverted) for reverted, place in ledger.values()]
    asked = {"all": every, "about": about, "order": order}
    expected = sorted(
        (
            number
            for number, (reverted, place) in ledger.items()
            if (every or not reverted) and (not about or place == "Sorvik")
        ),
        reverse=order == "desc",
    )
    after, found = None, []
    while True:
        part = listing(entries, list(ledger), **asked, limit=2, after=after)
        assert (part.total, part.revision) == (len(expected), 3)
        found += [edit.id for edit in part.data]
        if not part.has_more:
            break
        assert len(part.data) == 2
        after = found[-1]
    assert found == expected


def test_an_edit_tells_what_gave_way_to_it():
    older = entry("Norland", superseded_by=7)
    entries = [older, entry("Norland"), older]
    (shown,) = listing(entries, [3, 7, 1]).data
    assert (shown.id, shown.supersedes) == (7, [1, 3])
    info = SimpleNamespace(edits=entries, numbers=[3, 7, 1])
    service = SimpleNamespace(keeper=SimpleNamespace(edits=Edits(None, info)))
    assert Service.edit(service, 3).superseded_by == 7
    with pytest.raises(Problem, match="no edit has the id 4"):
        Service.edit(service, 4)
