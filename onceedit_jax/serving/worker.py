"""The thread that does all work on the device for answers; the event loop only waits for it.

A thread and not a process: XLA leaves Python's lock while it computes, so that the event loop goes
on, and tokens need no way from one process to another.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from onceedit_jax.serving.asking import Begun, Ended, Ticket
from onceedit_jax.serving.edits import Edits
from onceedit_jax.serving.engine import Engine, Told
from onceedit_jax.serving.metrics import Metrics
from onceedit_jax.serving.problems import Problem, failure

STOPPED = "the server is being stopped; ask again later"
MOST_FAULTS = 3  # rounds that fail one after another, from which the server counts as failing


class Worker:
    """Takes requests in the order in which they come, and writes their answers together.

    Attributes:
      edits: the edits that answers begin with from now on.
      faults: rounds that have failed since an answer was written to its end, by no request's fault.
    """

    def __init__(
        self, engines: Mapping[str, Engine], edits: Edits, waiting: int, metrics: Metrics
    ) -> None:
        """Wait for `start`.

        Args:
          engines: by the names of the targets.
          edits: the first edits.
          waiting: requests that wait at most.
          metrics: where the work is counted.
        """
        self.edits: Edits = edits
        self.faults: int = 0
        self._engines, self._most, self._metrics = engines, waiting, metrics
        self._queue: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="onceedit-worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End: whoever still waits is told so."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._queue)

    @property
    def writing(self) -> int:
        """Answers on their way."""
        return sum(len(engine.open) for engine in self._engines.values())

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Ask for answers; all of them are taken, or none.

        Raises:
          Problem: too many requests wait, or the server is being stopped.
        """
        with self._changed:
            if self._stopping:
                raise Problem(503, STOPPED)
            if len(self._queue) + len(tickets) > self._most:
                raise Problem(
                    429,
                    f"{len(self._queue)} prompts wait already, and {self._most} may; ask again "
                    "later, or with fewer prompts",
                    code="queue_full",
                )
            self._queue.extend(tickets)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self.writing or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    break
                taken = self._take()
            for engine, tickets in taken:
                self._deliver(self._guarded(engine, engine.step))
                if tickets:
                    begin = partial(engine.admit, self.edits, tickets)
                    self._deliver(self._guarded(engine, begin, tickets))
                self._metrics.rounds.observe(len(engine.open))
        gone = Problem(503, STOPPED)
        told: Told = [(ticket, gone) for ticket in self._queue]
        for engine in self._engines.values():
            told += engine.fail(gone)
        Ticket.deliver(told)

    def _take(self) -> list[tuple[Engine, list[Ticket]]]:
        """For each engine the requests that may begin, in their order."""
        taken = {name: list[Ticket]() for name in self._engines}
        rest: deque[Ticket] = deque()
        for ticket in self._queue:
            name = ticket.ask.target
            if ticket.given_up:
                continue
            if len(taken[name]) < self._engines[name].free:
                taken[name].append(ticket)
            else:
                rest.append(ticket)
        self._queue = rest
        return [(self._engines[name], tickets) for name, tickets in taken.items()]

    def _guarded(
        self, engine: Engine, work: Callable[[], Told], tickets: Sequence[Ticket] = ()
    ) -> Told:
        """What some work tells; a fault of it must not end the answers of later ones.

        Args:
          engine: whose work it is.
          work: a round of it.
          tickets: requests that begin in it.
        """
        try:
            told = work()
        except Exception as error:
            problem = failure(error)
            self.faults += problem.status == 500
        else:
            events = [event for _, event in told]
            if any(isinstance(event, Ended) for event in events):
                self.faults = 0
            else:
                self.faults += any(isinstance(e, Problem) and e.status == 500 for e in events)
            return told
        begun = {id(row.ticket) for row in engine.open}
        new = [(ticket, problem) for ticket in tickets if id(ticket) not in begun]
        # Requests that the batch has not seen yet leave it as it is.
        whole = problem.status == 500 or not new
        return [*(engine.fail(problem) if whole else []), *new]

    def _deliver(self, told: Told) -> None:
        for _, event in told:
            if isinstance(event, Begun):
                self._metrics.tokens.labels("prompt").inc(event.prompt_tokens)
            elif isinstance(event, Ended):
                self._metrics.tokens.labels("answer").inc(event.tokens)
        Ticket.deliver(told)
