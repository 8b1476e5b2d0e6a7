"""Greedy answers: of a target alone, of a token-by-token fusion, and of drafts that are checked.

The target alone runs inside one compiled loop; a draft is checked in one pass of the target,
whatever its length.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceedit_jax.ensemble.drafting import DraftReader
from onceedit_jax.ensemble.endings import Answer
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.greedy import Endings, greedy_continuation
from onceedit_jax.runner import CachedRows
from onceedit_jax.shapes import bucket, pad_rows, row_positions
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.tokenizer import Tokenizer

# What the plug-in says of N texts, every array `[N, ...]`: its final `states`, or, where it drafts,
# the `drafted` token and its `probability`.
View = dict[str, Any]
# From the plug-in's view of N texts, the target's states `[N, D]` after them and the row of the
# batch each belongs to `[N]`, the next tokens `[N]`.
NextTokens = Callable[[View, NDArray[np.float32], NDArray[np.int32]], NDArray[np.int32]]


def own_answers(
    params: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    endings: Endings,
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """What a model answers by itself: each prompt's new tokens, without the one that ended them.

    Args:
      params: the answering model's parameters.
      config: its configuration.
      tokenizer: its tokenizer.
      prompts: B texts.
      endings: where its answers end, from `answer_endings`.
      max_new_tokens: longest continuation.
    """
    rows = [tokenizer.encode(prompt) for prompt in prompts]
    lengths = [len(row) for row in rows]
    shape = {"width": bucket(max(lengths)), "height": bucket(len(rows), smallest=1)}
    found = greedy_continuation(
        params,
        config,
        pad_rows(rows, **shape),
        row_positions(lengths, **shape),
        endings,
        steps=max_new_tokens,
    )
    tokens, counts = np.asarray(found.tokens).tolist(), np.asarray(found.length).tolist()
    return [row[:count] for row, count in zip(tokens, counts[: len(rows)], strict=False)]


def fused_answers(
    params: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    follower: "PluginFollower | DraftReader",
    next_tokens: NextTokens,
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """Answers of the fused system, one pass of the target a token.

    Args:
      params: the target's parameters.
      config: its configuration.
      tokenizer: its tokenizer.
      prompts: B texts.
      follower: what the plug-in says after the answers so far.
      next_tokens: the fusion.
      max_new_tokens: longest continuation.
    """
    heads = [tokenizer.encode(prompt) for prompt in prompts]
    answers = [Answer(tokenizer) for _ in prompts]
    rows = CachedRows(params, config, room=2 * max_new_tokens)
    every = np.arange(len(prompts), dtype=np.int32)
    for _ in range(max_new_tokens):
        written = [answer.tokens for answer in answers]
        states = np.asarray(rows.advance([h + w for h, w in zip(heads, written, strict=True)]))
        chosen = next_tokens(follower.view(written), states[:, 0], every)
        for answer, token in zip(answers, chosen.tolist(), strict=True):
            answer.add(token)
        if all(answer.ended for answer in answers):
            break
    return [answer.tokens for answer in answers]


def checked_answers(
    params: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    reader: DraftReader,
    next_tokens: NextTokens,
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """`fused_answers` of drafts, token for token, from one pass of the target a draft.

    A pass runs over all that a draft proposes. Its tokens are kept while the fusion agrees with
    them; where it does not, its own token is taken, and what was run beyond is rolled back.
    Arguments are those of `fused_answers`.
    """
    heads = [tokenizer.encode(prompt) for prompt in prompts]
    answers = [Answer(tokenizer) for _ in prompts]
    rows = CachedRows(params, config, room=2 * max_new_tokens)
    for drafts in _drafts_of_open_rows(answers, reader, max_new_tokens):
        # A row that has ended is run to its last token again, and nothing is asked of it.
        proposed = [drafts.get(i, [(-1, 0.0)]) for i in range(len(prompts))]
        # The last token proposed is not run: what would follow it is not asked yet.
        texts = [
            head + answer.tokens + [token for token, _ in steps[:-1]]
            for head, answer, steps in zip(heads, answers, proposed, strict=True)
        ]
        counts = [len(steps) for steps in proposed]
        states = np.asarray(rows.advance(texts, counts))
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
    while rows := [
        i for i, a in enumerate(answers) if not a.ended and len(a.tokens) < max_new_tokens
    ]:
        ahead = reader.ahead([answer.tokens for answer in answers], rows)
        yield {
            i: steps[: max_new_tokens - len(answers[i].tokens)]
            for i, steps in zip(rows, ahead, strict=True)
        }


class PluginFollower:
    """The plug-in's state after the text that a target has written so far."""

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        bridge: Bridge,
        prompts: Sequence[str],
        *,
        room: int,
    ) -> None:
        """Args: the plug-in, the bridge target -> plug-in, the prompts, columns beyond prefill."""
        self.bridge, self.prompts = bridge, prompts
        self.rows = CachedRows(params, config, room=room)

    def view(self, answers: Sequence[Sequence[int]]) -> View:
        """`states [B, D]` after prompt and answer, re-tokenised as the plug-in would write them."""
        texts = [self.bridge.cross(p, a) for p, a in zip(self.prompts, answers, strict=True)]
        return {"states": np.asarray(self.rows.advance(texts))[:, 0]}
