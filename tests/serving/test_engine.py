"""The engine by itself: one prompt's fault ends no other's answer."""

import asyncio

import pytest
from serving.conftest import FIRST, QUICK, SETTINGS

from onceedit_jax.ensemble.preparation import PreparedPlugin
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.options import EnsembleOptions
from onceedit_jax.serving.asking import Ask, Begun, Ended, Ticket
from onceedit_jax.serving.problems import Problem
from onceedit_jax.serving.row import Row
from onceedit_jax.serving.server import open_service
from onceedit_jax.text.prompts import plain_text

BAD = "the bad one " * 5
PROMPTS = [FIRST[0].prompt, BAD, FIRST[1].prompt]


@pytest.fixture(scope="module")
def worker(models, artifact):
    """A worker that is not started."""
    options = EnsembleOptions(edited=artifact, target=(str(models[0] / "target"),))
    return open_service(options, SETTINGS, QUICK).worker


@pytest.fixture
def engine(worker):
    (engine,) = worker._engines.values()
    yield engine
    engine.fail(Problem(500, "the test has ended"))


def tickets(*prompts):
    async def made():
        return [
            Ticket(Ask(prompt, "target", chat=False, max_tokens=12), i, asyncio.Queue())
            for i, prompt in enumerate(prompts)
        ]

    return asyncio.run(made())


def by_index(told):
    """The kinds of each ticket's events; of a problem its status."""
    found = {}
    for ticket, event in told:
        kind = event.status if isinstance(event, Problem) else type(event)
        found.setdefault(ticket.index, []).append(kind)
    return found


def fails_for_the_bad_one(monkeypatch, where, error):
    if where == "encode":
        of = Row.of.__func__

        def checked(cls, ticket, *arguments):
            if ticket.ask.prompt == BAD:
                raise error
            return of(cls, ticket, *arguments)

        monkeypatch.setattr(Row, "of", classmethod(checked))
    else:
        judged = PreparedPlugin.judged

        def strictly(plugin, prompts, *arguments):
            if BAD in map(plain_text, prompts):
                raise error
            return judged(plugin, prompts, *arguments)

        monkeypatch.setattr(PreparedPlugin, "judged", strictly)


@pytest.mark.parametrize("where", ["encode", "gate"])
@pytest.mark.parametrize(
    ("error", "status"), [(InputError("too long"), 400), (StopIteration(), 500)]
)
def test_a_prompt_that_fails_ends_no_other(worker, engine, monkeypatch, where, error, status):
    engine.admit(worker.edits, tickets("How far is the harbour from the old bridge?"))
    (open_before,) = engine.open
    fails_for_the_bad_one(monkeypatch, where, error)
    told = by_index(engine.admit(worker.edits, tickets(*PROMPTS)))
    assert told[1] == [status]
    assert told[0][0] is told[2][0] is Begun
    assert open_before in engine.open


def test_a_row_that_becomes_too_long_for_the_plugin_goes_on_alone(worker, engine, monkeypatch):
    proposals = engine._proposals
    monkeypatch.setattr(engine, "_proposals", lambda rows: [p[:1] for p in proposals(rows)])
    told = engine.admit(worker.edits, tickets(FIRST[0].prompt, FIRST[1].prompt))
    long, other = engine.open
    reader = long.drafts._reader
    write = reader.drafter._write

    def strictly(starts, steps):
        if any(FIRST[0].subject.encode() in start.text for start in starts):
            raise InputError("too long")
        write(starts, steps)

    monkeypatch.setattr(reader.drafter, "_write", strictly)
    reader.drafter.forget()
    reader.drafts[:] = [None] * len(reader.drafts)  # both need new ones
    told += engine.step()
    assert long.drafts is None and other.drafts is not None
    while engine.open:
        told += engine.step()
    kinds = by_index(told)
    assert kinds[0][-1] is kinds[1][-1] is Ended


def test_edits_that_are_read_again_compute_as_the_first_ones_do(models, artifact):
    folder = str(models[0] / "target")
    options = EnsembleOptions(edited=artifact, target=(folder,), compute_dtype="bfloat16")
    service = open_service(options, SETTINGS, QUICK)
    edits = service.keeper._folder.load()
    assert edits.plugin.plugin.config.compute_dtype == "bfloat16"
    (engine,) = service.worker._engines.values()
    assert engine._config.compute_dtype == "bfloat16"
    told = engine.admit(edits, tickets(*PROMPTS))
    while engine.open:
        told += engine.step()
    assert {kinds[-1] for kinds in by_index(told).values()} == {Ended}
