"""What is asked of the worker, and what it tells meanwhile."""

import asyncio
import dataclasses
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from onceedit_jax.decoding.options import GREEDY, SamplingSettings
from onceedit_jax.serving.problems import Problem
from onceedit_jax.serving.reasons import Reasons
from onceedit_jax.serving.schemas import FinishReason
from onceedit_jax.text.prompts import Prompt


@dataclasses.dataclass(frozen=True)
class Ask:
    """A prompt, and how it is answered.

    Attributes:
      prompt: a text or a conversation.
      target: name of the target.
      chat: whether the answer is a turn of a conversation. Otherwise the text is continued, beyond
        the ends of lines.
      edited: whether the plug-in may speak; without it the target answers as before all edits.
      max_tokens: of the answer; None takes `usual_tokens`, or fewer where no more fit.
      usual_tokens: of an answer.
      sampling: how tokens are chosen.
      stops: texts that end the answer.
      logprobs: how many of the likeliest tokens are told with each token; None tells nothing.
      reasons: tell why an edit speaks in the answer, or none does.
    """

    prompt: Prompt
    target: str
    chat: bool
    edited: bool = True
    max_tokens: int | None = None
    usual_tokens: int = 16
    sampling: SamplingSettings = GREEDY
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    reasons: bool = False


class Ranked(NamedTuple):
    """A token, its log-probability, and the likeliest tokens with theirs.

    Attributes:
      token: its id.
      logprob: its log-probability.
      top: the likeliest tokens, the likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Begun(NamedTuple):
    """An answer begins.

    Attributes:
      prompt_tokens: that the target reads.
      alpha: the plug-in's weight.
      edit: id of the edit that is meant; None for none.
      revision: of the ledger.
      reasons: why it is meant, or none is; None where the ask does not want them.
    """

    prompt_tokens: int
    alpha: float
    edit: int | None
    revision: int
    reasons: Reasons | None = None


class Piece(NamedTuple):
    """Some more text of an answer; it may be empty while a stop text may begin.

    Attributes:
      text: the text.
      tokens: that were written, and that log-probabilities are asked of.
    """

    text: str
    tokens: tuple[Ranked, ...] = ()


class Ended(NamedTuple):
    """An answer has ended.

    Attributes:
      reason: why.
      tokens: that were written.
    """

    reason: FinishReason
    tokens: int


Event = Begun | Piece | Ended | Problem


class Ticket:
    """An ask on its way; the event loop reads its events, and may give it up.

    Attributes:
      ask: the ask.
      index: which of the prompts of its request it is.
    """

    def __init__(self, ask: Ask, index: int, events: "asyncio.Queue[tuple[int, Event]]") -> None:
        self.ask: Ask = ask
        self.index: int = index
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._given_up = threading.Event()

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._given_up.is_set()

    def give_up(self) -> None:
        """Say that nobody waits for the answer any more."""
        self._given_up.set()

    @staticmethod
    def deliver(events: Sequence[tuple["Ticket", Event]]) -> None:
        """Hand events over from the worker's thread, in one go for each event loop."""
        loops = {id(ticket._loop): ticket._loop for ticket, _ in events}
        for number, loop in loops.items():
            own = [(t, event) for t, event in events if id(t._loop) == number]
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put, own)


def _put(events: Iterable[tuple[Ticket, Event]]) -> None:
    for ticket, event in events:
        ticket._events.put_nowait((ticket.index, event))
