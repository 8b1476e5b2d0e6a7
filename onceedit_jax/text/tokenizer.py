"""A model's tokenizer with its conventions made explicit: BOS, prefix space, end token, padding.

Text never becomes special tokens: `<|endoftext|>` in a prompt is encoded with ordinary tokens. So
every model reads the same characters, and only this module inserts special tokens. Words that were
added to a tokenizer are single tokens, as its file says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import foreign
from onceedit_jax.storage.converted import content_hash
from onceedit_jax.storage.gguf_parts import large_files, read_model
from onceedit_jax.storage.peft_files import read_adapter
from onceedit_jax.storage.sources import resolve
from onceedit_jax.text import gguf_tokenizer
from onceedit_jax.text.encoders import PROBE, plain_encoder, text_encoder
from onceedit_jax.text.gguf_tokenizer import for_transformers, tokenizer_from_metadata
from onceedit_jax.text.kept_tokenizer import (
    FastTokenizer,
    keep_tokenizer,
    place_of,
    read_tokenizer,
)
from onceedit_jax.text.tokenizer_file import (
    CONFIG,
    GENERATION,
    REMEDY,
    TOKENIZER,
    check_probe,
    checked_files,
    end_ids_of,
    files_to_keep,
    hold_to_file,
    probe_text,
    rows_of,
    write_for_both,
)
from onceedit_jax.text.vocabulary import Vocabulary, vocabulary

# Bytes that are not UTF-8, decoded with Python's `surrogateescape`.
_NOT_TEXT = re.compile("([\udc80-\udcff]+)")


class Tokenizer:
    """Encodes text as tokens of one model, and decodes them.

    Attributes:
      hf: the fast tokenizer of transformers, made when it is asked for; it is never changed.
      vocabulary: string and bytes of every token that the model has a row for.
      bos_id: the token before a text; None for models without one.
      end_id: the token that ends an answer (the tokenizer's `eos_token`).
      end_ids: every token that ends an answer, `end_id` first.
      pad_id: the token for padding: the tokenizer's own, or else the end token, since padding is
        masked by positions.
    """

    def __init__(self, hf: Any, *, end_ids: Iterable[int] = (), rows: int | None = None):
        """Read the conventions from a fast tokenizer of transformers.

        Args:
          hf: the fast tokenizer, or what is read of it.
          end_ids: further tokens that end an answer; ids that are no token are left out, since no
            model writes them.
          rows: rows of the model's embedding. Special tokens beyond them are left out: the model
            neither reads nor writes them, and padding is done with the end token.

        Raises:
          InputError: not a fast tokenizer, no end token, or an unsupported decoder or prefix; an
            added word, or the begin or end token, is beyond the rows.
        """
        self._fast = hf
        whole = vocabulary(hf)
        self.vocabulary: Vocabulary = whole if rows is None else whole.cut(rows)
        if hf.eos_token_id is None:
            raise InputError(
                f"the tokenizer {hf.name_or_path!r} has no eos_token, which is needed to end "
                "answers; set eos_token in its tokenizer_config.json"
            )
        self.end_id: int = self._with_row("eos_token", hf.eos_token_id)
        known = (i for i in end_ids if 0 <= i < len(self.vocabulary))
        self.end_ids: tuple[int, ...] = tuple(dict.fromkeys((self.end_id, *known)))
        own_pad = hf.pad_token_id is not None and hf.pad_token_id < len(self.vocabulary)
        self.pad_id: int = hf.pad_token_id if own_pad else self.end_id
        first = hf.backend_tokenizer.encode(PROBE).ids[0]
        begins = first == hf.bos_token_id
        self.bos_id: int | None = self._with_row("bos_token", first) if begins else None
        self._whole = text_encoder(hf)
        self._encoder, self._prefix, self._prefix_unless_space = plain_encoder(hf)

    @property
    def hf(self) -> Any:
        """The fast tokenizer of transformers."""
        return self._fast.hf if isinstance(self._fast, FastTokenizer) else self._fast

    @property
    def name(self) -> str:
        """Where it comes from, for messages."""
        return str(self._fast.name_or_path)

    @property
    def chat_template(self) -> str | None:
        """The model's chat template in Jinja's language; None if it has none."""
        templates = getattr(self._fast, "chat_template", None)
        if isinstance(templates, dict):  # several by name
            return templates.get("default")
        return str(templates) if templates else None

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """The tokens of a text, as in the training of the model.

        Args:
          text: any text; strings of special tokens in it are plain text.
          bos: begin with the model's BOS, if it has one.

        Raises:
          InputError: the text contains a lone surrogate (half of an escaped pair in JSON).
        """
        return self._start(bos) + self._encode_whole(text).ids

    def encode_bytes(
        self, data: bytes, *, bos: bool = True, continuation: bool = False
    ) -> list[int]:
        """The tokens of any bytes; those that are not UTF-8 become single-byte tokens.

        Text is encoded as a whole, as by `encode`. Bytes without a token are dropped, as tokenizers
        themselves do (SmolLM2 has no token for 21 bytes, most of them control characters or never
        part of UTF-8).

        Args:
          data: the bytes.
          bos: begin with the model's BOS, if it has one.
          continuation: the bytes continue a text: no BOS and no prefix space.
        """
        ids = self._start(bos and not continuation)
        pieces = _NOT_TEXT.split(data.decode("utf-8", "surrogateescape"))
        for n, piece in enumerate(pieces):
            if n % 2:
                raw = piece.encode("utf-8", "surrogateescape")
                ids += [i for i in map(self._byte_ids.get, raw) if i is not None]
            elif piece and (n or continuation):
                ids += self._encode(piece).ids
            elif piece:
                ids += self._encode_whole(piece).ids
        return ids

    def encode_pair(self, prompt: str, target: str) -> tuple[list[int], int]:
        """The tokens of `prompt + " " + target`, BOS included, and the start of the target.

        Returns:
          (ids, start): `ids[start]` is the first token that extends beyond the prompt. A token
          across the boundary belongs to the target, and so does the space between the two: a model
          that has read the prompt has to generate them.
        """
        text = f"{prompt} {target}"
        prefixed = self._prefixed(text)
        encoding, end_of_prompt = self._encode_whole(text), len(prompt)
        joined = self._encode(prefixed)
        if joined.ids == encoding.ids:  # not if the file has no prefix before an added word
            encoding, end_of_prompt = joined, len(prefixed) - len(target) - 1
        ends = enumerate(end for _, end in encoding.offsets)
        start = next((n for n, end in ends if end > end_of_prompt), len(encoding.ids))
        begin = self._start(True)
        return begin + encoding.ids, len(begin) + start

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of many texts that each continue another: no BOS, no prefix space."""
        with self._failing():
            return [encoding.ids for encoding in self._encoder.encode_batch_fast(list(texts))]

    def decode(self, ids: Iterable[int], *, continuation: bool = False) -> str:
        """The text of tokens, without special tokens; incomplete characters become U+FFFD."""
        return self.decode_bytes(ids, continuation=continuation).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, continuation: bool = False) -> bytes:
        """The bytes of tokens, from the vocabulary; special tokens give b"".

        Args:
          ids: tokens; ids beyond the vocabulary (padding rows) give b"".
          continuation: the tokens continue a text. If not, the prefix space that tokenizers such as
            Llama 2's put before every text is removed.
        """
        pieces = self.vocabulary.bytes
        data = b"".join(pieces[i] for i in map(int, ids) if 0 <= i < len(pieces))
        return data if continuation else data.removeprefix(self._prefix.encode("utf-8"))

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer as a folder for AutoTokenizer of transformers 4 and 5.

        If several tokens end an answer, `generation_config.json` lists them.
        """
        self.hf.save_pretrained(str(folder))
        write_for_both(Path(folder) / CONFIG)
        if len(self.end_ids) > 1:
            text = json.dumps({"eos_token_id": list(self.end_ids)}, indent=2)
            (Path(folder) / GENERATION).write_text(text + "\n", encoding="utf-8")

    def _start(self, bos: bool) -> list[int]:
        return [self.bos_id] if bos and self.bos_id is not None else []

    def _prefixed(self, text: str) -> str:
        if not text or (self._prefix_unless_space and text.startswith(" ")):
            return text
        return self._prefix + text

    def _encode_whole(self, text: str) -> tokenizers.Encoding:
        """A text that continues nothing: as the file has it, prefix included."""
        with self._failing():
            return self._whole.encode(checked_text(text), add_special_tokens=False)

    def _with_row(self, role: str, token: int) -> int:
        """A token that the model reads or writes, if its embedding has a row for it."""
        if token >= len(self.vocabulary):
            raise InputError(
                f"the tokenizer {self.name!r}: {role} has id {token}, and the embedding has "
                f"{len(self.vocabulary)} rows; expected a row for it: name another one in "
                "tokenizer_config.json, or use the tokenizer that belongs to the model"
            )
        return token

    def _encode(self, text: str) -> tokenizers.Encoding:
        with self._failing():
            return self._encoder.encode(checked_text(text), add_special_tokens=False)

    def _failing(self) -> AbstractContextManager[None]:
        """What encodes a text by other rules than were tried: a pattern may take too many steps."""
        return foreign(f"{self.name}: a text", "use a tokenizer with another pattern")

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        return {piece[0]: i for piece, i in self.vocabulary.ids_by_bytes.items() if len(piece) == 1}


def checked_text(text: str) -> str:
    """The text, if it consists of Unicode characters.

    Raises:
      InputError: it contains half of a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.end + 20]
        raise InputError(
            f"character {error.start} of the text {around!r} is half of a surrogate pair; "
            "expected Unicode characters: correct the text"
        ) from error
    return text


def load_tokenizer(spec: str | Path, *, rows: int | None = None) -> Tokenizer:
    """Load a model's tokenizer, without torch and without running code from the model's folder.

    Args:
      spec: a Hugging Face folder, a hub id, a .gguf file or `demo:NAME`, see
        `storage.sources.resolve`. A LoRA adapter without a tokenizer has that of its base.
      rows: rows of the model's embedding, see `Tokenizer` (default: `vocab_size` of config.json).

    Raises:
      InputError: no such model, no tokenizer.json, or an unsupported tokenizer.
    """
    path = resolve(spec)
    if path.is_file():
        with _naming(path), foreign(path, "fetch the file again"):
            fast = _of_gguf(path)
            return Tokenizer(fast, end_ids=fast.end_ids, rows=rows)
    if not (path / TOKENIZER).exists() and (adapter := read_adapter(path)) is not None:
        return load_tokenizer(adapter.base_path(), rows=rows)
    with _naming(path / TOKENIZER), foreign(path / TOKENIZER, REMEDY, silent=True):
        return _of_folder(path, rows)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the file in errors about a tokenizer that do not know where it comes from."""
    try:
        yield
    except InputError as error:
        if str(file) in str(error) or str(file.parent) in str(error):
            raise
        raise InputError(f"{file}: {error}") from error


def _of_gguf(path: Path) -> FastTokenizer:
    """The tokenizer of a GGUF file: the one that is kept, or built from its metadata."""
    source = str(path)
    place = place_of(large_files(path))

    def whole(fast: FastTokenizer) -> Any:
        special = {
            role.removesuffix("_id"): None if token is None else fast.vocabulary.strings[token]
            for role, token in fast.roles.items()
        }
        return for_transformers(
            fast.backend_tokenizer, special, source=source, template=fast.chat_template
        )

    if place is not None and (kept := read_tokenizer(place, source, whole)) is not None:
        return kept
    metadata = read_model(path).metadata
    hf = tokenizer_from_metadata(metadata, source=source)
    fast = FastTokenizer.of(hf, end_ids=gguf_tokenizer.end_ids_of(metadata))
    if place is not None:
        keep_tokenizer(place, fast)
    return fast


def _of_folder(path: Path, rows: int | None) -> Tokenizer:
    """The tokenizer of a folder: the one that is kept, or the one that transformers reads."""

    def cut(fast: FastTokenizer) -> Tokenizer:
        return Tokenizer(fast, end_ids=fast.end_ids, rows=fast.rows if rows is None else rows)

    def whole(_: FastTokenizer) -> Any:
        with _naming(path / TOKENIZER), foreign(path / TOKENIZER, REMEDY, silent=True):
            hf = _read_folder(path)[0]
        assert place is not None
        if files_to_keep(path) != files or content_hash(files) != place.noted_hash:
            raise InputError(
                f"{path}: its tokenizer has changed since it was loaded; load the model again"
            )
        return hf

    files = files_to_keep(path)
    place = place_of(files, inside=path)
    if place is not None and (kept := read_tokenizer(place, str(path), whole)) is not None:
        return cut(kept)
    hf, own, values = _read_folder(path)
    fast = FastTokenizer.of(hf, end_ids=end_ids_of(values), rows=rows_of(values))
    tokenizer = cut(fast)
    check_probe(tokenizer.encode(probe := probe_text(hf), bos=False), own, probe, path)
    if place is not None and files_to_keep(path) == files:  # a file more would be in no hash
        keep_tokenizer(place, fast)
    return tokenizer


def _read_folder(path: Path) -> tuple[Any, tokenizers.Tokenizer, dict[str, dict[str, Any]]]:
    """What transformers reads in a folder, the file's own tokenizer, and all files' values."""
    files = checked_files(path)
    from transformers import PreTrainedTokenizerFast

    # Not the class that the folder names: its rules may be others than those of the file.
    hf = PreTrainedTokenizerFast.from_pretrained(
        str(path), local_files_only=True, trust_remote_code=False
    )
    return hf, hold_to_file(hf.backend_tokenizer, files, path), files
