"""Only regular files of bounded size are read, and what a parser throws names the file."""

import os

import pytest

from onceedit_jax.errors import InputError
from onceedit_jax.storage import bounded
from onceedit_jax.storage.bounded import check_regular, foreign, parse_yaml, read_bytes, read_json


def test_a_fifo_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json: is a FIFO; expected a regular file"):
        read_json(tmp_path / "config.json")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="zero: is a device"):
        read_bytes(tmp_path / "zero", most=10)
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path)


def test_a_link_stays_in_its_folder_or_in_the_hubs_cache(tmp_path):
    model = tmp_path / "models--a--b" / "snapshots" / "rev"
    model.mkdir(parents=True)
    blob = tmp_path / "models--a--b" / "blobs" / "0123"
    blob.parent.mkdir()
    blob.write_text("{}")
    (tmp_path / "outside").write_text("{}")
    (model / "inner").write_text("{}")
    for name, target in (("hub", blob), ("within", model / "inner")):
        (model / name).symlink_to(target)
        assert read_json(model / name, inside=model) == {}
    (model / "adapters" / "0000").mkdir(parents=True)
    (model / "adapters" / "0000" / "hub").symlink_to(blob)
    assert read_json(model / "adapters" / "0000" / "hub", inside=model / "adapters" / "0000") == {}
    (model / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"out: is a link to .*outside, out of its folder"):
        read_json(model / "out", inside=model)
    assert check_regular(model / "out").st_size == 2  # a file that a user names may be a link


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "line 1: "),
        (b"[]", "holds a list; expected a JSON object"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", "at most 64 levels"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"b": {"a": 1, "a": 2}}', "the key 'a' is there twice"),
        (b'{"a": "\\ud83d"}', r"'\\ud83d' is half of a character"),
        (b'{"\\uDE42x": 1}', r"'\\ude42' is half of a character"),
        (b" " * 2000 + b"{}", "has 2002 bytes; expected at most 1000"),
    ],
)
def test_what_is_no_small_json_object_is_refused(tmp_path, data, message):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    most = 1000 if data.startswith(b" ") else 1 << 20
    with pytest.raises(InputError, match=message) as caught:
        read_json(path, most=most)
    assert str(path) in str(caught.value)


def test_whole_characters_may_be_escaped(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(r'{"a": "\ud83d\uDE42", "b": "\\ud83d"}')
    assert read_json(path) == {"a": "\U0001f642", "b": r"\ud83d"}


def test_an_alias_bomb_is_refused_at_once():
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for one, two in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{two}: &{two} [" + ",".join([f"*{one}"] * 9) + "]")
    with pytest.raises(InputError, match=r"c\.yaml, line 2: an alias"):
        parse_yaml("\n".join(lines), "c.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 40 + "]" * 40,
        "a: b: c",
        "2001-99-99",
        "? [a]\n: b\n? {a: b}\n: c",
        "!!int 'x'",
        "a: 1\nb: 2\na: 3",
        "a: {b: 1, b: 2}",
        "a: 0x" + "f" * 5000,  # Python does not write such a number
        "a: 1" + ":1" * 1_000_000,  # takes hours
        "a: !!python/object/apply:os.getcwd []",
        "\t- a",
    ],
)
def test_what_yaml_cannot_mean_names_the_file(text):
    with pytest.raises(InputError, match=r"^c\.yaml"):
        parse_yaml(text, "c.yaml")


def test_plain_yaml_is_read():
    assert parse_yaml("a: [1, 2]\nb: {c: x}", "c.yaml") == {"a": [1, 2], "b": {"c": "x"}}


class PanicException(BaseException):
    """As a Rust library raises it."""


@pytest.mark.parametrize(
    "error", [PanicException("boom\nmore"), KeyError("boom"), ValueError("boom")]
)
def test_what_another_library_throws_names_the_file(error):
    message = r"^f: cannot be read \('?boom'?\); do this$"
    with pytest.raises(InputError, match=message), foreign("f", "do this"):
        raise error


def test_interruptions_and_own_errors_pass():
    for error in (KeyboardInterrupt(), InputError("own")):
        with pytest.raises(type(error), match=str(error)), foreign("f", "do this"):
            raise error


def test_silence_ends_with_the_block(capfd):
    with foreign("f", "x", silent=True):
        os.write(2, b"panicked")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_the_machine_has_some_memory():
    assert bounded.memory() > 1 << 28
