"""Anchors: the tokens that two vocabularies share (ONCE EDIT section 3.2, DeePEn section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from onceedit_jax.errors import InputError
from onceedit_jax.text.vocabulary import Vocabulary

AnchorRule = Literal["paper", "bytes"]
"""How tokens are compared, see `anchors`."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """Pairs of equal tokens in two vocabularies: `ids_a[n]` and `ids_b[n]`.

    Attributes:
      ids_a: ids in the first vocabulary, strictly increasing.
      ids_b: ids in the second vocabulary, each at most once.
    """

    ids_a: Int32[np.ndarray, " anchors"]
    ids_b: Int32[np.ndarray, " anchors"]

    def __len__(self) -> int:
        return len(self.ids_a)


def anchors(
    vocab_a: Mapping[str, int] | Vocabulary,
    vocab_b: Mapping[str, int] | Vocabulary,
    rule: AnchorRule = "paper",
) -> Anchors:
    """The tokens that two vocabularies share.

    The rule `paper` compares token strings, with the word-start mark `Ġ` written as `▁`. If two
    tokens of one vocabulary then have the same string, the lower id is used. This is the published
    rule: special tokens take part, and equal strings may stand for different bytes.

    The rule `bytes` compares the bytes that tokens stand for. If several tokens of one vocabulary
    have the same bytes, `Vocabulary.ids_by_bytes` chooses one. Special and padding tokens never
    match text; the begin, end and unknown tokens match those of the other vocabulary if they have
    the same string (such as `<s>` in Llama 2 and Mistral).

    Args:
      vocab_a: {token string: id} or a `Vocabulary`; `bytes` needs a `Vocabulary`.
      vocab_b: the same for the other model.
      rule: "paper" or "bytes".

    Returns:
      The anchors, sorted by the ids of the first vocabulary.

    Raises:
      InputError: an unknown rule, or a vocabulary of a type that the rule cannot use.
    """
    if rule == "paper":
        shared_a, shared_b = _ids_by_string(vocab_a), _ids_by_string(vocab_b)
        pairs = [(i, shared_b[key]) for key, i in shared_a.items() if key in shared_b]
    elif rule == "bytes":
        vocab_a, vocab_b = _checked(vocab_a), _checked(vocab_b)
        bytes_a, bytes_b = vocab_a.ids_by_bytes, vocab_b.ids_by_bytes
        pairs = [(i, bytes_b[piece]) for piece, i in bytes_a.items() if piece in bytes_b]
        control_a, control_b = vocab_a.control_ids, vocab_b.control_ids
        pairs += [(i, control_b[name]) for name, i in control_a.items() if name in control_b]
    else:
        raise InputError(f"anchor rule {rule!r} is unknown; use 'paper' or 'bytes'")
    table = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
    return Anchors(table[:, 0].copy(), table[:, 1].copy())


def _ids_by_string(vocab: Any) -> dict[str, int]:
    if isinstance(vocab, Vocabulary):
        items = [(string, i) for i, string in enumerate(vocab.strings) if string is not None]
    elif isinstance(vocab, Mapping):
        items = list(vocab.items())
    else:
        raise InputError(
            f"expected a mapping {{token string: id}} or an oe.vocabulary object, found a "
            f"{type(vocab).__name__}; pass oe.vocabulary(tokenizer)"
        )
    ids: dict[str, int] = {}
    for string, i in items:
        key = string.replace("Ġ", "▁")
        ids[key] = min(i, ids.get(key, i))
    return ids


def _checked(vocab: Any) -> Vocabulary:
    if not isinstance(vocab, Vocabulary):
        raise InputError(
            f"the anchor rule 'bytes' needs the bytes of the tokens, which a "
            f"{type(vocab).__name__} does not have; pass oe.vocabulary(tokenizer)"
        )
    return vocab
