"""Sentences to put before a prompt: the plug-in writes them itself, each from a random word."""

import re

import jax.numpy as jnp
import numpy as np

from onceedit_jax.decoding.greedy import StopTokens, greedy_continuation
from onceedit_jax.distributed.bucketing import batch_of
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer

ROWS = 32  # sentences written at once
LENGTH = 16  # tokens a sentence may have
_OPENING = re.compile(rb" [A-Z][a-z]{2,}")
_STOP = re.compile(r"[.!?](?=\s|$)|\n")


def context_sentences(
    model: LoadedModel, tokenizer: Tokenizer, count: int, rng: np.random.Generator
) -> list[str]:
    """Sentences about anything, each from another first word.

    The first words are random and the rest is greedy: the sentences are varied, and the model
    finds each of them likely.

    Args:
      model: the unedited plug-in.
      tokenizer: its tokenizer.
      count: how many; fewer if the vocabulary has fewer words that can begin a sentence.
      rng: chooses the words.

    Returns:
      At most `count` sentences that end with a stop.
    """
    pieces = tokenizer.vocabulary.bytes
    openings = [piece[1:].decode() for piece in pieces if _OPENING.fullmatch(piece)]
    chosen = rng.permutation(len(openings))[:count].tolist()
    words = [openings[i] for i in chosen]
    never = jnp.zeros(model.config.vocab_size, bool)
    sentences: list[str] = []
    for start in range(0, len(words), ROWS):
        group = words[start : start + ROWS]
        written = greedy_continuation(
            model.params,
            model.config,
            *batch_of([tokenizer.encode(word) for word in group], largest=ROWS),
            StopTokens(never, never, never),
            steps=LENGTH,
        )
        tokens = to_host(written.tokens).tolist()
        texts = [tokenizer.decode(row, continuation=True) for row in tokens]
        sentences += [_sentence(word + text) for word, text in zip(group, texts, strict=False)]
    return sentences


def _sentence(text: str) -> str:
    """The text up to its first stop, or else up to its last whole word."""
    stop = _STOP.search(text)
    text = (text[: stop.end()] if stop else text.rsplit(" ", 1)[0]).strip()
    return text if text.endswith((".", "!", "?")) else text + "."
