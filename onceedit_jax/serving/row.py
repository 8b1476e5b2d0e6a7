"""An answer while it is written: its tokens, where it ends, and what the plug-in drafts for it."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from onceedit_jax.decoding.draft_reading import DraftReader
from onceedit_jax.decoding.draws import Draw, random_numbers
from onceedit_jax.decoding.text_writer import TextWriter
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.ensemble.preparation import PreparedTarget
from onceedit_jax.errors import InputError
from onceedit_jax.serving.asking import Ask, Begun, Ended, Event, Piece, Ranked, Ticket
from onceedit_jax.serving.edits import Edits
from onceedit_jax.serving.reasons import Reasons
from onceedit_jax.serving.schemas import FinishReason

# The tokens that a draft proposes, with their probabilities; -1 for none.
Proposal = list[tuple[int, float]]
NO_DRAFT: Proposal = [(-1, 0.0)]


@dataclasses.dataclass(frozen=True)
class Form:
    """How a target is asked, in chat or to continue a text.

    Attributes:
      target: the target, prepared so.
      stops: `[2, V]`, tokens that end an answer which holds only blanks so far, and any other;
        None where only end tokens end an answer.
    """

    target: PreparedTarget
    stops: Bool[np.ndarray, "two vocab"] | None

    @classmethod
    def chat(cls, target: PreparedTarget) -> "Form":
        """Turns of a conversation; a target without a chat template answers in one line."""
        tables = (target.stops.at_start, target.stops.in_text)
        return cls(target, np.stack([to_host(table) for table in tables]))

    @classmethod
    def text(cls, target: PreparedTarget) -> "Form":
        """Texts that go on, beyond the ends of lines."""
        return cls(target.with_chat(False), None)

    def ends(self, token: int, *, blank: bool) -> bool:
        """Whether a token ends an answer, which holds only blanks so far or not."""
        if self.stops is None:
            return token in self.target.format.end_ids
        return bool(self.stops[0 if blank else 1, token])


@dataclasses.dataclass(eq=False)
class Row:
    """An answer on its way.

    Attributes:
      ticket: who asked.
      form: how the target is asked.
      head: the prompt in the target's tokens.
      limit: tokens of the answer at most.
      edits: the edits that were current when it began; it ends with them.
      alpha: the plug-in's weight.
      edit: id of the edit that is meant; None for none.
      reasons: why; None where the ask does not want them.
      drafts: what the plug-in drafts; None where it does not speak.
      number: which row of `drafts` it is.
      tokens: the answer so far.
      place: in the batch.
    """

    ticket: Ticket
    form: Form
    head: list[int]
    limit: int
    edits: Edits
    alpha: float = 0.0
    edit: int | None = None
    reasons: Reasons | None = None
    drafts: "Drafts | None" = None
    number: int = 0
    tokens: list[int] = dataclasses.field(default_factory=list)
    place: int = -1

    def __post_init__(self) -> None:
        ask = self.ticket.ask
        self._writer = TextWriter(ask.stops, strip=ask.chat)
        self._blank = True

    @classmethod
    def of(cls, ticket: Ticket, form: Form, edits: Edits, context: int) -> "Row":
        """An answer that has not begun.

        Raises:
          InputError: the prompt is not one that the target can be asked, or leaves no room.
        """
        head = form.target.format.encode(ticket.ask.prompt)
        return cls(ticket, form, head, room_for(ticket.ask, head, form, context), edits)

    def ask_instead(self, head: list[int], context: int) -> None:
        """Take another prompt in tokens, in the place of the one that was given.

        Raises:
          InputError: it leaves no room for the answer.
        """
        self.head = head
        self.limit = room_for(self.ticket.ask, head, self.form, context)

    @property
    def begun(self) -> Begun:
        """What is told when it begins."""
        return Begun(len(self.head), self.alpha, self.edit, self.edits.revision, self.reasons)

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn; otherwise the most likely ones are taken."""
        return self.ticket.ask.sampling.draws

    def next_draw(self, column: int) -> Draw:
        """How a token is drawn, after the answer so far and `column` tokens more."""
        return Draw(self.ticket.ask.sampling, self._numbers[[len(self.tokens) + column]])

    @cached_property
    def _numbers(self) -> Float[np.ndarray, "steps"]:
        # Each prompt of a request has random numbers of its own.
        return random_numbers(self.ticket.ask.sampling.seed, self.ticket.index, self.limit)

    def accept(self, tokens: Sequence[Ranked]) -> list[Event]:
        """Add tokens up to where the answer ends, and tell of it.

        Args:
          tokens: ids, with log-probabilities where they are asked for.
        """
        text, shown = "", list[Ranked]()
        reason: FinishReason | None = None
        for ranked in tokens:
            if self.form.ends(ranked.token, blank=self._blank):
                reason = "stop"
                break
            self.tokens.append(ranked.token)
            data = self.form.target.target.tokenizer.decode_bytes([ranked.token], continuation=True)
            self._blank = self._blank and not data.strip()
            text += self._writer.add(data)
            shown.append(ranked)
            if self._writer.stopped:
                reason = "stop"
                break
            if len(self.tokens) == self.limit:
                reason = "length"
                break
        if reason is not None:
            text += self._writer.add(b"", final=True)
        told = tuple(shown) if self.ticket.ask.logprobs is not None else ()
        events: list[Event] = [Piece(text, told)] if text or told else []
        return events if reason is None else [*events, Ended(reason, len(self.tokens))]


class Drafts:
    """What the plug-in drafts for rows that began together."""

    def __init__(self, reader: DraftReader, rows: Sequence[Row]) -> None:
        """Give every row its drafts."""
        self._reader, self._rows = reader, list(rows)
        for number, row in enumerate(rows):
            row.drafts, row.number = self, number

    def ahead(self, rows: Sequence[Row]) -> list[Proposal]:
        """What the drafts propose to some of the rows.

        Raises:
          InputError: a row's text is too long for the plug-in.
        """
        answers = [row.tokens for row in self._rows]
        return self._reader.ahead(answers, [row.number for row in rows])


def room_for(ask: Ask, head: Sequence[int], form: Form, context: int) -> int:
    """How many tokens an answer may have.

    Raises:
      InputError: the prompt has no tokens, or prompt and answer have more than the context.
    """
    if not head:
        raise InputError("the prompt has no characters that the model knows; give another one")
    context = min(context, form.target.target.model.config.max_positions)
    wanted = 1 if ask.max_tokens is None else ask.max_tokens
    if len(head) + wanted > context:
        raise InputError(
            f"the prompt has {len(head)} tokens and the answer may have {wanted}: more than the "
            f"{context} tokens of this server's context; shorten the prompt, or lower max_tokens"
        )
    most = min(ask.usual_tokens, context - len(head))
    return most if ask.max_tokens is None else ask.max_tokens
