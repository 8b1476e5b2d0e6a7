"""A server without HTTP: answers as streams of events, and the edits behind them."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from onceedit_jax.ensemble.target import Target
from onceedit_jax.serving.asking import Ask, Begun, Ended, Event, Ticket
from onceedit_jax.serving.edit_schemas import Edit, EditList, EditsQuery, JobList, JobsQuery
from onceedit_jax.serving.edits import Edits
from onceedit_jax.serving.keeper import Keeper
from onceedit_jax.serving.metrics import Metrics
from onceedit_jax.serving.problems import Problem
from onceedit_jax.serving.schemas import Health, ModelCard
from onceedit_jax.serving.settings import ServingSettings
from onceedit_jax.serving.worker import MOST_FAULTS, Worker

BEFORE = ":before"  # after a target's name: the target as it was before all edits


class Model(NamedTuple):
    """What the name of a model stands for.

    Attributes:
      target: the target's name.
      edited: whether the plug-in may speak.
    """

    target: str
    edited: bool


class Service:
    """All parts of a server.

    Attributes:
      settings: its bounds.
      targets: by name.
      worker: writes the answers.
      keeper: changes the edits.
      metrics: what is counted.
    """

    def __init__(
        self,
        settings: ServingSettings,
        targets: Mapping[str, Target],
        worker: Worker,
        keeper: Keeper,
        metrics: Metrics,
    ) -> None:
        """Put the parts together; `start` starts them."""
        self.settings: ServingSettings = settings
        self.targets: Mapping[str, Target] = targets
        self.worker: Worker = worker
        self.keeper: Keeper = keeper
        self.metrics: Metrics = metrics
        self._started = int(time.time())

    def start(self) -> None:
        """Start the threads."""
        self.worker.start()
        self.keeper.start()

    async def stop(self) -> None:
        """Stop the threads; changes that are not made yet stay in the journal."""
        stops = (self.keeper.stop, self.worker.stop)
        grace = self.settings.grace_seconds
        await asyncio.gather(*(asyncio.to_thread(stop, grace) for stop in stops))

    @property
    def models(self) -> list[ModelCard]:
        """Every target twice: with the edits, and as it was before them."""
        names = [name + end for name in self.targets for end in ("", BEFORE)]
        return [ModelCard(id=name, created=self._started, owned_by="onceedit") for name in names]

    def model(self, name: str) -> Model:
        """What the name of a model stands for.

        Raises:
          Problem: there is no model of this name.
        """
        target = name.removesuffix(BEFORE)
        if target not in self.targets:
            known = ", ".join(self.targets)
            raise Problem(
                404, f"no model {name!r}; there are {known}", param="model", code="model_not_found"
            )
        return Model(target, target == name)

    @property
    def health(self) -> Health:
        """Whether it works."""
        alive = self.worker.alive and self.keeper.alive
        faults, problem = self.worker.faults, self.keeper.problem
        if faults:
            problem = "answers could not be written; the server's log says why"
        if not alive:
            problem = "a thread of the server has ended; start the server again"
        return Health(
            status="ok" if alive and faults < MOST_FAULTS else "failing",
            revision=self.keeper.edits.revision,
            edits=len(self.keeper.edits.info.live),
            writes=self.settings.token is not None,
            writing=self.worker.writing,
            waiting=self.worker.waiting,
            problem=problem,
        )

    def edits(self, query: EditsQuery) -> EditList:
        """The ledger, or the part of it that is asked for."""
        current, wanted = self.keeper.edits, query.about.casefold()
        found = [
            number
            for number, entry in current.by_id.items()
            if (query.all or entry.state == "live") and wanted in current.searched[number]
        ]
        total = len(found)
        if query.order == "desc":
            found.reverse()
        if query.after is not None:
            sign = -1 if query.order == "desc" else 1
            found = [number for number in found if sign * number > sign * query.after]
        return EditList(
            revision=current.revision,
            data=[_told(current, number) for number in found[: query.limit]],
            total=total,
            has_more=len(found) > query.limit,
        )

    def edit(self, number: int) -> Edit:
        """An edit.

        Raises:
          Problem: no edit has this id.
        """
        current = self.keeper.edits
        if number not in current.by_id:
            raise Problem(404, f"no edit has the id {number}", param="edit")
        return _told(current, number)

    def jobs(self, query: JobsQuery) -> JobList:
        """The changes of the edits, newest first, or those that are asked for."""
        ended = ("done", "failed") if query.open else ()
        found = [job for job in reversed(self.keeper.jobs) if job.status not in ended]
        return JobList(
            data=found[: query.limit], total=len(found), has_more=len(found) > query.limit
        )

    def metrics_text(self) -> bytes:
        """All counters, and what is so at this moment."""
        self.metrics.writing.set(self.worker.writing)
        self.metrics.waiting.set(self.worker.waiting)
        for state in ("live", "superseded", "reverted"):
            self.metrics.edits.labels(state).set(self.keeper.edits.states[state])
        return self.metrics.text()


def _told(edits: Edits, number: int) -> Edit:
    entry = edits.by_id[number]
    return Edit(
        id=number,
        prompt=entry.prompt,
        target=entry.target,
        subject=entry.subject,
        aliases=list(entry.aliases),
        state=entry.state,
        superseded_by=entry.superseded_by,
        supersedes=edits.supersedes.get(number, []),
        added=entry.added,
        source=entry.source,
    )


class Answers:
    """Answers to the prompts of one request, on their way.

    Attributes:
      begun: of each prompt, how its answer began; it is there after `begin`.
    """

    def __init__(self, service: Service, asks: Sequence[Ask]) -> None:
        """Remember what is asked."""
        self._service, self._asks = service, asks
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._early: list[tuple[int, Event]] = []
        self._deadline = asyncio.get_running_loop().time() + service.settings.seconds
        self.begun: list[Begun] = []

    def give_up(self) -> None:
        """Let go of all answers that have not ended."""
        for ticket in self._tickets:
            ticket.give_up()

    async def begin(self) -> None:
        """Ask, and wait until all answers have begun.

        Raises:
          Problem: too many requests wait, a prompt is refused, or it takes too long.
        """
        asked = time.monotonic()
        self._tickets = [Ticket(ask, i, self._events) for i, ask in enumerate(self._asks)]
        self._service.worker.submit(self._tickets)
        begun: dict[int, Begun] = {}
        while len(begun) < len(self._asks):
            index, event = await self._next()
            if isinstance(event, Begun):
                begun[index] = event
            else:
                self._early.append((index, event))
        self._service.metrics.first.observe(time.monotonic() - asked)
        self.begun = [begun[i] for i in range(len(self._asks))]

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The pieces of all answers and their ends, each with the place of its prompt.

        Raises:
          Problem: an answer fails, or it takes too long.
        """
        left = len(self._asks)
        while left:
            index, event = self._early.pop(0) if self._early else await self._next()
            left -= isinstance(event, Ended)
            yield index, event

    async def _next(self) -> tuple[int, Event]:
        try:
            async with asyncio.timeout_at(self._deadline):
                index, event = await self._events.get()
        except TimeoutError:
            raise Problem(
                504,
                f"the answer took more than {self._service.settings.seconds:g} s; ask for less",
                code="timeout",
            ) from None
        if isinstance(event, Problem):
            raise event
        return index, event
