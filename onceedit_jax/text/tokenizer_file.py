"""The schemas of a folder's tokenizer files, and the check that a tokenizer is what its file says.

The files are checked here before any other library reads them. Where they disagree, tokenizer.json
wins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import LARGE, check_regular, read_json, read_text
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
from onceedit_jax.text.vocabulary import added_words, steps

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
_TEMPLATES = ("chat_template.jinja", "chat_templates/*.jinja")
GENERATION = "generation_config.json"  # may list several end tokens
#: Bytes of tokenizer.json from which on it pays to keep what was read of it.
WORTH_KEEPING = 1 << 20
REMEDY = "fetch the file again"
_PROBE = (
    "Hello  World,\n\n 12 times 1984\ttab\r\n    x = [0.5]; don't  café naïve ÉCOLE Straße e\u0301 "
    "日本語、한국어 مرحبا 🙂🙂👍🏽 …\u00a0"
)
_ID = Integer(0, 1 << 24)
_COMPONENTS = ("normalizer", "pre_tokenizer", "decoder")
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
_MARKS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), Flag())
_FIELDS: dict[str, Kind] = {"content": Text(least=1), "__type": Text(most=64), **_MARKS}
_ADDED = Record(_FIELDS, required=("content",), closed=True)
_COMPONENT = Maybe(Record({"type": Text(most=64)}, required=("type",)))
_SHORT = Integer(0, 1 << 16)
_MOST_GROWTH = 256  # times that normalizers make a text longer; NFKD makes it 18 times as long
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
_MOST_TEMPLATE = 1 << 20
_TEMPLATE = Text(most=_MOST_TEMPLATE)
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
_ROWS = Maybe(Integer(1, 1 << 24))
_ROWS_INSIDE = Record({"vocab_size": _ROWS})
_END_IDS = Maybe(AnyOf((_ID, ListOf(_ID, most=4096))))
#: The other files that describe a tokenizer.
_OTHERS: dict[str, Kind] = {
    CONFIG: _CONFIG,
    "special_tokens_map.json": Record(_ROLES),
    "added_tokens.json": ObjectOf(_ID),
    GENERATION: Record({"eos_token_id": _END_IDS}),
    "config.json": Record(
        {"eos_token_id": _END_IDS, "vocab_size": _ROWS, "text_config": Maybe(_ROWS_INSIDE)}
    ),
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
        for part, inner in (("normalizer", "normalizers"), ("decoder", "decoders")):
            _check_growth(steps(values.get(part) or {}, inner), part)
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
    for template in _templates(folder):
        read_text(template, most=_MOST_TEMPLATE, inside=folder)
    if code := files.get(CONFIG, {}).get("auto_map"):
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: auto_map is {shown(code)}; expected none: code "
            "of a model's folder is never run here; remove the key if tokenizer.json is all of the "
            "tokenizer, or choose another model"
        )
    return files


def files_to_keep(folder: Path) -> list[Path]:
    """All files that describe a folder's tokenizer; none where tokenizer.json is small or absent.

    Raises:
      InputError: one of them is no regular file, or a link that leads out of the folder.
    """
    try:
        if (folder / TOKENIZER).stat().st_size < WORTH_KEEPING:
            return []
    except OSError:
        return []
    named = [folder / name for name in (TOKENIZER, *_OTHERS)]
    files = [*(file for file in named if file.exists()), *_templates(folder)]
    for file in files:
        check_regular(file, inside=folder)
    return files


def _templates(folder: Path) -> list[Path]:
    """The files of a folder's chat templates, which transformers reads."""
    return sorted(path for pattern in _TEMPLATES for path in folder.glob(pattern))


def write_for_both(file: Path) -> None:
    """Write the tokenizer_config.json of transformers 5 anew, so that transformers 4 reads it too.

    The class there has a new name, and a list of special tokens the key of something else.
    """
    values = json.loads(file.read_text(encoding="utf-8"))
    values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(further := values.get("extra_special_tokens"), list):
        del values["extra_special_tokens"]
        values["additional_special_tokens"] = further
    text = json.dumps(values, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def end_ids_of(files: dict[str, dict[str, Any]]) -> list[int]:
    """The end tokens that generation_config.json and config.json list."""
    ids: list[int] = []
    for name in (GENERATION, "config.json"):
        found = files.get(name, {}).get("eos_token_id")
        ids += found if isinstance(found, list) else [] if found is None else [found]
    return ids


def rows_of(files: dict[str, dict[str, Any]]) -> int | None:
    """The rows of the model's embedding by config.json; None without one."""
    config = files.get("config.json", {})
    rows: int | None = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return rows


def hold_to_file(
    backend: Any, files: dict[str, dict[str, Any]], folder: Path
) -> tokenizers.Tokenizer:
    """Hold a loaded tokenizer to its tokenizer.json.

    An added token that another file marks in other ways gets back what tokenizer.json says of it.

    Args:
      backend: of the tokenizers library; changed in place.
      files: see `checked_files`.
      folder: for messages.

    Returns:
      The tokenizer that the file itself describes, with the words that only other files add.

    Raises:
      InputError: naming the difference.
    """
    own = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    pieces = files[TOKENIZER]["model"]["vocab"]
    if isinstance(pieces, dict) and backend.get_vocab(with_added_tokens=False) != pieces:
        raise _untrue(folder, "the vocabulary of the file", "another one")
    for name in _COMPONENTS:
        if _state(getattr(backend, name)) != _state(getattr(own, name)):
            raise _untrue(folder, f"the {name} of the file", "another one")
    said = {token.content: token for token in own.get_added_tokens_decoder().values()}
    there = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
    for entry in files[TOKENIZER].get("added_tokens", ()):
        text, token_id = entry["content"], entry["id"]
        if own.token_to_id(text) != token_id or there.get(text) != token_id:
            what = f"added token {shown(text)}, {token_id} in the file,"
            raise _untrue(folder, what, there.get(text))
    roles = [_content(files.get(CONFIG, {}).get(role)) for role in _ROLES]
    backend.add_tokens([token for text, token in said.items() if text not in roles])
    for text, token_id, special in _added_elsewhere(files):
        if not special and text not in said and there.get(text) != token_id:
            raise _untrue(folder, f"added token {shown(text)}, {token_id},", there.get(text))
    further = sorted(backend.get_added_tokens_decoder().items())
    own.add_tokens([token for _, token in further if token.content not in said])
    own.encode_special_tokens = True  # text is never special
    return own


def probe_text(hf: Any) -> str:
    """A text to compare tokenizers on: spaces, newlines, digits, scripts and the added words."""
    words = [token.content for token in added_words(hf).values()]
    return " ".join([_PROBE, *words[:256], *words[:256][::-1]])


def check_probe(ids: list[int], own: tokenizers.Tokenizer, probe: str, folder: Path) -> None:
    """Check that the ids of a text are those that the file gives.

    Raises:
      InputError: naming the first tokens that differ.
    """
    expected = own.encode(probe, add_special_tokens=False).ids
    if ids == expected:
        return
    at = next((n for n, pair in enumerate(zip(ids, expected, strict=False)) if len({*pair}) > 1), 0)
    what = f"{shown(probe)}, whose tokens from {at} on are {expected[at : at + 5]} by the file,"
    raise _untrue(folder, what, ids[at : at + 5])


def _added_elsewhere(files: dict[str, dict[str, Any]]) -> list[tuple[str, int, bool]]:
    """The added tokens of the files beside tokenizer.json: text, id, and whether it is special."""
    listed = files.get(CONFIG, {}).get("added_tokens_decoder") or {}
    words = [(t["content"], int(i), t.get("special", False)) for i, t in listed.items()]
    known = {text for text, _, _ in words}
    plain = files.get("added_tokens.json", {}).items()
    return words + [(text, i, False) for text, i in plain if text not in known]


def _content(role: Any) -> Any:
    return role.get("content") if isinstance(role, dict) else role


def _untrue(folder: Path, what: str, found: object) -> InputError:
    return InputError(
        f"{folder / TOKENIZER}: {what} is {found} once loaded; expected the file's own: its ids "
        "have gaps, or tokenizer_config.json or added_tokens.json contradict it; save the "
        "tokenizer again with transformers, or fetch the folder again"
    )


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _check_vocabulary(values: dict[str, Any]) -> None:
    """Check the ids of all tokens, and the types of the merges."""
    model, added = values["model"], values.get("added_tokens", [])
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram lists pieces and scores; a piece's place is its id
        ListOf(ListOf(AnyOf((Text(), Number())), least=2, most=2)).check(vocab, "model.vocab")
        if len(pieces := {piece: n for n, (piece, _) in enumerate(vocab)}) < len(vocab):
            twice = next(piece for n, (piece, _) in enumerate(vocab) if pieces[piece] != n)
            raise Mismatch("model.vocab", twice, "every piece once")
        vocab = pieces
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
    unknown = model.get("unk_token")  # older files have "" for none
    if unknown and unknown not in vocab.keys() | {t["content"] for t in added}:
        raise Mismatch("model.unk_token", unknown, "one of its tokens")
    merges = model.get("merges", [])
    if not isinstance(merges, list):
        raise Mismatch("model.merges", merges, "a list")
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if type(parts) is not list or [type(part) for part in parts] != [str, str]:
            raise Mismatch(f"model.merges[{number}]", merge, "two tokens")


def _check_growth(parts: list[dict[str, Any]], name: str) -> None:
    """Refuse steps that replace pieces of a text by so long ones that it fits no memory."""
    growth = 1.0
    for part in parts:
        pattern, content = part.get("pattern"), part.get("content", part.get("prepend", ""))
        piece = pattern.get("String", "") if isinstance(pattern, dict) else ""
        longer = len(str(content)) / max(len(str(piece)), 1)
        if (growth := growth * max(longer, 1)) > _MOST_GROWTH:
            what = f"steps that make a text at most {_MOST_GROWTH} times as long"
            raise Mismatch(f"{name} {part.get('type')}", content, what)


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
