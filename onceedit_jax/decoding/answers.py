"""Answers of a target alone, and of a token-by-token fusion, each inside one compiled loop."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from onceedit_jax.decoding.draws import TAKEN, Draws
from onceedit_jax.decoding.fused import Prompts, Spelling, fused_continuation
from onceedit_jax.decoding.greedy import Continuation, StopTokens, greedy_continuation
from onceedit_jax.decoding.known_states import KnownStates
from onceedit_jax.decoding.many_rows import many_continuations
from onceedit_jax.decoding.numbers import check_states, check_written
from onceedit_jax.decoding.prefix_batching import shared_batch
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
    known: KnownStates | None = None,
) -> list[list[int]]:
    """`own_answers` to any number of prompts; `known` gets the states of what is read along."""
    if share_a_batch(model.params, len(prompts)):
        rows = [model.format.encode(prompt) for prompt in prompts]
        # Of what is read along no more than is written, so that both fit into the context.
        along = None if known is None else known.expected(rows, most=max_new_tokens - 1)
        how: dict[str, Any] = {"steps": max_new_tokens, "draws": draws, "along": along}
        written = many_continuations(*model.model, rows, stops, **how)
        if known is not None and along is not None:
            for row, more, each in zip(rows, along, written, strict=True):
                assert each.along is not None
                check_states(each.along, *model.model, row)
                known.keep(row, more, each.along)
        return [each.tokens for each in written]
    answers: list[list[int]] = []
    for start in range(0, len(prompts), PROMPTS):
        group = prompts[start : start + PROMPTS]
        drawn = draws.of(range(start, start + len(group)))
        answers += own_answers(model, group, stops, max_new_tokens=max_new_tokens, draws=drawn)
    return answers


def share_a_batch(params: Any, prompts: int) -> bool:
    """Whether so many prompts are answered in one batch, which rows join and leave.

    The hosts of a mesh that several share run the same programs, whatever their rows are.
    """
    return prompts > PROMPTS and not mesh_of(params).is_multi_process


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
    while running := open_rows(texts.answers, max_new_tokens):
        # Copies of an open row fill up the batch: they end when it does, so they cost no step.
        rows = running + running[:1] * (height - len(running))
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
        decided = zip(running, plugin_texts, _tokens_of_rows(written), strict=False)
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


def open_rows(
    answers: Sequence[Answer], max_new_tokens: int, among: Sequence[int] | None = None
) -> list[int]:
    """The rows that may still grow, among some (default: all)."""
    rows = range(len(answers)) if among is None else among
    return [i for i in rows if not answers[i].ended and len(answers[i].tokens) < max_new_tokens]
