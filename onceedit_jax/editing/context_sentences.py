"""Sentences to put before a prompt: the plug-in writes them itself, each from a random word."""

import contextlib
import json
import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from onceedit_jax.decoding.greedy import StopTokens, greedy_continuation
from onceedit_jax.distributed.bucketing import batch_of
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.editing.settings import fingerprint
from onceedit_jax.errors import RunError
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.storage.sources import cache_folder
from onceedit_jax.storage.text_files import write_whole
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
    finds each of them likely. They are kept in the cache folder, since every edit of a model by one
    seed needs the same ones.

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
    if model.spec is None:  # its content hash may not tell it from another one
        return _written(model, tokenizer, words)
    key = fingerprint(model.content_hash, words, LENGTH, _STOP.pattern)[:32]
    kept = cache_folder() / "sentences" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(known, list) and len(known) == len(words):
            return [str(text) for text in known]
    sentences = _written(model, tokenizer, words)
    with contextlib.suppress(OSError, RunError):  # then they are written again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(sentences))
    return sentences


def _written(model: LoadedModel, tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """A sentence that begins with each word."""
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
