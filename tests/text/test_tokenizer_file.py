"""A tokenizer is what its own file says, or it is refused by name."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers
import tokenizers

from onceedit_jax.decoding.stopping import answer_stops
from onceedit_jax.errors import InputError
from onceedit_jax.text.prompts import prompt_format
from onceedit_jax.text.tokenizer import load_tokenizer

PROBE = "Hello  World,\n\n 12 1984 café naïve 日本語 🙂🙂 <|end|> the cat"


@pytest.fixture(params=["byte_level", "sentencepiece_like"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    getattr(tiny_tokenizers, request.param)().save_pretrained(tmp_path / "t")
    return tmp_path / "t"


def changed(folder: Path, change, name: str = "tokenizer.json") -> Path:
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    return folder


def template(ids, tokens):
    known = {"q": {"id": "q", "ids": ids, "tokens": tokens}}
    piece = [{"SpecialToken": {"id": "q", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": piece, "pair": piece, "special_tokens": known}


def doubling(nested):
    """Steps that make a text 2 ** 40 times as long."""
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", nested: [double] * 40}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(added_tokens="x"), "added_tokens is 'x'"),
        (lambda v: v["added_tokens"][0].update(id=5), "its id in model.vocab"),
        (lambda v: v["added_tokens"][0].update(content=""), "content is ''"),
        (lambda v: v["added_tokens"][0].update(speciel=True), "no such key"),
        (lambda v: v["model"]["vocab"].update(zzz=2**24), "the largest id is 16777216"),
        (lambda v: v["model"]["vocab"].update(zzz=2**60), "model.vocab.zzz is"),
        (lambda v: v["model"]["vocab"].update(zzz="7"), "model.vocab.zzz is '7'"),
        (lambda v: v["model"]["vocab"].update(zzz=0), "an id of its own for every token"),
        (lambda v: v["model"].update(vocab=[]), "tokenizer.json"),
        (lambda v: v["model"].update(dropout=0.1), "model.dropout is 0.1"),
        (lambda v: v["model"].update(merges=[["a"]]), r"merges\[0\] is \['a'\]; expected two"),
        (lambda v: v["model"].update(merges=[["ß1", "ß2"]]), "tokenizer.json: cannot be read"),
        (lambda v: v["model"].update(type="Magic"), "model.type is 'Magic'"),
        (lambda v: v["model"].update(unk_token="nowhere"), "model.unk_token is 'nowhere'"),
        (
            lambda v: v.update(
                model={
                    "type": "Unigram",
                    "unk_id": 0,
                    "vocab": [["a", 0.0], ["b", 0.0], ["a", 1.0]],
                }
            ),
            "model.vocab is 'a'; expected every piece once",
        ),
        (lambda v: v.update(decoder={"type": "CTC"}), "tokenizer.json"),
        (lambda v: v.update(padding={"strategy": {"Fixed": 10**9}}), "padding"),
        (lambda v: v.update(post_processor=template([2], ["nowhere"])), "nowhere' is 2; expected"),
        (lambda v: v.update(post_processor=template([], []) | {"special_tokens": {}}), "'q'"),
        (lambda v: v.update(decoder={"type": 7}), "decoder.type is 7"),
        (lambda v: v.update(normalizer=doubling("normalizers")), "at most 256 times as long"),
        (lambda v: v.update(decoder=doubling("decoders")), "decoder Replace is 'aa'"),
        (
            lambda v: v.update(normalizer={"type": "Prepend", "prepend": "x" * 1000}),
            "normalizer Prepend",
        ),
        (lambda v: v.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}}), "read"),
    ],
)
def test_what_the_file_cannot_mean_is_named(folder, change, message, capfd):
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(changed(folder, change))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not capfd.readouterr().err  # no panic's lines either


def test_no_code_is_advised(folder):
    code = {"AutoTokenizer": ["evil.T", None]}
    changed(folder, lambda v: v.update(auto_map=code), "tokenizer_config.json")
    with pytest.raises(InputError, match="never run here; remove the key") as caught:
        load_tokenizer(folder)
    assert "trust" not in str(caught.value)


@pytest.mark.parametrize("name", ["LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "Evil"])
def test_the_file_wins_over_the_class_that_the_folder_names(folder, name):
    change = {"tokenizer_class": name}
    changed(folder, lambda v: v.update(change), "tokenizer_config.json")
    own = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(folder).hf.backend_tokenizer
    assert loaded.encode(PROBE).ids == own.encode(PROBE).ids


def test_words_that_only_the_config_adds_get_the_ids_it_says_or_are_refused(folder):
    token = {"content": "<new>", "special": True}
    change = {"added_tokens_decoder": {"0": token}}
    changed(folder, lambda v: v.update(change), "tokenizer_config.json")
    vocab = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    loaded = load_tokenizer(folder).hf.get_vocab()
    assert {word: loaded[word] for word in vocab} == vocab


def test_all_end_tokens_are_known(folder):
    ends = load_tokenizer(folder).end_ids
    (folder / "config.json").write_text('{"eos_token_id": [7, 8]}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert load_tokenizer(folder).end_ids == (*ends, 9, 7, 8)
    stops, known = answer_stops(prompt_format(load_tokenizer(folder)), 400), [*ends, 7, 8, 9]
    assert np.asarray(stops.at_start)[known].all() and np.asarray(stops.in_text)[known].all()
    (folder / "generation_config.json").write_text('{"eos_token_id": "9"}')
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id is '9'"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_templates/tools.jinja"])
def test_a_chat_template_is_a_file_of_the_folder(folder, name, tmp_path):
    place = folder / name
    place.parent.mkdir(exist_ok=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tools.jinja").write_text("secret")
    place.symlink_to(tmp_path / "out" / "tools.jinja")
    with pytest.raises(InputError, match=r"jinja: is a link to .* out of its folder"):
        load_tokenizer(folder)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(InputError, match="jinja: is a FIFO"):
        load_tokenizer(folder)
    place.unlink()
    place.write_text("x" * (2 << 20))
    with pytest.raises(InputError, match=r"jinja: has 2097152 bytes"):
        load_tokenizer(folder)
    place.unlink()
    if place.parent != folder:
        place.parent.rmdir()
        place.parent.symlink_to(tmp_path / "out")
        with pytest.raises(InputError, match=r"jinja: is a link to .* out of its folder"):
            load_tokenizer(folder)


def test_a_pattern_that_takes_too_many_steps_on_a_text_is_named(folder, capfd):
    bomb = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated"}
    changed(folder, lambda v: v.update(pre_tokenizer={**bomb, "invert": False}))
    tokenizer = load_tokenizer(folder)
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_continuations([text])):
        with pytest.raises(InputError, match="a text: cannot be read"):
            encode("x" * 60)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    shutil.move(folder / "tokenizer.json", tmp_path / "other.json")
    (folder / "tokenizer.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(InputError, match="out of its folder"):
        load_tokenizer(folder)
