"""Encoders for text alone, built from a fast tokenizer: they know no special tokens, only words."""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from onceedit_jax.errors import InputError
from onceedit_jax.text.vocabulary import added_words, component, is_piece, steps

PROBE = "Hello world, 12 times"


def text_encoder(hf: Any) -> tokenizers.Tokenizer:
    """The tokenizer of a file for text alone: it reads no special tokens, and never truncates.

    Args:
      hf: a fast tokenizer of transformers.

    Raises:
      InputError: the ids of its added tokens have gaps.
    """
    backend = hf.backend_tokenizer
    encoder = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        encoder.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        encoder.pre_tokenizer = backend.pre_tokenizer
    _add_words(encoder, hf)
    return encoder


def _add_words(encoder: tokenizers.Tokenizer, hf: Any) -> None:
    """Add the words of a tokenizer, single tokens of text, with their ids."""
    backend, words = hf.backend_tokenizer, added_words(hf)
    added = sorted(backend.get_added_tokens_decoder().items())
    if all(is_piece(backend, token.content) for token in words.values()):
        added = sorted(words.items())
    # Ids are given in order, so special tokens take theirs too; in text they are not looked for.
    encoder.encode_special_tokens = True
    hidden = (tokenizers.AddedToken(token.content, special=True) for _, token in added)
    encoder.add_tokens(
        [token if i in words else mark for (i, token), mark in zip(added, hidden, strict=True)]
    )
    if wrong := [token.content for i, token in added if encoder.token_to_id(token.content) != i]:
        raise InputError(
            f"{hf.name_or_path!r}: added token {wrong[0]!r} has an id that does not follow those "
            "before it; expected ids without gaps: save the tokenizer again with transformers"
        )


def plain_encoder(hf: Any) -> tuple[tokenizers.Tokenizer, str, bool]:
    """A tokenizer for text that continues, and the prefix that it does not add.

    It is `text_encoder` without the prefix.

    Returns:
      The tokenizer; the prefix, which belongs only before whole texts; and whether texts that begin
      with a space get no prefix.

    Raises:
      InputError: the tokenizer with the prefix does not give the same tokens as `hf`.
    """
    backend = hf.backend_tokenizer
    encoder = tokenizers.Tokenizer(backend.model)
    prefix, unless_space = "", False
    normalizers = steps(component(backend.normalizer), "normalizers")
    for step in normalizers:
        if step["type"] == "Prepend":
            prefix = step["prepend"].replace("▁", " ")
    normalizers = [step for step in normalizers if step["type"] != "Prepend"]
    splitters = steps(component(backend.pre_tokenizer), "pretokenizers")
    for step in splitters:
        if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            prefix, unless_space, step["prepend_scheme"] = " ", True, "never"
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            prefix, unless_space, step["add_prefix_space"] = " ", True, False
    skeleton = tokenizers.Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": {"type": "Sequence", "normalizers": normalizers},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters},
                "model": {"type": "BPE", "vocab": {}, "merges": []},
            }
        )
    )
    if normalizers:
        encoder.normalizer = skeleton.normalizer
    if splitters:
        encoder.pre_tokenizer = skeleton.pre_tokenizer
    _add_words(encoder, hf)
    if encoder.encode(prefix + PROBE).ids != backend.encode(PROBE, add_special_tokens=False).ids:
        raise InputError(
            f"the tokenizer {hf.name_or_path!r} has a normalizer or a prefix that is not "
            "supported, so texts could not be cut and joined without changes: choose another model"
        )
    return encoder, prefix, unless_space
