"""A ledger that contradicts itself is refused, whoever has written it."""

import dataclasses
from pathlib import Path

import pytest

from onceedit_jax.editing.artifact_info import (
    BaseInfo,
    EditEntry,
    EditInfo,
    EditMetrics,
    EditorInfo,
    Operation,
    RelationInfo,
    RuleInfo,
    UnrelatedInfo,
)
from onceedit_jax.editing.ledger_checks import check_ledger
from onceedit_jax.errors import InputError

TIME = "2026-01-31T12:00:00+00:00"
THRESHOLDS = dict.fromkeys(("token", "memory", "both"), 0.5)
ENTRIES = (
    EditEntry("a?", "b", id=1, adapter=0, added=TIME, superseded_by=3),
    EditEntry("c?", "d", id=2, adapter=0, added=TIME, superseded_by=3, reverted=True),
    EditEntry("a?", "e", id=3, adapter=1, added=TIME),
)


def info(*entries: EditEntry, in_adapters: bool = True, **rule: dict[str, float]) -> EditInfo:
    thresholds = {"alpha_thresholds": THRESHOLDS, "trust_thresholds": THRESHOLDS, **rule}
    return EditInfo(
        base=BaseInfo("m", "0", {}, {"num_layers": 2}),
        edits=entries,
        edited_before=0,
        contradicting=0,
        unrelated=UnrelatedInfo(0, 0, ""),
        trained_texts=(),
        editor=EditorInfo("adapter", {}),
        settings={},
        rule=RuleInfo("draft", **thresholds, reach_threshold=0.5, reach_evidence=1.0),
        metrics=EditMetrics(1, 1.0, None, None, None, {}, {}, {}),
        history=(),
        versions={},
        operations=(Operation(TIME, "edit", (1,), 1.0),),
        in_adapters=in_adapters,
        relation=RelationInfo(2, {}),
    )


def test_a_sound_ledger_passes() -> None:
    check_ledger(info(*ENTRIES), Path("edit.json"))
    plain = [dataclasses.replace(each, adapter=None, added="", id=0) for each in ENTRIES[2:]]
    check_ledger(info(*plain, *plain, in_adapters=False), Path("edit.json"))


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (1, {"id": 1}, r"edits\[0\]\.id is 1; expected a number of its own"),
        (0, {"id": -1}, r"edits\[0\]\.id is -1"),
        (0, {"id": 2**70}, r"edits\[0\]\.id is 1180591620717411303424"),
        (0, {"superseded_by": 1}, r"superseded_by is 1; expected the id of a later edit"),
        (2, {"superseded_by": 1}, r"edits\[2\]\.superseded_by is 1; expected .* later"),  # a cycle
        (0, {"superseded_by": 99}, r"superseded_by is 99"),
        (2, {"reverted": True}, r"edits\[0\]\.superseded_by is 3, which was taken back"),
        (2, {"adapter": None}, r"edits\[2\]\.adapter is null"),
        (2, {"adapter": -1}, r"edits\[2\]\.adapter is -1; expected a number from 0"),
        (0, {"prompt": " "}, "no text for a prompt or an answer"),
        (1, {"subject": "x" * 200_000}, r"edits\[1\] has a text of 200000 characters"),
        (0, {"added": "yesterday"}, r"added is 'yesterday'; expected a time"),
    ],
)
def test_what_contradicts_itself_is_named(
    place: int, change: dict[str, object], message: str
) -> None:
    entries = list(ENTRIES)
    entries[place] = dataclasses.replace(entries[place], **change)
    with pytest.raises(InputError, match=message) as caught:
        check_ledger(info(*entries), Path("edit.json"))
    assert str(caught.value).startswith("edit.json, ")


def test_weights_have_no_adapters_but_thresholds() -> None:
    with pytest.raises(InputError, match="adapter is 1; expected null beside weights"):
        check_ledger(info(ENTRIES[2], in_adapters=False), Path("edit.json"))
    entry = dataclasses.replace(ENTRIES[2], adapter=None)
    with pytest.raises(InputError, match=r"rule\.trust_thresholds has no both"):
        check_ledger(
            info(entry, in_adapters=False, trust_thresholds={"token": 0.5, "memory": 0.5}),
            Path("edit.json"),
        )


def test_an_operation_has_a_time() -> None:
    odd = dataclasses.replace(
        info(*ENTRIES), operations=(Operation("99999-01-01", "edit", (1,), 1.0),)
    )
    with pytest.raises(InputError, match=r"operations\[0\]\.time is '99999-01-01'"):
        check_ledger(odd, Path("edit.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": None}, "relation is null; expected the relation head"),
        ({"relation": RelationInfo(3, {})}, r"relation\.layers is 3; expected .* 1 to 2"),
        ({"relation": RelationInfo(-1, {})}, r"relation\.layers is -1"),
    ],
)
def test_adapters_have_a_relation_head_of_the_base(
    change: dict[str, RelationInfo | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_ledger(dataclasses.replace(info(*ENTRIES), **change), Path("edit.json"))


def test_thresholds_have_a_size() -> None:
    rule = {"alpha_thresholds": {**THRESHOLDS, "both": 1e308}}
    with pytest.raises(InputError, match=r"rule\.alpha_thresholds\.both is 1e\+308"):
        check_ledger(info(*ENTRIES, **rule), Path("edit.json"))
