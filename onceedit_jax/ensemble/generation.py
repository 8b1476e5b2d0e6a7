"""Greedy answers of a target alone and of the fused system, one token at a time (paper, 3.3)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from onceedit_jax.models.config import ModelConfig
from onceedit_jax.runner import CachedRows
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.tokenizer import Tokenizer

# From the state after each row (`[B, D]`) and the rows' continuations, the next tokens `[B]`.
NextTokens = Callable[[jax.Array, list[list[int]]], NDArray[np.int32]]


def greedy(
    params: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    next_tokens: NextTokens,
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    """Continue every prompt until its end token, the end of its first line, or `max_new_tokens`.

    Models that were never taught to answer begin with an empty line or two: these are no end.

    Args:
      params: the answering model's parameters.
      config: its configuration.
      tokenizer: its tokenizer.
      prompts: B texts.
      next_tokens: picks the next tokens; the target alone and a fusion differ in this alone.
      max_new_tokens: longest continuation.

    Returns:
      For each prompt its new tokens, without the one that ended them.
    """
    heads = [tokenizer.encode(prompt) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    running = [True] * len(prompts)
    rows = CachedRows(params, config, room=2 * max_new_tokens)
    for _ in range(max_new_tokens):
        states = rows.advance([head + answer for head, answer in zip(heads, answers, strict=True)])
        tokens = next_tokens(states, answers)
        for i, token in enumerate(tokens.tolist()):
            if not running[i]:
                continue
            if _ends(tokenizer, answers[i], token):
                running[i] = False
            else:
                answers[i].append(token)
        if not any(running):
            break
    return answers


def _ends(tokenizer: Tokenizer, answer: list[int], token: int) -> bool:
    if token == tokenizer.end_id:
        return True
    text = tokenizer.decode_bytes([*answer, token], continuation=True).lstrip()
    return b"\n" in text


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

    def view(self, answers: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
        """`states [B, D]` after prompt and answer, re-tokenised as the plug-in would write them."""
        states = self.rows.advance(
            [
                self.bridge.cross(prompt, answer)
                for prompt, answer in zip(self.prompts, answers, strict=True)
            ]
        )
        return {"states": np.asarray(states)}
