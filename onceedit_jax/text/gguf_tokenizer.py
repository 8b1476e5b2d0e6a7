"""Build the tokenizer of a GGUF file from its metadata, without torch.

A GGUF file has no tokenizer.json: it lists tokens, their types, and either BPE merges (`gpt2`) or
SentencePiece scores (`llama`). The rest (how text is split, whether BOS is added) is convention and
stands in the table below. transformers can convert GGUF tokenizers too, but uses GPT-2's splitting
for models that it does not know: it encodes the spaces in "a  1984" for SmolLM2 as two tokens, the
model's own tokenizer as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as dec
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from onceedit_jax.errors import InputError
from onceedit_jax.storage.gguf_parts import read_model
from onceedit_jax.storage.schema import Flag, Integer, Maybe, Numbers, Record, Text, Texts, check

_SURROGATE = re.compile("[\ud800-\udfff]")  # in place of bytes that are not UTF-8
_REMEDY = "convert the file again, or use the model's Hugging Face folder"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_LOWER, _UPPER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}", r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
# Mistral's newer tokenizers: words are cut where a capital follows a small letter too.
_TEKKEN_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"


class _Type(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def _split(pattern: str) -> pre.PreTokenizer:
    bytes_only = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre.Sequence([pre.Split(Regex(pattern), behavior="isolated"), bytes_only])


def _gpt2() -> pre.PreTokenizer:
    return pre.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> pre.PreTokenizer:
    return pre.Sequence([pre.Digits(individual_digits=True), _gpt2()])


# `tokenizer.ggml.pre` -> (pre-tokenizer, NFC first?, merges ignored for whole words?, BOS default)
_PRE_TOKENIZERS: dict[str | None, tuple[Callable[[], pre.PreTokenizer], bool, bool, bool]] = {
    "gpt-2": (_gpt2, False, False, False),
    "smollm": (_single_digits, False, False, False),
    "starcoder": (_single_digits, False, False, False),
    "llama-bpe": (lambda: _split(_LLAMA3_SPLIT), False, True, True),
    "llama3": (lambda: _split(_LLAMA3_SPLIT), False, True, True),
    "llama-v3": (lambda: _split(_LLAMA3_SPLIT), False, True, True),
    "qwen2": (lambda: _split(_QWEN2_SPLIT), True, False, False),
    "tekken": (lambda: _split(_TEKKEN_SPLIT), False, True, True),
    "deepseek-r1-qwen": (lambda: _split(_QWEN2_SPLIT), True, False, False),
}


_ID = Integer(0, 1 << 24)
_SCHEMA = Record(
    {
        "model": Text(most=64),
        "pre": Text(most=64),
        "tokens": Texts(longest=1 << 10),
        "merges": Texts(longest=1 << 12),
        "scores": Numbers("f"),
        "token_type": Numbers("iu", least=min(_Type), most=max(_Type)),
        **dict.fromkeys(("add_bos_token", "add_eos_token", "add_space_prefix"), Flag()),
        **{f"{role}_token_id": _ID for role in ("bos", "eos", "eot", "eom", "unknown", "padding")},
    }
)


def load_gguf_tokenizer(path: str | Path) -> Any:
    """Load the tokenizer of a GGUF file.

    Args:
      path: a GGUF file whose tokenizer is byte-level BPE (`gpt2`, with a splitting rule of
        `_PRE_TOKENIZERS`) or SentencePiece BPE (`llama`: Llama 2, Mistral, Gemma).

    Returns:
      A fast tokenizer of transformers; it adds BOS if the file requires it.

    Raises:
      InputError: the file is not GGUF or is truncated, or its tokenizer is not supported.
    """
    return tokenizer_from_metadata(read_model(Path(path)).metadata, source=str(path))


def tokenizer_from_metadata(metadata: dict[str, Any], *, source: str) -> Any:
    """Build the tokenizer that GGUF metadata describes.

    Args:
      metadata: of a GGUF file, see `storage.gguf.read_header`.
      source: name of the file in errors.

    Raises:
      InputError: the metadata is incomplete, or the tokenizer is not supported.
    """
    facts = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    check(_SCHEMA, facts, file=f"{source}: tokenizer.ggml", remedy=_REMEDY)
    kind = facts.get("model")
    if kind not in ("gpt2", "llama"):
        raise InputError(
            f"{source}: tokenizer.ggml.model is {kind!r}; supported are 'gpt2' (byte-level BPE) "
            "and 'llama' (SentencePiece BPE): use the model's Hugging Face folder instead"
        )
    required = ["tokens", "merges"] if kind == "gpt2" else ["tokens", "scores", "token_type"]
    for key in required:
        if key not in facts:
            raise InputError(
                f"{source}: tokenizer.ggml.{key} is missing from the metadata; {_REMEDY}"
            )
    tokens, types = _tokens_and_types(facts, source)
    special = {
        role: _special_token(facts, key, tokens, source)
        for role, key in (
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        )
    }
    if kind == "gpt2":
        backend, bos_default = _byte_level(facts, tokens, types, source)
    else:
        backend, bos_default = _sentencepiece(facts, tokens, types, special["unk_token"], source)
    _check_ids(backend, tokens, source)

    bos = special["bos_token"]
    if facts.get("add_bos_token", bos_default) and bos is not None:
        backend.post_processor = TemplateProcessing(
            single=f"{bos}:0 $A:0",
            pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
            special_tokens=[(bos, tokens.index(bos))],
        )
    template = metadata.get("tokenizer.chat_template")
    check(Maybe(Text()), template, file=f"{source}: tokenizer.chat_template", remedy=_REMEDY)
    return for_transformers(backend, special, source=source, template=template)


class _Given:
    """A tokenizer that transformers takes as it is: it copies what it gets, which takes seconds."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend

    def __deepcopy__(self, memo: object) -> Tokenizer:
        return self.backend


def for_transformers(
    backend: Tokenizer, special: dict[str, str | None], *, source: str, template: str | None
) -> Any:
    """A tokenizer of the tokenizers library as a fast one of transformers.

    Args:
      backend: the tokenizer; it is not copied.
      special: {role, such as `eos_token`: the token}.
      source: name of its file in errors.
      template: the chat template.
    """
    # Imported here because importing transformers takes seconds.
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_Given(backend), clean_up_tokenization_spaces=False, **special
    )
    tokenizer.name_or_path = source
    tokenizer.chat_template = template
    return tokenizer


def end_ids_of(metadata: dict[str, Any]) -> list[int]:
    """The tokens that end an answer, by GGUF metadata: of the text, a turn and a message."""
    keys = (f"tokenizer.ggml.{end}_token_id" for end in ("eos", "eot", "eom"))
    return [int(metadata[key]) for key in keys if metadata.get(key) is not None]


def _tokens_and_types(facts: dict[str, Any], source: str) -> tuple[list[str], list[int]]:
    """The strings and types of all tokens, without the unused ones at the end."""
    tokens: list[str] = list(facts["tokens"])
    for i, token in enumerate(tokens):
        if _SURROGATE.search(token):
            raise InputError(f"{source}: token {i} ({token!r}) is not UTF-8; {_REMEDY}")
    types = [int(t) for t in facts.get("token_type", [_Type.NORMAL] * len(tokens))]
    if len(types) != len(tokens):
        raise InputError(
            f"{source}: {len(tokens)} tokens but {len(types)} token types; expected one type for "
            f"each token: {_REMEDY}"
        )
    while types and types[-1] == _Type.UNUSED:  # rows that only pad the embedding table
        types.pop()
        tokens.pop()
    return tokens, types


def _byte_level(
    facts: dict[str, Any], tokens: list[str], types: Sequence[int], source: str
) -> tuple[Tokenizer, bool]:
    """Byte-level BPE with the merges of the file, and the splitting rule of its `pre`."""
    name = facts.get("pre")
    if name not in _PRE_TOKENIZERS:
        raise InputError(
            f"{source}: tokenizer.ggml.pre is {name!r}, an unknown rule for splitting text before "
            f"the merges; supported are {', '.join(map(str, _PRE_TOKENIZERS))}: use the model's "
            "Hugging Face folder instead"
        )
    splitting, nfc, ignore_merges, bos_default = _PRE_TOKENIZERS[name]
    # As in tokenizer.json, special tokens after the last piece (chat markers, which are not text)
    # are not part of the model's own vocabulary.
    appended = (_Type.CONTROL, _Type.USER_DEFINED)
    own = 1 + max((i for i, t in enumerate(types) if t not in appended), default=-1)
    vocab = {token: i for i, token in enumerate(tokens[:own])}
    merges = []
    for line in facts["merges"]:
        left, _, right = line.partition(" ")
        if not (left in vocab and right in vocab and left + right in vocab):
            raise InputError(
                f"{source}: the BPE merge {line!r} does not join two tokens of the list into a "
                f"third; {_REMEDY}"
            )
        merges.append((left, right))
    backend = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    if nfc:
        backend.normalizer = norm.NFC()
    backend.pre_tokenizer = splitting()
    backend.decoder = dec.ByteLevel()
    _add_special_tokens(backend, tokens, types, normalized=False)
    return backend, bos_default


def _sentencepiece(
    facts: dict[str, Any], tokens: list[str], types: Sequence[int], unk: str | None, source: str
) -> tuple[Tokenizer, bool]:
    """SentencePiece BPE: scores become merges, `▁` stands for a space.

    Some converters write Gemma's whitespace pieces with plain spaces; these become `▁`.
    """
    for i, token in enumerate(tokens):
        if types[i] in (_Type.NORMAL, _Type.USER_DEFINED):
            tokens[i] = token.replace(" ", "▁")
    if len(facts["scores"]) < len(tokens):
        raise InputError(
            f"{source}: {len(tokens)} tokens but {len(facts['scores'])} scores; expected one score "
            f"for each token: {_REMEDY}"
        )
    merges = _merges_of_scores(tokens, types, facts["scores"])
    vocab = {token: i for i, token in enumerate(tokens)}
    model = BPE(vocab=vocab, merges=merges, unk_token=unk, byte_fallback=True, fuse_unk=True)
    backend = Tokenizer(model)
    space, prefix = norm.Replace(" ", "▁"), bool(facts.get("add_space_prefix", True))
    backend.normalizer = norm.Sequence([norm.Prepend("▁"), space]) if prefix else space
    strip = [dec.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = dec.Sequence([dec.Replace("▁", " "), dec.ByteFallback(), dec.Fuse(), *strip])
    # SentencePiece matches user-defined pieces in the normalised text, before any merge.
    _add_special_tokens(backend, tokens, types, normalized=True)
    return backend, True


def _merges_of_scores(
    tokens: list[str], types: Sequence[int], scores: Any
) -> list[tuple[str, str]]:
    """The merges that build every piece, best piece first.

    SentencePiece joins the neighbours whose joint piece has the best score. So every way to cut a
    piece into two pieces is a merge with the rank of the piece.
    """
    ids = {t: i for i, t in enumerate(tokens) if types[i] == _Type.NORMAL}
    pieces = sorted(ids.items(), key=lambda item: -float(scores[item[1]]))
    merges = []
    for piece, _ in pieces:
        pairs = [
            (piece[:n], piece[n:])
            for n in range(1, len(piece))
            if piece[:n] in ids and piece[n:] in ids
        ]
        if len(pairs) > 1:
            pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += pairs
    return merges


def _add_special_tokens(
    backend: Tokenizer, tokens: list[str], types: Sequence[int], *, normalized: bool
) -> None:
    """Add control tokens as special tokens, and user-defined tokens as text that is never split."""
    added = []
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_Type.CONTROL, _Type.UNKNOWN, _Type.UNUSED):
            added.append(AddedToken(token, special=True, normalized=False))
        elif kind == _Type.USER_DEFINED:
            added.append(AddedToken(token, special=False, normalized=normalized))
    backend.add_tokens(added)


def _special_token(facts: dict[str, Any], key: str, tokens: list[str], source: str) -> str | None:
    i = facts.get(key)
    if i is None:
        return None
    if not 0 <= i < len(tokens):
        raise InputError(
            f"{source}: tokenizer.ggml.{key} is {i}; expected an id below {len(tokens)}, the "
            f"number of tokens: {_REMEDY}"
        )
    return str(tokens[i])


def _check_ids(backend: Tokenizer, tokens: list[str], source: str) -> None:
    ids = backend.get_vocab(with_added_tokens=True)
    for i, token in enumerate(tokens):
        if ids.get(token) != i:
            raise InputError(
                f"{source}: token {i} ({token!r}) would get id {ids.get(token)}; the token list "
                f"holds it twice, or ids that are not in order: {_REMEDY}"
            )
