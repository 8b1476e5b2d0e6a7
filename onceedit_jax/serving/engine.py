"""Writes the answers of one target: whoever asks while others are answered joins their batch.

The gate and the plug-in's drafts come before an answer, the target's passes are shared by all rows.
So rows that began with different edits are decoded together, and each ends with its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from onceedit_jax.decoding.draws import Draw, after_draft, sampling_of
from onceedit_jax.decoding.joining_rows import Fresh, JoiningRows
from onceedit_jax.decoding.options import GREEDY
from onceedit_jax.decoding.prefix_batching import head_of, padded
from onceedit_jax.decoding.sampling import draw_after, log_probabilities
from onceedit_jax.distributed.mesh import to_host, using
from onceedit_jax.ensemble.beyond import as_told, asks_beyond
from onceedit_jax.ensemble.decisions import decide_all
from onceedit_jax.ensemble.hops import follow, rewritten
from onceedit_jax.ensemble.preparation import PreparedTarget
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.serving.asking import Ended, Event, Ranked, Ticket
from onceedit_jax.serving.edits import Edits
from onceedit_jax.serving.problems import Problem, failure
from onceedit_jax.serving.reasons import explained
from onceedit_jax.serving.row import NO_DRAFT, Drafts, Form, Proposal, Row
from onceedit_jax.serving.schemas import MOST_TOP
from onceedit_jax.text.prompts import check_prompts

Told = list[tuple[Ticket, Event]]


class _Decided(NamedTuple):
    """A token of a row.

    Attributes:
      column: of the states, the one that it was decided after.
      token: the token.
    """

    column: int
    token: int


class Engine:
    """Writes the answers of one target.

    Attributes:
      target: the target.
      rows: the batch.
      open: the answers on their way.
    """

    def __init__(self, target: PreparedTarget, *, largest: int, context: int) -> None:
        """Begin without answers.

        Args:
          target: the target.
          largest: answers that are written at once.
          context: tokens of a prompt and its answer at most.

        Raises:
          InputError: a rule that this engine cannot decide by.
        """
        check_rule(target.rule)
        self.target, self._context = target, context
        self._forms = {True: Form.chat(target), False: Form.text(target)}
        params, config = target.decoding_params, target.target.model.config
        self._head, self._config = head_of(params), config
        self.rows = JoiningRows(params, config, largest=largest, context=context)
        self.open: list[Row] = []

    @property
    def free(self) -> int:
        """How many more answers may begin."""
        return self.rows.free

    def admit(self, edits: Edits, tickets: Sequence[Ticket]) -> Told:
        """Begin answers, at most `free` of them, and write their first tokens."""
        told, rows = Told(), list[Row]()
        for ticket in tickets:
            try:
                check_prompts([ticket.ask.prompt])
                form = self._forms[ticket.ask.chat]
                rows.append(Row.of(ticket, form, edits, self._context))
            except Exception as error:
                told.append((ticket, failure(error)))
        with using(self.target.mesh):
            for chat in (True, False):
                asked = [r for r in rows if r.ticket.ask.edited and r.ticket.ask.chat == chat]
                if asked:
                    refused = self._judge_each(edits, self._forms[chat], asked)
                    told += refused
                    gone = {id(ticket) for ticket, _ in refused}
                    rows = [row for row in rows if id(row.ticket) not in gone]
            told += [(row.ticket, row.begun) for row in rows]
            if rows:
                told += self._first(rows)
        return told

    def step(self) -> Told:
        """Write the next tokens of all answers, after leaving out those that nobody waits for."""
        for row in [row for row in self.open if row.ticket.given_up]:
            self._leave(row)
        if not self.open:
            return []
        with using(self.target.mesh):
            rows = list(self.open)
            proposals = self._proposals(rows)
            fresh = {
                row.place: Fresh(
                    len(row.head) + len(row.tokens) - 1,
                    [row.tokens[-1], *(token for token, _ in steps[:-1])],
                    len(steps),
                )
                for row, steps in zip(rows, proposals, strict=True)
            }
            states = self.rows.advance(fresh)
            return self._decide(rows, proposals, states, [row.place for row in rows])

    def fail(self, problem: Problem) -> Told:
        """Give all answers up."""
        told: Told = [(row.ticket, problem) for row in self.open]
        self.open = []
        self.rows.clear()
        return told

    def warm(self) -> None:
        """Compile for common lengths, by running a few tokens."""
        token = self.target.target.tokenizer.end_id
        with using(self.target.mesh):
            for count in sorted({1, max(1, self.rows.largest // 4), self.rows.largest}):
                for length in (20, 40):
                    places, states = self.rows.join([[token] * length] * count, [1] * count)
                    self._draw(states, {})
                    fresh = {place: Fresh(length, [token]) for place in places}
                    self._draw(self.rows.advance(fresh), {})
                    self.rows.clear()

    def _judge_each(self, edits: Edits, form: Form, rows: Sequence[Row]) -> Told:
        """`_judge`, row by row where it fails: one prompt's fault ends no other's answer."""
        try:
            return self._judge(edits, form, rows)
        except Exception as error:
            if len(rows) == 1:
                return [(rows[0].ticket, failure(error))]
            return [told for row in rows for told in self._judge_each(edits, form, [row])]

    def _judge(self, edits: Edits, form: Form, rows: Sequence[Row]) -> Told:
        """Ask the gate about prompts, and begin the drafts of those that it opens for."""
        plugin, target, refused = edits.plugin, form.target, Told()
        prompts = [row.ticket.ask.prompt for row in rows]
        hops = follow(plugin, prompts)
        prompts = [rewritten(*each) for each in zip(prompts, hops, strict=True)]
        alphas, chosen = plugin.judged(prompts, None, [target])
        active = plugin.active(alphas)
        means = np.where(active, chosen, NOTHING)
        beyond = asks_beyond(plugin, [target.rule], prompts, means)
        told = as_told(plugin, target.rule, prompts, means, beyond)
        wanted = [i for i, row in enumerate(rows) if row.ticket.ask.reasons]
        reasons = explained(
            edits, target.rule, [prompts[i] for i in wanted], [hops[i] for i in wanted],
            active[wanted], beyond[wanted],
        )  # fmt: skip
        for i, each in zip(wanted, reasons, strict=True):
            rows[i].reasons = each
        speaking = []
        for i, row in enumerate(rows):
            row.alpha, row.edit = float(alphas[i]), edits.id_of(int(means[i]))
            try:
                if told[i] is not row.ticket.ask.prompt:
                    row.ask_instead(target.format.encode(told[i]), self._context)
            except InputError as error:
                refused.append((row.ticket, failure(error)))
                continue
            if active[i] and not beyond[i] and target.rule.reads == "draft":
                speaking.append(i)
        if speaking:
            plugin.recall.forget()
            reader = target.reader(plugin, [prompts[i] for i in speaking], chosen[speaking])
            some = [rows[i] for i in speaking]
            Drafts(reader, some).ahead(some)  # a draft that cannot be written fails here
        return refused

    def _first(self, rows: list[Row]) -> Told:
        proposals = self._proposals(rows)
        texts = [
            [*row.head, *(token for token, _ in steps[:-1])]
            for row, steps in zip(rows, proposals, strict=True)
        ]
        places, states = self.rows.join(texts, [len(steps) for steps in proposals])
        for row, place in zip(rows, places, strict=True):
            row.place = place
        self.open += rows
        return self._decide(rows, proposals, states, list(range(len(rows))))

    def _proposals(self, rows: Sequence[Row]) -> list[Proposal]:
        """What the drafts propose to each row, `NO_DRAFT` where the plug-in does not speak."""
        found: dict[int, Proposal] = {}
        drafting = [row for row in rows if row.drafts is not None]
        for _, members in itertools.groupby(drafting, key=lambda row: id(row.drafts)):
            some = list(members)
            for row, steps in zip(some, self._ahead(some), strict=True):
                found[id(row)] = steps[: row.limit - len(row.tokens)]
        return [found.get(id(row), NO_DRAFT) for row in rows]

    def _ahead(self, rows: Sequence[Row]) -> list[Proposal]:
        """What the drafts of rows that began together propose.

        A row whose text has become too long for the plug-in goes on without it.
        """
        drafts = rows[0].drafts
        assert drafts is not None
        try:
            return drafts.ahead(rows)
        except InputError:
            if len(rows) > 1:
                return [steps for row in rows for steps in self._ahead([row])]
            rows[0].drafts = None
            return [NO_DRAFT]

    def _decide(
        self,
        rows: Sequence[Row],
        proposals: Sequence[Proposal],
        states: Float[Array, "batch columns hidden"],
        lines: Sequence[int],
    ) -> Told:
        """Decide the next tokens of rows, and tell of them.

        Args:
          rows: the rows.
          proposals: what was proposed to each.
          states: of the target, before each proposed token.
          lines: the line of `states` that each row has.
        """
        decided: list[list[_Decided]] = [[] for _ in rows]
        undrawn: dict[int, int] = {}  # by the place among the rows, the column to draw after
        fused = self._fused(rows, proposals, states, lines)
        for i, (row, steps) in enumerate(zip(rows, proposals, strict=True)):
            if row.drafts is None:
                undrawn[i] = 0
                continue
            tokens, last = after_draft(
                [token for token, _ in steps],
                [fused[i, column] for column in range(len(steps))],
                draws=row.draws,
            )
            decided[i] = [_Decided(column, token) for column, token in enumerate(tokens)]
            if last is not None:
                undrawn[i] = last
        if undrawn:
            asked = {lines[i]: (column, rows[i].next_draw(column)) for i, column in undrawn.items()}
            drawn = self._draw(states, asked)
            for i, column in undrawn.items():
                decided[i].append(_Decided(column, int(drawn[lines[i]])))
        return self._accept(rows, decided, states, lines)

    def _fused(
        self,
        rows: Sequence[Row],
        proposals: Sequence[Proposal],
        states: Float[Array, "batch columns hidden"],
        lines: Sequence[int],
    ) -> dict[tuple[int, int], int]:
        """The rule's tokens of rows with drafts, by row and column."""
        found: dict[tuple[int, int], int] = {}
        drafting = [i for i, row in enumerate(rows) if row.drafts is not None]
        hosted = to_host(states) if drafting else None
        for _, members in itertools.groupby(drafting, key=lambda i: id(rows[i].edits)):
            places = [(i, column) for i in members for column in range(len(proposals[i]))]
            assert hosted is not None
            proposed = [proposals[i][column] for i, column in places]
            view = {
                "drafted": np.array([token for token, _ in proposed], np.int32),
                "probability": np.array([likely for _, likely in proposed], np.float32),
            }
            before = np.stack([hosted[lines[i], column] for i, column in places])
            alphas = np.array([rows[i].alpha for i, _ in places], np.float32)
            plugin = rows[places[0][0]].edits.plugin
            tokens = decide_all(plugin, self.target, view, before, alphas).fused
            found |= dict(zip(places, np.asarray(tokens).tolist(), strict=True))
        return found

    def _draw(
        self,
        states: Float[Array, "batch columns hidden"],
        asked: dict[int, tuple[int, Draw]],
    ) -> Int[np.ndarray, "batch"]:
        """Next tokens of some lines of `states`, each after a column and drawn in its own way."""
        height = states.shape[0]
        columns = np.zeros(height, np.int32)
        draws = [Draw(GREEDY, np.zeros(1, np.float32))] * height
        for line, (column, draw) in asked.items():
            columns[line], draws[line] = column, draw
        tokens = draw_after(self._head, self._config, states, columns, sampling_of(draws, height))
        hosted: np.ndarray = to_host(tokens)
        return hosted

    def _accept(
        self,
        rows: Sequence[Row],
        decided: Sequence[Sequence[_Decided]],
        states: Float[Array, "batch columns hidden"],
        lines: Sequence[int],
    ) -> Told:
        told = Told()
        ranks = iter(self._ranks(rows, decided, states, lines))
        for row, tokens in zip(rows, decided, strict=True):
            ranked = row.ticket.ask.logprobs is not None
            events = row.accept(
                [next(ranks) if ranked else Ranked(t.token, 0.0, ()) for t in tokens]
            )
            told += [(row.ticket, event) for event in events]
            if events and isinstance(events[-1], Ended):
                self._leave(row)
        return told

    def _ranks(
        self,
        rows: Sequence[Row],
        decided: Sequence[Sequence[_Decided]],
        states: Float[Array, "batch columns hidden"],
        lines: Sequence[int],
    ) -> Iterator[Ranked]:
        """The tokens of rows that ask for log-probabilities, with these."""
        places = [
            (row.ticket.ask.logprobs, lines[i], token)
            for i, row in enumerate(rows)
            if row.ticket.ask.logprobs is not None
            for token in decided[i]
        ]
        if not places:
            return
        hosted, mesh = to_host(states), self.target.mesh
        before = np.stack([hosted[line, token.column] for _, line, token in places])
        chosen = np.array([token.token for *_, token in places], np.int32)
        top = min(MOST_TOP, self._config.num_tokens)
        found = log_probabilities(
            self._head, self._config, padded(mesh, before), padded(mesh, chosen), top=top
        )
        columns = [to_host(array).tolist() for array in found]
        for (count, _, token), logprob, values, ids in zip(places, *columns, strict=False):
            best = list(zip(ids, values, strict=True))[:count]
            yield Ranked(token.token, logprob, tuple(best))

    def _leave(self, row: Row) -> None:
        self.open.remove(row)
        self.rows.leave(row.place)


def check_rule(rule: FusionRule) -> None:
    """Refuse a rule that answers cannot be written by as they come.

    Raises:
      InputError: it reads both models' logits at every token, or trusts drafts without a check.
    """
    if rule.reads == "logits" or rule.unchecked:
        why = "trusts drafts unchecked" if rule.unchecked else "reads both models' logits"
        raise InputError(
            f"the rule {rule.name} {why}, and the server writes many answers at once; use the rule "
            "draft or context (`--rule`)"
        )
