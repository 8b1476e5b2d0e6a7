"""Answers: of a target alone, of a token-by-token fusion, and of drafts that are checked.

The target alone and the token-by-token fusion run inside one compiled loop. A draft is checked in
one pass of the target, whatever its length.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from onceedit_jax.decoding.draft_reading import DraftReader
from onceedit_jax.decoding.draws import TAKEN, Draws, after_draft, draw_each
from onceedit_jax.decoding.fused import Prompts, Spelling, fused_continuation
from onceedit_jax.decoding.greedy import Continuation, StopTokens, greedy_continuation
from onceedit_jax.decoding.many_rows import many_continuations
from onceedit_jax.decoding.numbers import check_states, check_written
from onceedit_jax.decoding.prefix_batching import CachedRows, shared_batch
from onceedit_jax.decoding.sampled import sampled_continuation
from onceedit_jax.decoding.stopping import Answer, places_of
from onceedit_jax.distributed.bucketing import group_height, round_up
from onceedit_jax.distributed.mesh import batch_multiple, mesh_of, to_host
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.models.adapters import adapted
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.prompts import Prompt, PromptFormat
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

PROMPTS = 16  # prompts answered at once where both models or drafts take part

# What the plug-in contributes to N texts, arrays `[N, ...]`: its final `states`, or, for a rule
# that reads drafts, the `drafted` token and its `probability`.
View = dict[str, Any]
# From the plug-in's view of N decisions, the target's states `[N, D]` before them and the row of
# the batch that each belongs to, `[N]`, to the next tokens `[N]`.
NextTokens = Callable[
    [View, Float[np.ndarray, "decisions hidden"], Int[np.ndarray, "decisions"]],
    Int[np.ndarray, "decisions"],
]
# For each open row the tokens that its draft proposes, with their probabilities.
Proposals = dict[int, list[tuple[int, float]]]


class Writer(NamedTuple):
    """A model that writes.

    Attributes:
      params: its parameters, in the layout that it decodes with.
      config: its configuration.
      format: how it is asked.
      adapters: its adapters; None for a model without any.
      chosen: for each of the prompts that it is asked, the adapter that answers.
    """

    params: Any
    config: ModelConfig
    format: PromptFormat
    adapters: Params | None = None
    chosen: Int[np.ndarray, "prompts"] | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self.format.tokenizer

    @property
    def model(self) -> tuple[Any, ModelConfig]:
        """Parameters and configuration, without the tokenizer."""
        return self.params, self.config

    def params_of(self, rows: Sequence[int]) -> Any:
        """The parameters that answer some of the prompts."""
        if self.adapters is None or self.chosen is None:
            return self.params
        return adapted(self.params, self.adapters, self.chosen[list(rows)])

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Answers in tokens as texts."""
        tokenizer = self.tokenizer
        return [tokenizer.decode(answer, continuation=True).strip() for answer in answers]


def own_texts(
    model: Writer, prompts: Sequence[Prompt], stops: StopTokens, *, max_new_tokens: int
) -> list[str]:
    """`own_answers` as texts, to any number of prompts."""
    return model.texts(own_tokens(model, prompts, stops, max_new_tokens=max_new_tokens))


def own_tokens(
    model: Writer,
    prompts: Sequence[Prompt],
    stops: StopTokens,
    *,
    max_new_tokens: int,
    draws: Draws = TAKEN,
) -> list[list[int]]:
    """`own_answers` to any number of prompts."""
    if len(prompts) > PROMPTS and not mesh_of(model.params).is_multi_process:
        rows = [model.format.encode(prompt) for prompt in prompts]
        how: dict[str, Any] = {"steps": max_new_tokens, "draws": draws}
        return [each.tokens for each in many_continuations(*model.model, rows, stops, **how)]
    answers: list[list[int]] = []
    for start in range(0, len(prompts), PROMPTS):
        group = prompts[start : start + PROMPTS]
        drawn = draws.of(range(start, start + len(group)))
        answers += own_answers(model, group, stops, max_new_tokens=max_new_tokens, draws=drawn)
    return answers


def own_answers(
    model: Writer,
    prompts: Sequence[Prompt],
    stops: StopTokens,
    *,
    max_new_tokens: int,
    draws: Draws = TAKEN,
) -> list[list[int]]:
    """A model's own answers: each prompt's new tokens, without the one that ended them.

    Args:
      model: the model.
      prompts: at most `PROMPTS` of them.
      stops: tokens that end its answers, from `answer_stops`.
      max_new_tokens: length of the longest answer.
      draws: how tokens are drawn, if they are.

    Raises:
      InputError: a prompt and its answer are longer than the model's context.
    """
    rows = [model.format.encode(prompt) for prompt in prompts]
    model.config.check_length(max(map(len, rows)) + max_new_tokens - 1)  # the last is not read
    batch = shared_batch(mesh_of(model.params), rows, largest=PROMPTS)
    sampling = draws.sampling(max_new_tokens, height=batch[0].shape[0])
    if sampling is None:
        written = greedy_continuation(*model.model, *batch, stops, steps=max_new_tokens)
    else:
        written = sampled_continuation(*model.model, *batch, stops, sampling, steps=max_new_tokens)
    tokens, lengths = to_host(written.tokens).tolist(), to_host(written.length).tolist()
    check_written(written, *model.model, rows)
    return [row[:length] for row, length in zip(tokens, lengths[: len(rows)], strict=False)]


def fused_answers(
    plugin: Writer,
    target: Writer,
    prompts: Sequence[Prompt],
    read: Sequence[str],
    alphas: Float[np.ndarray, "prompts"],
    stops: StopTokens,
    rule: FusionRule,
    state: Any,
    spelling: Spelling,
    *,
    max_new_tokens: int,
    draws: Draws = TAKEN,
) -> list[list[int]]:
    """Answers of the fused system token by token, in as few compiled loops as the texts allow.

    Args:
      plugin: the edited plug-in.
      target: the target.
      prompts: at most `PROMPTS` of them.
      read: the prompts as the plug-in reads them.
      alphas: `[B]`.
      stops: tokens that end the target's answers.
      rule: the fusion rule; it reads both models' logits.
      state: the rule's state for this pair.
      spelling: of the target's tokens, by the plug-in.
      max_new_tokens: length of the longest answer.
      draws: how tokens are drawn from the rule's distribution, if they are.

    Raises:
      InputError: a prompt and its answer are longer than a model's context.
    """
    texts = _FusedTexts(plugin, target, prompts, read, spelling)
    target.config.check_length(max(map(len, texts.heads)) + max_new_tokens - 1)
    mesh = mesh_of(target.params)
    height = round_up(group_height(len(prompts), PROMPTS), batch_multiple(mesh))
    while open_rows := _open_rows(texts.answers, max_new_tokens):
        # Copies of an open row fill up the batch: they end when it does, so they cost no step.
        rows = open_rows + open_rows[:1] * (height - len(open_rows))
        lengths = [len(texts.answers[i].tokens) for i in rows]
        limit = max_new_tokens - min(lengths)
        plugin_texts, target_texts = texts.of_plugin(rows), texts.of_target(rows)
        # One of the target's tokens may be several of the plug-in's.
        plugin.config.check_length(max(map(len, plugin_texts)) + texts.most_pieces * limit)
        written = fused_continuation(
            plugin.params_of(rows),
            plugin.config,
            *target.model,
            *_batches(mesh, plugin_texts, target_texts),
            jnp.asarray(alphas[rows]),
            jnp.asarray([texts.answers[i].is_blank for i in rows]),
            state,
            spelling,
            stops,
            rule=rule,
            steps=max_new_tokens,
            limit=limit,
            place=places_of([texts.answers[i] for i in rows], stops),
            sampling=draws.of(rows).sampling(max_new_tokens, height=height, written=lengths),
        )
        check_written(written, *target.model, target_texts)
        decided = zip(open_rows, plugin_texts, _tokens_of_rows(written), strict=False)
        for i, plugin_text, tokens in decided:
            texts.accept(i, plugin_text, tokens, max_new_tokens)
    return [answer.tokens for answer in texts.answers]


class _FusedTexts:
    """Prompts with their answers so far, in both models' tokens.

    Attributes:
      heads: the prompts in the target's tokens.
      answers: the target's.
      most_pieces: the most plug-in tokens that one of the target's tokens is spelled with.
    """

    def __init__(
        self,
        plugin: Writer,
        target: Writer,
        prompts: Sequence[Prompt],
        read: Sequence[str],
        spelling: Spelling,
    ) -> None:
        self.read = read
        self.bridge = Bridge(target.tokenizer, plugin.tokenizer, target.format.spaced)
        self.heads = [target.format.encode(prompt) for prompt in prompts]
        self.answers = [Answer(target.format) for _ in prompts]
        self.pieces, self.counts = (to_host(table) for table in spelling)
        self.most_pieces = self.pieces.shape[1]

    def of_plugin(self, rows: Sequence[int]) -> list[list[int]]:
        """Texts of some rows, as the plug-in writes them."""
        return [self.bridge.cross(self.read[i], self.answers[i].tokens) for i in rows]

    def of_target(self, rows: Sequence[int]) -> list[list[int]]:
        """Texts of some rows in the target's tokens."""
        return [self.heads[i] + self.answers[i].tokens for i in rows]

    def accept(
        self, i: int, plugin_text: list[int], tokens: Sequence[int], max_new_tokens: int
    ) -> None:
        """Add a loop's tokens to a row's answer, as long as both models see the same text.

        Inside a loop the plug-in reads the spelling of one target token after another. By itself it
        may write the same text otherwise (` Wash` and `ington` as one token). The answer ends there
        for now, and the next loop begins with the text as the plug-in writes it.

        Args:
          i: the row.
          plugin_text: its text before the loop, as the plug-in writes it.
          tokens: the target's tokens that the loop has written.
          max_new_tokens: length of the longest answer.
        """
        answer = self.answers[i]
        for token in tokens:
            answer.add(token)
            plugin_text = [*plugin_text, *self.pieces[token, : self.counts[token]].tolist()]
            is_full = answer.ended or len(answer.tokens) == max_new_tokens
            if is_full or self.bridge.cross(self.read[i], answer.tokens) != plugin_text:
                break


def _batches(
    mesh: Mesh, plugin_texts: list[list[int]], target_texts: list[list[int]]
) -> tuple[Prompts, Prompts]:
    """Both models' texts as batches of one width, so that few pairs of shapes are compiled."""
    height = len(plugin_texts)
    width = max(map(len, [*plugin_texts, *target_texts]))
    plugin, target = (
        Prompts(*map(jnp.asarray, shared_batch(mesh, texts, largest=height, width=width)))
        for texts in (plugin_texts, target_texts)
    )
    return plugin, target


def _tokens_of_rows(written: Continuation) -> list[list[int]]:
    """Each row's tokens, the one that stopped it included."""
    counts = (to_host(written.length) + to_host(written.stopped)).tolist()
    tokens = to_host(written.tokens).tolist()
    return [row[:count] for row, count in zip(tokens, counts, strict=True)]


def checked_answers(
    target: Writer,
    prompts: Sequence[Prompt],
    reader: DraftReader,
    next_tokens: NextTokens,
    *,
    max_new_tokens: int,
    draws: Draws = TAKEN,
) -> list[list[int]]:
    """Answers from drafts, with one pass of the target for each draft.

    The pass runs over all tokens of a draft. They are accepted while the fusion agrees with them.
    Where it does not, the fusion's own token is taken, or one of the target's is drawn, and the
    cache is rolled back. So the result is the same as with one pass for each token.

    Args:
      target: the target.
      prompts: B of them.
      reader: reads the drafts.
      next_tokens: the fusion.
      max_new_tokens: length of the longest answer.
      draws: how tokens are drawn, if they are.
    """
    heads = [target.format.encode(prompt) for prompt in prompts]
    answers = [Answer(target.format) for _ in prompts]
    cached = CachedRows(*target.model, room=2 * max_new_tokens)
    for proposals in _proposals(answers, reader, max_new_tokens):
        # A row that has ended runs its last token again, and the result is not used.
        every = [proposals.get(i, [(-1, 0.0)]) for i in range(len(prompts))]
        # The last proposed token is not run: nothing is decided after it yet.
        texts = [
            head + answer.tokens + [token for token, _ in steps[:-1]]
            for head, answer, steps in zip(heads, answers, every, strict=True)
        ]
        states = to_host(cached.advance(texts, [len(steps) for steps in every]))
        check_states(states, *target.model, texts[0])
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
            before = np.stack([states[i, column] for i, column in columns.items()])
            rows = [draws.next(i, 1, written=len(answers[i].tokens)) for i in columns]
            drawn = draw_each(*target.model, before, rows)
            for i, token in zip(columns, drawn, strict=True):
                answers[i].add(token)
    return [answer.tokens for answer in answers]


def _decisions(
    proposals: Proposals,
    states: Float[np.ndarray, "batch columns hidden"],
    next_tokens: NextTokens,
) -> dict[int, list[int]]:
    """The fusion's token at each proposed token, `states[i, j]` being the state before it."""
    places = [(i, j) for i, steps in proposals.items() for j in range(len(steps))]
    row, column = (np.array(part, np.int32) for part in zip(*places, strict=True))
    drafted, probability = zip(*(proposals[i][j] for i, j in places), strict=True)
    view = {
        "drafted": np.array(drafted, np.int32),
        "probability": np.array(probability, np.float32),
    }
    decided: dict[int, list[int]] = {i: [] for i in proposals}
    tokens = next_tokens(view, states[row, column], row).tolist()
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
    for proposals in _proposals(answers, reader, max_new_tokens):
        for i, steps in proposals.items():
            for token, _ in steps:
                # The answer ends where the draft proposes no token.
                answers[i].add(format.tokenizer.end_id if token < 0 else token)
    return [answer.tokens for answer in answers]


def _proposals(
    answers: Sequence[Answer], reader: DraftReader, max_new_tokens: int
) -> Iterator[Proposals]:
    """What the drafts propose to every open row, again and again until no row is open."""
    while rows := _open_rows(answers, max_new_tokens):
        ahead = reader.ahead([answer.tokens for answer in answers], rows)
        yield {
            i: steps[: max_new_tokens - len(answers[i].tokens)]
            for i, steps in zip(rows, ahead, strict=True)
        }


def _open_rows(answers: Sequence[Answer], max_new_tokens: int) -> list[int]:
    """The rows that may still grow."""
    return [i for i, a in enumerate(answers) if not a.ended and len(a.tokens) < max_new_tokens]
