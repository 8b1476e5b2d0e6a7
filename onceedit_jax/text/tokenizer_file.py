"""The schemas of a folder's tokenizer files, and the check that a tokenizer is what its file says.

The files are checked here before any other library reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import LARGE, read_json
from onceedit_jax.storage.schema import (
    AnyOf,
    Flag,
    Integer,
    Kind,
    ListOf,
    Maybe,
    Mismatch,
    Number,
    ObjectOf,
    Record,
    Text,
    check,
    shown,
)

TOKENIZER = "tokenizer.json"
GENERATION = "generation_config.json"  # may list several end tokens
REMEDY = "fetch the file again"
_ID = Integer(0, 1 << 24)
_COMPONENTS = ("normalizer", "pre_tokenizer", "decoder")
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
_MARKS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), Flag())
_FIELDS: dict[str, Kind] = {"content": Text(least=1), "__type": Text(most=64), **_MARKS}
_ADDED = Record(_FIELDS, required=("content",), closed=True)
_COMPONENT = Maybe(Record({"type": Text(most=64)}, required=("type",)))
_SHORT = Integer(0, 1 << 16)
_SCHEMA = Record(
    {
        "added_tokens": ListOf(
            Record({**_FIELDS, "id": _ID}, required=("id", "content"), closed=True)
        ),
        **dict.fromkeys((*_COMPONENTS, "post_processor"), _COMPONENT),
        "truncation": Maybe(Record({"max_length": Integer(1), "stride": _SHORT})),
        "padding": Maybe(
            Record(
                {
                    "strategy": AnyOf((Text(("BatchLongest",)), Record({"Fixed": _SHORT}))),
                    "pad_to_multiple_of": Maybe(Integer(1, 1 << 16)),
                    "pad_id": _ID,
                    "pad_type_id": _ID,
                }
            )
        ),
        "model": Record(
            {
                "type": Text(_MODELS),
                # Dropped merges would make every encoding another one.
                "dropout": Maybe(Number(0, 0)),
                "unk_token": Maybe(Text()),
                "continuing_subword_prefix": Maybe(Text(most=64)),
                "end_of_word_suffix": Maybe(Text(most=64)),
                **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), Maybe(Flag())),
            },
            required=("vocab",),
        ),
    },
    required=("model",),
)
_ROLE: Kind = Maybe(AnyOf((Text(), _ADDED)))
_ROLES = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), _ROLE)
_TEMPLATE = Text(most=1 << 20)
_NAMED_TEMPLATES = ListOf(Record({"name": Text(), "template": _TEMPLATE}), most=64)
_CONFIG = Record(
    {
        **_ROLES,
        "tokenizer_class": Maybe(Text(most=256)),
        "chat_template": Maybe(AnyOf((_TEMPLATE, _NAMED_TEMPLATES))),
        "model_max_length": Maybe(Number(1)),
        "added_tokens_decoder": Maybe(ObjectOf(_ADDED)),
        **dict.fromkeys(("add_bos_token", "add_eos_token", "add_prefix_space"), Maybe(Flag())),
        "clean_up_tokenization_spaces": Maybe(Flag()),
    }
)
_END_IDS = Maybe(AnyOf((_ID, ListOf(_ID, most=4096))))
#: The other files that describe a tokenizer.
_OTHERS: dict[str, Kind] = {
    "tokenizer_config.json": _CONFIG,
    "special_tokens_map.json": Record(_ROLES),
    "added_tokens.json": ObjectOf(_ID),
    GENERATION: Record({"eos_token_id": _END_IDS}),
    "config.json": Record({"eos_token_id": _END_IDS}),
}


def checked_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The values of a folder's tokenizer files by their names; those that are absent are not there.

    Raises:
      InputError: there is no tokenizer.json, or a file is not what its schema says.
    """
    try:
        values = read_json(folder / TOKENIZER, most=LARGE, inside=folder)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: tokenizer.json is missing; save it there with "
            "transformers.AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        ) from error
    check(_SCHEMA, values, file=folder / TOKENIZER, remedy=REMEDY)
    try:
        _check_vocabulary(values)
        _check_template(values)
    except Mismatch as error:
        raise InputError(f"{folder / TOKENIZER}: {error}: {REMEDY}") from None
    files = {TOKENIZER: values}
    for name, schema in _OTHERS.items():
        try:
            files[name] = read_json(folder / name, inside=folder)
        except FileNotFoundError:
            continue
        check(schema, files[name], file=folder / name, remedy=REMEDY)
    if code := files.get("tokenizer_config.json", {}).get("auto_map"):
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: auto_map is {shown(code)}; expected none: code "
            "of a model's folder is never run here; remove the key if tokenizer.json is all of the "
            "tokenizer, or choose another model"
        )
    return files


def end_ids_of(files: dict[str, dict[str, Any]]) -> list[int]:
    """The end tokens that generation_config.json and config.json list."""
    ids: list[int] = []
    for name in (GENERATION, "config.json"):
        found = files.get(name, {}).get("eos_token_id")
        ids += found if isinstance(found, list) else [] if found is None else [found]
    return ids


def check_truth(backend: Any, files: dict[str, dict[str, Any]], folder: Path) -> None:
    """Check that a loaded tokenizer gives the ids that its tokenizer.json gives.

    The same vocabulary, added tokens and steps give the same ids of every text.

    Args:
      backend: of the tokenizers library.
      files: see `checked_files`.
      folder: for messages.

    Raises:
      InputError: naming the difference.
    """
    values = files[TOKENIZER]
    own = backend.get_vocab(with_added_tokens=False)
    if values["model"].get("type") != "Unigram" and own != values["model"]["vocab"]:
        raise _untrue(folder, "the vocabulary", "another one")
    there = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
    for token in values.get("added_tokens", ()):
        if there.get(token["content"]) != token["id"]:
            found = there.get(token["content"])
            raise _untrue(folder, f"added token {shown(token['content'])}, {token['id']},", found)
    skeleton = {name: values.get(name) for name in _COMPONENTS}
    model = {"type": "BPE", "vocab": {}, "merges": []}
    plain: dict[str, Any] = {"version": "1.0", "added_tokens": [], **skeleton, "model": model}
    expected = tokenizers.Tokenizer.from_str(json.dumps(plain))
    for name in _COMPONENTS:
        if _state(getattr(backend, name)) != _state(getattr(expected, name)):
            raise _untrue(folder, f"the {name}", "another one")


def _untrue(folder: Path, what: str, found: object) -> InputError:
    return InputError(
        f"{folder / TOKENIZER}: {what} of the file is {found} once loaded; expected the file's "
        "own: tokenizer_config.json or added_tokens.json contradict it; fetch the folder again"
    )


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _check_vocabulary(values: dict[str, Any]) -> None:
    """Check the ids of all tokens, and the types of the merges."""
    model, added = values["model"], values.get("added_tokens", [])
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram lists pieces and scores; a piece's place is its id
        ListOf(ListOf(AnyOf((Text(), Number())), least=2, most=2)).check(vocab, "model.vocab")
        vocab = {piece: place for place, (piece, _) in enumerate(vocab)}
    ObjectOf(_ID).check(vocab, "model.vocab")
    ids = set(vocab.values())
    if len(ids) < len(vocab):
        raise Mismatch("model.vocab", vocab, "an id of its own for every token")
    for token in added:
        if vocab.get(token["content"], token["id"]) != token["id"]:
            place = f"added_tokens {shown(token['content'])}"
            raise Mismatch(place, token["id"], f"{vocab[token['content']]}, its id in model.vocab")
    if len({token["id"] for token in added}) < len(added):
        raise Mismatch("added_tokens", added, "an id of its own for every token")
    # Ids without a token are rows of tables all the same; a few are usual.
    ids |= {token["id"] for token in added}
    most = 2 * len(ids) + 1024
    if ids and max(ids) >= most:
        raise Mismatch("the largest id", max(ids), f"less than {most} for {len(ids)} tokens")
    merges = model.get("merges", [])
    if not isinstance(merges, list):
        raise Mismatch("model.merges", merges, "a list")
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if type(parts) is not list or [type(part) for part in parts] != [str, str]:
            raise Mismatch(f"model.merges[{number}]", merge, "two tokens")


def _check_template(values: dict[str, Any]) -> None:
    """Check that a template of special tokens knows each of them, by its id."""
    vocab = values["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {v[0]: i for i, v in enumerate(vocab)}
    ids |= {token["content"]: token["id"] for token in values.get("added_tokens", ())}
    token = Record({"ids": ListOf(_ID, most=64), "tokens": ListOf(Text(), most=64)})
    piece = Record({name: Record({"id": Text()}) for name in ("SpecialToken", "Sequence")})
    for step in _steps(values.get("post_processor")):
        if step.get("type") != "TemplateProcessing":
            continue
        known = step.get("special_tokens", {})
        ObjectOf(token).check(known, "post_processor.special_tokens")
        for name in ("single", "pair"):
            ListOf(piece, most=256).check(step.get(name, []), f"post_processor.{name}")
            for item in step.get(name, []):
                wanted = item.get("SpecialToken", {}).get("id")
                if wanted is not None and wanted not in known:
                    raise Mismatch(f"post_processor.{name}", wanted, "one of its special_tokens")
        for entry in known.values():
            for text, own_id in zip(entry.get("tokens", []), entry.get("ids", []), strict=False):
                if ids.get(text) != own_id:
                    where = f"post_processor.special_tokens {shown(text)}"
                    raise Mismatch(where, own_id, f"{ids.get(text)}, its id")


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a post-processor."""
    if not isinstance(part, dict):
        return []
    inner = part.get("processors")
    if part.get("type") != "Sequence" or not isinstance(inner, list):
        return [part]
    return [step for each in inner for step in _steps(each)]
