"""Facts that come, change again and are taken back, in a folder, on a tiny model."""

import contextlib
import dataclasses
import os
import shutil
from functools import cache, partial
from pathlib import Path

import pytest
from adapter_cases import ADAPTER, answers, unedited_answers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import in_another_thread

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing import upkeep
from onceedit_jax.editing.adapter_folder import ADAPTERS
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import read_info
from onceedit_jax.editing.edit import edit, parameter_hash
from onceedit_jax.editing.explanation import explain
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.upkeep import add_edits, compact_edits
from onceedit_jax.errors import InputError, RunError
from onceedit_jax.gates import both
from onceedit_jax.storage import checkpoints, files
from onceedit_jax.storage.files import locked_by_first
from onceedit_jax.storage.locks import locked

QUICK = dataclasses.replace(ADAPTER, epochs=60)
PLACES = ("Norland", "Vinterby", "Sorvik")


def fact(place, answer, asked="capital", source="facts.jsonl:1"):
    return EditRecord(f"What is the {asked} of {place}?", answer, subject=place, source=source)


FIRST = [
    fact("Norland", "Vinter"),
    fact("Vinterby", "Ask", "river"),
    fact("Sorvik", "red", "colour"),
]


@pytest.fixture(scope="module")
def trained(base, head):
    """Editing that trains every set of records once, for all tests of this module."""

    @cache
    def once(records):
        return edit(*base, records, settings=QUICK, head=head)

    return lambda model, tokenizer, records, **options: once(tuple(records))


@pytest.fixture(autouse=True)
def quick(monkeypatch, trained):
    monkeypatch.setattr(upkeep, "edit", trained)


@pytest.fixture
def folder(trained, tmp_path):
    return trained(None, None, FIRST).save(tmp_path / "plugin")


def said(folder, base, records=FIRST):
    return answers(EditedPlugin.load(folder), base, [record.prompt for record in records])


def test_a_fact_that_changes_again_supersedes_the_earlier_one(folder, base, head):
    before = said(folder, base)
    again = fact("Norland", "Oskar")
    done = add_edits(folder, [again], head=head)
    assert done.superseded == {4: [1]} and not done.known
    assert [entry.state for entry in read_info(folder).edits] == ["superseded", *["live"] * 3]
    assert said(folder, base) == ["Oskar", *before[1:]]
    revert_edits(folder, [4])
    assert said(folder, base) == before
    assert [one.kind for one in read_info(folder).operations] == ["edit", "add", "revert"]


def test_a_reverted_edit_is_answered_as_by_the_unedited_target(folder, base, head, tmp_path):
    unedited = unedited_answers(EditedPlugin.load(folder), base, [FIRST[0].prompt])
    before = said(folder, base)
    info = revert_edits(folder, [1])
    assert info.edits[0].state == "reverted"
    assert said(folder, base) == [*unedited, *before[1:]]
    revert_edits(folder, [2, 3])
    assert EditedPlugin.load(folder).verdicts([FIRST[0].prompt]).edits.tolist() == [-1]
    assert said(folder, base)[0] == unedited[0]


def test_what_is_known_is_not_trained_again(folder, head):
    done = add_edits(folder, [FIRST[1]], head=head)
    assert done.known == [FIRST[1]] and not done.edits
    assert len(read_info(folder).edits) == 3


def test_a_contradiction_inside_a_batch_is_an_error_that_shows_both(folder, base, head):
    batch = [
        fact("Sorvik", "Ada", "mayor", source="new.jsonl:1"),
        fact("Sorvik", "Ola", "mayor", source="new.jsonl:2"),
    ]
    files = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=r"'Ada' \(new.jsonl:1\) and .*'Ola' \(new.jsonl:2\)"):
        add_edits(folder, batch, head=head)
    assert sorted(folder.rglob("*")) == files
    add_edits(folder, batch, head=head, last_wins=True)
    assert said(folder, base, batch) == ["Ola", "Ola"]


def test_facts_of_other_times_and_people_do_not_contradict(folder, base, head):
    mayor = fact("Sorvik", "Ada", "mayor")
    first = dataclasses.replace(mayor, prompt="Who was the first mayor of Sorvik?", target="Ola")
    ids = [entry.id for entry in add_edits(folder, [mayor, first], head=head).edits]
    assert {*ids} <= {entry.id for entry in read_info(folder).live}
    assert said(folder, base, [mayor, first]) == ["Ada", "Ola"]


def test_a_contradiction_with_what_is_known_is_seen_too(folder, base, head):
    both = [fact("Norland", "Vinter"), fact("Norland", "Oskar")]
    with pytest.raises(InputError, match="contradict each other"):
        add_edits(folder, both, head=head)
    done = add_edits(folder, both[::-1], head=head, last_wins=True)
    assert done.known == both[:1] and not done.edits
    assert said(folder, base)[0] == "Vinter"


def test_of_two_wordings_the_last_one_answers_and_gives_way_to_the_other(folder, head):
    wordings = [
        fact("Norland", "Oskar"),
        dataclasses.replace(fact("Norland", "Oskar"), aliases=("N",)),
    ]
    done = add_edits(folder, wordings, head=head)
    assert done.superseded == {4: [1], 5: [4]}

    def live():
        return [entry.id for entry in read_info(folder).live]

    assert live() == [2, 3, 5]
    revert_edits(folder, [5])
    assert live() == [2, 3, 4]
    revert_edits(folder, [4])
    assert live() == [1, 2, 3]


def test_facts_come_back_after_all_were_taken_back(folder, base, head, tmp_path):
    revert_edits(folder, [1, 2, 3])
    plugin = EditedPlugin.load(folder)
    assert plugin.adapters is None and plugin.info.in_adapters and not plugin.records
    assert explain(plugin, [FIRST[0].prompt]) == [[]]
    with pytest.raises(InputError, match="use the gate fact"):
        plugin.fitted(both())
    with pytest.raises(InputError, match="no edit answers any more"):
        plugin.export_peft(tmp_path / "peft")
    with pytest.raises(InputError, match="there is nothing to train"):
        compact_edits(folder, head=head)
    empty = plugin.save(tmp_path / "empty")
    for place in (folder, empty):
        add_edits(place, [fact("Norland", "Oskar")], head=head)
        assert said(place, base)[0] == "Oskar"


def test_no_lock_is_left_where_there_is_no_artifact(tmp_path, head):
    for change in (lambda: add_edits(tmp_path / "typo", FIRST, head=head),
                   lambda: revert_edits(tmp_path / "typo", [1]),
                   lambda: compact_edits(tmp_path / "typo", head=head)):  # fmt: skip
        with pytest.raises(InputError, match="no edited plug-in here"):
            change()
    assert not list(tmp_path.iterdir())


def test_an_artifact_in_use_is_not_replaced(folder, trained, monkeypatch):
    plugin = trained(None, None, FIRST)
    monkeypatch.setattr(files, "locked_by_first", partial(locked_by_first, seconds=0.05))
    with (
        in_another_thread(locked(folder)),
        pytest.raises(RunError, match=r"process \d+ on .* is writing"),
    ):
        plugin.save(folder)
    plugin.save(folder)


def test_replacing_an_edit_by_its_id(folder, base, head):
    new = fact("Norland", "Ada", "mayor")
    done = add_edits(folder, [new], head=head, replacing=[1])
    assert done.superseded == {4: [1]}
    with pytest.raises(InputError, match="is an edit here already"):
        add_edits(folder, [new], head=head, replacing=[2])
    with pytest.raises(InputError, match="edit 1 does not answer any more"):
        add_edits(folder, [fact("Norland", "Ola", "mayor")], head=head, replacing=[1])


def test_compacting_keeps_answers_and_ids_and_what_may_come_back(folder, base, head):
    add_edits(folder, [fact("Norland", "Oskar")], head=head)
    add_edits(folder, [fact("Sorvik", "Ada", "mayor")], head=head)
    revert_edits(folder, [5])
    before = said(folder, base)
    compact_edits(folder, head=head)
    assert said(folder, base) == before
    info = read_info(folder)
    assert [entry.id for entry in info.edits] == [1, 2, 3, 4, 5]
    assert [entry.adapter for entry in info.live] == [3, 3, 3]
    # The superseded edit may come back, the reverted one may not.
    assert sorted(path.name for path in (folder / ADAPTERS).iterdir()) == ["0000", "0003"]
    revert_edits(folder, [4])
    assert said(folder, base)[0] == "Vinter"


def test_an_interrupted_write_leaves_the_state_before_it(folder, base, head, monkeypatch):
    before = said(folder, base)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "write_info", killed)
        with pytest.raises(KeyboardInterrupt):
            add_edits(folder, [fact("Norland", "Oskar")], head=head)
    assert said(folder, base) == before
    done = add_edits(folder, [fact("Norland", "Oskar")], head=head)
    assert [entry.id for entry in done.edits] == [4]
    assert said(folder, base)[0] == "Oskar"


class Killed(BaseException):
    """What a killed program does not survive."""


@pytest.fixture
def kill_at(monkeypatch):
    """Lets a number of changes to the file system happen, and then no other one."""

    def arm(changes):
        left = iter(range(changes))

        def guarded(function):
            def call(*arguments, **options):
                if next(left, None) is None:
                    raise Killed
                return function(*arguments, **options)

            return call

        patch = pytest.MonkeyPatch()
        for place, name in (
            (Path, "rename"),
            (shutil, "rmtree"),
            (os, "replace"),
            (checkpoints.ocp, "save"),
        ):
            patch.setattr(place, name, guarded(getattr(place, name)))
        return patch

    return arm


@pytest.mark.parametrize("operation", ["add", "replace", "revert", "compact"])
def test_a_program_that_is_killed_anywhere_leaves_the_state_before_or_after(
    folder, head, operation, kill_at
):
    """At every change to the file system; the same command succeeds then."""
    add_edits(folder, [fact("Norland", "Ada")], head=head)
    revert_edits(folder, [4])

    def run(place):
        if operation == "revert":
            revert_edits(place, [2])
        elif operation == "compact":
            compact_edits(place, head=head)
        else:
            replacing = [3] if operation == "replace" else []
            add_edits(place, [fact("Norland", "Oskar")], head=head, replacing=replacing)

    def told(place):
        keys = EditedPlugin.load(place).relation["keys"].shape  # every file can be read
        return [(e.id, e.target, e.state, e.adapter) for e in read_info(place).edits], keys

    before, found, ended = told(folder), [], False
    while not ended:
        place = folder.with_name(f"killed-{len(found)}")
        shutil.copytree(folder, place)
        patch = kill_at(len(found))
        with contextlib.suppress(Killed):
            run(place)
            ended = True
        patch.undo()
        found.append(told(place))
        if found[-1] == before:
            run(place)  # what was left does not stand in the way
            assert told(place) != before
    after = found[-1]
    assert len(found) > 1 and after != before
    assert all(state in (before, after) for state in found)


@pytest.fixture
def meanwhile(monkeypatch, trained):
    """What others do while an adapter is trained: a list of functions, each called once."""
    others = []

    def edited(*arguments, **options):
        while others:
            others.pop()()
        return trained(*arguments, **options)

    monkeypatch.setattr(upkeep, "edit", edited)
    return others


def test_others_change_the_folder_while_an_adapter_is_trained(folder, base, head, meanwhile):
    before = said(folder, base)
    again, other = fact("Norland", "Oskar"), fact("Harbour", "Ada", "mayor")
    meanwhile += [lambda: revert_edits(folder, [2]), lambda: add_edits(folder, [other], head=head)]
    done = add_edits(folder, [again], head=head)
    assert [entry.id for entry in done.edits] == [5] and done.superseded == {5: [1]}
    states = ["superseded", "reverted", "live", "live", "live"]
    assert [entry.state for entry in read_info(folder).edits] == states
    (unedited,) = unedited_answers(EditedPlugin.load(folder), base, [FIRST[1].prompt])
    assert said(folder, base, [*FIRST, other]) == ["Oskar", unedited, before[2], "Ada"]


def test_what_comes_while_others_are_compacted_keeps_its_adapter(folder, base, head, meanwhile):
    before = said(folder, base)
    other = fact("Harbour", "Ada", "mayor")
    meanwhile += [lambda: revert_edits(folder, [2]), lambda: add_edits(folder, [other], head=head)]
    info = compact_edits(folder, head=head)
    assert [entry.adapter for entry in info.live] == [2, 2, 1]
    (unedited,) = unedited_answers(EditedPlugin.load(folder), base, [FIRST[1].prompt])
    assert said(folder, base, [*FIRST, other]) == [before[0], unedited, before[2], "Ada"]


def test_a_fact_that_another_program_adds_meanwhile_is_not_added_twice(folder, head, meanwhile):
    again = fact("Norland", "Oskar")
    meanwhile.append(lambda: add_edits(folder, [again], head=head))
    done = add_edits(folder, [again, fact("Harbour", "Ada", "mayor")], head=head)
    assert done.known == [again] and [entry.prompt for entry in done.edits] == [
        "What is the mayor of Harbour?"
    ]
    assert [entry.id for entry in read_info(folder).live] == [2, 3, 4, 5]


def test_what_is_taken_back_meanwhile_is_learnt_again(folder, base, head, meanwhile):
    other = fact("Harbour", "Ada", "mayor")
    meanwhile.append(lambda: revert_edits(folder, [1]))
    done = add_edits(folder, [FIRST[0], other], head=head)
    assert not done.known and len(done.edits) == 2
    assert said(folder, base, [FIRST[0], other]) == ["Vinter", "Ada"]


@pytest.mark.parametrize("change", [add_edits, compact_edits])
def test_an_artifact_that_is_replaced_meanwhile_stays(
    folder, base, head, trained, meanwhile, change, tmp_path
):
    other = trained(None, None, [fact("Harbour", "Ada", "mayor")])

    def replace():
        shutil.rmtree(folder)
        other.save(folder)

    meanwhile.append(replace)
    records = [[fact("Norland", "Oskar")]] if change is add_edits else []
    with pytest.raises(RunError, match="another edit was saved here"):
        change(folder, *records, head=head)
    assert [entry.target for entry in read_info(folder).edits] == ["Ada"]


@pytest.mark.parametrize("settings", [EditSettings(epochs=1), EditSettings(method="adapter")])
def test_usual_settings_are_those_of_an_adapter(folder, head, monkeypatch, trained, settings):
    taken = []

    def edited(*arguments, settings, **options):
        taken.append(settings)
        return trained(*arguments, **options)

    monkeypatch.setattr(upkeep, "edit", edited)
    add_edits(folder, [fact("Norland", "Oskar")], settings, head=head)
    compact_edits(folder, settings, head=head)
    assert [each.method for each in taken] == ["adapter", "adapter"]
    with pytest.raises(InputError, match="method=full"):
        add_edits(folder, [fact("Norland", "Ola")], EditSettings(method="full"), head=head)


def test_an_edit_that_is_taken_back_meanwhile_is_not_replaced(folder, head, meanwhile):
    meanwhile.append(lambda: revert_edits(folder, [1]))
    files = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="edit 1 does not answer any more"):
        add_edits(folder, [fact("Norland", "Oskar")], replacing=[1], head=head)
    assert sorted(folder.rglob("*")) == files
    assert len(read_info(folder).edits) == 3


def test_an_artifact_of_weights_is_refused(base, head, tmp_path):
    weights = edit(*base, FIRST[:1], settings=dataclasses.replace(QUICK, method="full", epochs=1))
    with pytest.raises(InputError, match="its edits are in the weights"):
        revert_edits(weights.save(tmp_path / "weights"), [1])


def test_another_relation_head_is_refused(folder, head):
    other = dataclasses.replace(head, head=head.head._replace(bias=head.head.bias + 1))
    with pytest.raises(InputError, match="the relation head on this machine is not the one"):
        add_edits(folder, [fact("Norland", "Oskar")], head=other)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "revert", "replace"]), st.integers(0, 30)), max_size=30
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS)
def test_any_history_answers_as_the_edits_that_are_left_do_alone(
    base, head, trained, tmp_path_factory, steps
):
    """Bit for bit: each fact as by its last edit alone, or as by the unedited target."""
    folder = trained(None, None, FIRST[:1]).save(tmp_path_factory.mktemp("any") / "plugin")
    versions = [fact(place, answer) for place in PLACES for answer in ("Ada", "Ola", "Oskar")]
    stacks = {place: [] for place in PLACES}
    stacks["Norland"].append((1, FIRST[0]))
    for kind, value in steps:
        record = versions[value % len(versions)]
        stack = stacks[record.subject]
        if kind != "revert":
            another = stack and stack[-1][1] != record
            replacing = [stack[-1][0]] if kind == "replace" and another else []
            done = add_edits(folder, [record], head=head, replacing=replacing)
            if done.edits:
                stack.append((done.edits[0].id, record))
        elif stack:
            number, _ = stack.pop(value % len(stack))
            revert_edits(folder, [number])
    plugin = EditedPlugin.load(folder)
    for place, stack in stacks.items():
        prompt = fact(place, "").prompt
        if stack:
            wanted = answers(trained(None, None, [stack[-1][1]]), base, [prompt])
        else:
            wanted = unedited_answers(plugin, base, [prompt])
        assert answers(plugin, base, [prompt]) == wanted
    shutil.rmtree(folder.parent)


def test_the_adapter_of_an_edit_does_not_depend_on_what_is_there(folder, head, trained):
    add_edits(folder, [fact("Norland", "Oskar")], head=head)
    alone = trained(None, None, [fact("Norland", "Oskar")])
    plugin = EditedPlugin.load(folder)
    row = next(e.adapter for e in plugin.info.edits if e.target == "Oskar")
    own = {
        module: {
            name: {side: leaf[row : row + 1] for side, leaf in factor.items()}
            for name, factor in factors.items()
        }
        for module, factors in plugin.adapters.items()
    }
    assert parameter_hash(own) == parameter_hash(alone.adapters)
