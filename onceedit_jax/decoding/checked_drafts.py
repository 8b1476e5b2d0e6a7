"""Answers from drafts, which the target checks in one pass each, whatever their length."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from onceedit_jax.decoding.answers import PROMPTS, View, Writer, open_rows
from onceedit_jax.decoding.draft_reading import DraftReader, Proposed
from onceedit_jax.decoding.draws import TAKEN, Draws, after_draft, draw_each
from onceedit_jax.decoding.known_states import KnownStates
from onceedit_jax.decoding.numbers import check_states
from onceedit_jax.decoding.prefix_batching import CachedRows
from onceedit_jax.decoding.stopping import Answer
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.text.prompts import Prompt, PromptFormat

# From the plug-in's view of N decisions, the target's states `[N, D]` before them and the row that
# each belongs to, `[N]`, to the next tokens `[N]`.
NextTokens = Callable[
    [View, Float[np.ndarray, "decisions hidden"], Int[np.ndarray, "decisions"]],
    Int[np.ndarray, "decisions"],
]
# For each open row the tokens that its draft proposes, with their probabilities.
Proposals = dict[int, list[Proposed]]
DraftStates = Float[np.ndarray, "columns hidden"]


def checked_answers(
    target: Writer,
    prompts: Sequence[Prompt],
    reader: DraftReader,
    next_tokens: NextTokens,
    *,
    max_new_tokens: int,
    draws: Draws = TAKEN,
    known: KnownStates | None = None,
) -> list[list[int]]:
    """Answers from drafts, with one pass of the target for each draft.

    The pass runs over all tokens of a draft. They are accepted while the fusion agrees with them.
    Where it does not, the fusion's own token is taken, or one of the target's is drawn, and the
    cache is rolled back. So the result is the same as with one pass for each token.

    Args:
      target: the target.
      prompts: N of them.
      reader: reads the drafts.
      next_tokens: the fusion.
      max_new_tokens: length of the longest answer.
      draws: how tokens are drawn, if they are.
      known: states of texts that the target has read already, which are not read again.
    """
    heads = [target.format.encode(prompt) for prompt in prompts]
    answers = [Answer(target.format) for _ in prompts]

    def text(i: int, steps: Sequence[Proposed]) -> list[int]:
        # The last proposed token is not read: nothing is decided after it yet.
        return heads[i] + answers[i].tokens + [token for token, _ in steps[:-1]]

    def settle(proposals: Proposals, states: Mapping[int, DraftStates]) -> None:
        decided = _decisions(proposals, states, next_tokens)
        columns: dict[int, int] = {}  # of the rows that go on with a token that is drawn
        for i, steps in proposals.items():
            proposed = [token for token, _ in steps]
            tokens, column = after_draft(proposed, decided[i], draws=draws.settings.draws)
            for token in tokens:
                answers[i].add(token)
            if column is not None and not answers[i].ended:
                columns[i] = column
        if columns:
            before = np.stack([states[i][column] for i, column in columns.items()])
            rows = [draws.next(i, 1, written=len(answers[i].tokens)) for i in columns]
            drawn = draw_each(*target.model, before, rows)
            for i, token in zip(columns, drawn, strict=True):
                answers[i].add(token)

    rows = open_rows(answers, max_new_tokens)
    # All first drafts are written together, and those that were read along are settled at once.
    first = _proposed(answers, reader, rows, max_new_tokens)
    if known is not None:
        found = {i: known.after(text(i, steps), len(steps)) for i, steps in first.items()}
        states = {i: each for i, each in found.items() if each is not None}
        if states:
            settle({i: first[i] for i in states}, states)
    # Those of similar length are read together.
    rest = sorted(open_rows(answers, max_new_tokens), key=lambda i: len(heads[i]))
    for start in range(0, len(rest), PROMPTS):
        group = rest[start : start + PROMPTS]
        cached = CachedRows(*target.model, room=2 * max_new_tokens)
        while rows := open_rows(answers, max_new_tokens, group):
            proposals = _proposed(answers, reader, rows, max_new_tokens)
            # A row that has ended runs its last token again, and the result is not used.
            every = [proposals.get(i, [(-1, 0.0)]) for i in group]
            texts = [text(i, steps) for i, steps in zip(group, every, strict=True)]
            read = to_host(cached.advance(texts, [len(steps) for steps in every]))
            check_states(read, *target.model, texts[0])
            settle(proposals, dict(zip(group, read, strict=True)))
    return [answer.tokens for answer in answers]


def _decisions(
    proposals: Proposals, states: Mapping[int, DraftStates], next_tokens: NextTokens
) -> dict[int, list[int]]:
    """The fusion's token at each proposed token, `states[i][j]` being the state before it."""
    places = [(i, j) for i, steps in proposals.items() for j in range(len(steps))]
    before = np.concatenate([states[i][: len(steps)] for i, steps in proposals.items()])
    drafted, probability = zip(*(proposals[i][j] for i, j in places), strict=True)
    view = {
        "drafted": np.array(drafted, np.int32),
        "probability": np.array(probability, np.float32),
    }
    decided: dict[int, list[int]] = {i: [] for i in proposals}
    tokens = next_tokens(view, before, np.array([i for i, _ in places], np.int32)).tolist()
    for (i, _), token in zip(places, tokens, strict=True):
        decided[i].append(token)
    return decided


def trusted_answers(
    format: PromptFormat, rows: int, reader: DraftReader, *, max_new_tokens: int
) -> list[list[int]]:
    """The drafts themselves in the target's tokens; the target does not run.

    Args:
      format: how the target is asked.
      rows: B, the number of prompts.
      reader: reads the drafts.
      max_new_tokens: length of the longest answer.
    """
    answers = [Answer(format) for _ in range(rows)]
    while left := open_rows(answers, max_new_tokens):
        for i, steps in _proposed(answers, reader, left, max_new_tokens).items():
            for token, _ in steps:
                # The answer ends where the draft proposes no token.
                answers[i].add(format.tokenizer.end_id if token < 0 else token)
    return [answer.tokens for answer in answers]


def _proposed(
    answers: Sequence[Answer], reader: DraftReader, rows: Sequence[int], max_new_tokens: int
) -> Proposals:
    """What the drafts propose to some rows."""
    ahead = reader.ahead([answer.tokens for answer in answers], rows)
    return {
        i: steps[: max_new_tokens - len(answers[i].tokens)]
        for i, steps in zip(rows, ahead, strict=True)
    }
