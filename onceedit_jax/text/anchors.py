"""Anchors: the tokens two vocabularies share (ONCE EDIT section 3.2, DeePEn section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onceedit_jax.errors import InputError
from onceedit_jax.text.vocabulary import Vocabulary

Rule = Literal["paper", "bytes"]


@dataclass(frozen=True, eq=False)
class Anchors:
    """Pairs of tokens that are the same in two vocabularies; `ids_a[n]` is shared as `ids_b[n]`.

    Attributes:
      ids_a: ids in the first vocabulary, strictly increasing, int32 [A].
      ids_b: ids in the second vocabulary, each at most once, int32 [A].
    """

    ids_a: NDArray[np.int32]
    ids_b: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids_a)


def anchors(
    vocab_a: Mapping[str, int] | Vocabulary,
    vocab_b: Mapping[str, int] | Vocabulary,
    rule: Rule = "paper",
) -> Anchors:
    """The tokens two vocabularies share.

    `paper` intersects the token strings after writing the word-start mark `Ġ` as `▁`; where two
    tokens of one vocabulary become the same string, the lower id is kept. It is the published rule:
    special tokens take part, and the same string may stand for different bytes.
    `bytes` intersects what the tokens stand for; where several tokens of one vocabulary stand for
    the same bytes, `Vocabulary.ids_by_bytes` says which one is kept. Special and padding tokens
    never match text; only a begin, end or unknown token is shared with the other vocabulary's own
    one when both are spelled alike (Llama-2's and Mistral's `<s>`).

    Args:
      vocab_a: {token string: id} or a `Vocabulary`; `bytes` needs a `Vocabulary`.
      vocab_b: the same for the other model.
      rule: "paper" or "bytes".

    Returns:
      The anchors, sorted by the ids of the first vocabulary.

    Raises:
      InputError: unknown rule, or a vocabulary of a kind that the rule cannot use.
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
            f"anchors need {{token string: id}} mappings or oe.vocabulary objects, "
            f"not {type(vocab).__name__}"
        )
    ids: dict[str, int] = {}
    for string, i in items:
        key = string.replace("Ġ", "▁")
        ids[key] = min(i, ids.get(key, i))
    return ids


def _checked(vocab: Any) -> Vocabulary:
    if not isinstance(vocab, Vocabulary):
        raise InputError(
            f"the 'bytes' anchor rule must know what the tokens stand for, which a "
            f"{type(vocab).__name__} does not tell; pass oe.vocabulary(tokenizer)"
        )
    return vocab
