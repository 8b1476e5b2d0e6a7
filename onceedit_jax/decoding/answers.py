"""Greedy answers: of a target alone, of a token-by-token fusion, and of drafts that are checked.

The target alone and the token-by-token fusion run inside one compiled loop; a draft is checked in
one pass of the target, whatever its length.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from onceedit_jax.decoding.drafting import DraftReader
from onceedit_jax.decoding.fused import Prompts, Spelling, fused_continuation
from onceedit_jax.decoding.greedy import Endings, greedy_continuation
from onceedit_jax.decoding.prefix_batching import CachedRows, shared_batch
from onceedit_jax.decoding.stopping import Answer
from onceedit_jax.distributed.bucketing import group_height, round_up
from onceedit_jax.distributed.mesh import batch_multiple, mesh_of, to_host
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.tokenizer import Tokenizer

PROMPTS = 16  # prompts answered at once

# What the plug-in says of N texts, every array `[N, ...]`: its final `states`, or, where it drafts,
# the `drafted` token and its `probability`.
View = dict[str, Any]
# From the plug-in's view of N texts, the target's states `[N, D]` after them and the row of the
# batch each belongs to `[N]`, the next tokens `[N]`.
NextTokens = Callable[[View, NDArray[np.float32], NDArray[np.int32]], NDArray[np.int32]]


class Writer(NamedTuple):
    """A model that writes: parameters in the layout that it decodes with, and what they need."""

    params: Any
    config: ModelConfig
    tokenizer: Tokenizer


def own_answers(
    model: Writer, prompts: Sequence[str], endings: Endings, *, max_new_tokens: int
) -> list[list[int]]:
    """What a model answers by itself: each prompt's new tokens, without the one that ended them.

    Args:
      model: the model.
      prompts: at most `PROMPTS` texts.
      endings: where its answers end, from `answer_endings`.
      max_new_tokens: longest continuation.

    Raises:
      InputError: a prompt and its continuation are longer than the model's learnt positions.
    """
    rows = [model.tokenizer.encode(prompt) for prompt in prompts]
    model.config.check_length(max(map(len, rows)) + max_new_tokens - 1)  # the last is not read
    found = greedy_continuation(
        model.params,
        model.config,
        *shared_batch(mesh_of(model.params), rows, largest=PROMPTS),
        endings,
        steps=max_new_tokens,
    )
    tokens, counts = to_host(found.tokens).tolist(), to_host(found.length).tolist()
    return [row[:count] for row, count in zip(tokens, counts[: len(rows)], strict=False)]


def fused_answers(
    plugin: Writer,
    target: Writer,
    prompts: Sequence[str],
    alphas: NDArray[np.float32],
    endings: Endings,
    rule: FusionRule,
    state: Any,
    spelling: Spelling,
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """Answers of the fused system token by token, in as few compiled loops as the texts allow.

    Inside a loop the plug-in reads what is written token by token. Where it would have written the
    text otherwise (` Wash` and `ington` as one token), the answer is kept up to there, and the
    next loop begins with the text as the plug-in writes it.

    Args:
      plugin: the edited plug-in.
      target: the target.
      prompts: at most `PROMPTS` texts.
      alphas: `[B]`.
      endings: where the target's answers end.
      rule: the fusion rule; it reads both models' logits.
      state: the rule's state for this pair.
      spelling: of the target's tokens, by the plug-in.
      max_new_tokens: longest continuation.

    Raises:
      InputError: a prompt and its continuation are longer than a model's learnt positions.
    """
    bridge = Bridge(target.tokenizer, plugin.tokenizer)
    heads = [target.tokenizer.encode(prompt) for prompt in prompts]
    answers = [Answer(target.tokenizer) for _ in prompts]
    pieces, counts = (to_host(table) for table in spelling)
    target.config.check_length(max(map(len, heads)) + max_new_tokens - 1)
    mesh = mesh_of(target.params)
    height = round_up(group_height(len(prompts), PROMPTS), batch_multiple(mesh))
    while open_rows := _open_rows(answers, max_new_tokens):
        # One row again and again fills the batch: it ends when that row does, and no sooner.
        rows = open_rows + open_rows[:1] * (height - len(open_rows))
        read = {
            "plugin": [bridge.cross(prompts[i], answers[i].tokens) for i in rows],
            "target": [heads[i] + answers[i].tokens for i in rows],
        }
        limit = max_new_tokens - min(len(answers[i].tokens) for i in rows)
        # One of the target's tokens may be several of the plug-in's.
        plugin.config.check_length(max(map(len, read["plugin"])) + pieces.shape[1] * limit)
        # One width for both, so that few pairs of shapes are compiled.
        width = max(len(text) for texts in read.values() for text in texts)
        plugin_prompts, target_prompts = (
            Prompts(*map(jnp.asarray, shared_batch(mesh, texts, largest=height, width=width)))
            for texts in read.values()
        )
        found = fused_continuation(
            plugin.params,
            plugin.config,
            target.params,
            target.config,
            plugin_prompts,
            target_prompts,
            jnp.asarray(alphas[rows]),
            jnp.asarray([answers[i].is_blank for i in rows]),
            state,
            spelling,
            endings,
            rule=rule,
            steps=max_new_tokens,
            limit=limit,
        )
        tokens = to_host(found.tokens).tolist()
        decided = (to_host(found.length) + to_host(found.stopped)).tolist()
        for i, text, row, count in zip(open_rows, read["plugin"], tokens, decided, strict=False):
            answer = answers[i]
            for token in row[:count]:
                answer.add(token)
                text = [*text, *pieces[token, : counts[token]].tolist()]
                full = answer.ended or len(answer.tokens) == max_new_tokens
                if full or bridge.cross(prompts[i], answer.tokens) != text:
                    break
    return [answer.tokens for answer in answers]


def checked_answers(
    target: Writer,
    prompts: Sequence[str],
    reader: DraftReader,
    next_tokens: NextTokens,
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """Answers from drafts, one pass of the target a draft.

    A pass runs over all that a draft proposes. Its tokens are kept while the fusion agrees with
    them; where it does not, its own token is taken, and what was run beyond is rolled back. So
    these are the answers of one pass a token.

    Args:
      target: the target.
      prompts: B texts.
      reader: the drafts.
      next_tokens: the fusion.
      max_new_tokens: longest continuation.
    """
    heads = [target.tokenizer.encode(prompt) for prompt in prompts]
    answers = [Answer(target.tokenizer) for _ in prompts]
    rows = CachedRows(target.params, target.config, room=2 * max_new_tokens)
    for drafts in _drafts_of_open_rows(answers, reader, max_new_tokens):
        # A row that has ended is run to its last token again, and nothing is asked of it.
        proposed = [drafts.get(i, [(-1, 0.0)]) for i in range(len(prompts))]
        # The last token proposed is not run: what would follow it is not asked yet.
        texts = [
            head + answer.tokens + [token for token, _ in steps[:-1]]
            for head, answer, steps in zip(heads, answers, proposed, strict=True)
        ]
        counts = [len(steps) for steps in proposed]
        states = to_host(rows.advance(texts, counts))
        places = [(i, j) for i in drafts for j in range(counts[i])]
        row, column = (np.array(part, np.int32) for part in zip(*places, strict=True))
        tokens, chances = zip(*(proposed[i][j] for i, j in places), strict=True)
        view = {
            "drafted": np.array(tokens, np.int32),
            "probability": np.array(chances, np.float32),
        }
        chosen = next_tokens(view, states[row, column], row).tolist()
        decided: dict[int, list[int]] = {i: [] for i in drafts}
        for (i, _), token in zip(places, chosen, strict=True):
            decided[i].append(token)
        for i in drafts:
            for token, (wanted, _) in zip(decided[i], proposed[i], strict=True):
                answers[i].add(token)
                if token != wanted or answers[i].ended:
                    break
    return [answer.tokens for answer in answers]


def trusted_answers(
    tokenizer: Tokenizer, prompts: Sequence[str], reader: DraftReader, *, max_new_tokens: int
) -> list[list[int]]:
    """The drafts themselves, in the target's tokens; the target is not asked.

    Args:
      tokenizer: the target's tokenizer.
      prompts: B texts.
      reader: the drafts.
      max_new_tokens: longest continuation.
    """
    answers = [Answer(tokenizer) for _ in prompts]
    for drafts in _drafts_of_open_rows(answers, reader, max_new_tokens):
        for i, steps in drafts.items():
            for token, _ in steps:
                # A draft without a word has nothing to say, and neither has the answer.
                answers[i].add(tokenizer.end_id if token < 0 else token)
    return [answer.tokens for answer in answers]


def _drafts_of_open_rows(
    answers: Sequence[Answer], reader: DraftReader, max_new_tokens: int
) -> Iterator[dict[int, list[tuple[int, float]]]]:
    """What is proposed to every row that may still grow, again and again until none may."""
    while rows := _open_rows(answers, max_new_tokens):
        ahead = reader.ahead([answer.tokens for answer in answers], rows)
        yield {
            i: steps[: max_new_tokens - len(answers[i].tokens)]
            for i, steps in zip(rows, ahead, strict=True)
        }


def _open_rows(answers: Sequence[Answer], max_new_tokens: int) -> list[int]:
    """The rows that may still grow."""
    return [i for i, a in enumerate(answers) if not a.ended and len(a.tokens) < max_new_tokens]
