"""A safetensors header that its file does not bear out is refused before anything is read."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from onceedit_jax.errors import InputError
from onceedit_jax.storage.safetensors_files import read_header


@pytest.fixture
def path(tmp_path):
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}
    save_file(arrays, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def rewritten(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_sound_header_gives_every_tensors_place(path):
    found = read_header(path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (4,)),
    }
    raw = np.fromfile(path, np.float16, 4, offset=found["b"].offset)
    np.testing.assert_array_equal(raw, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["a"].update(data_offsets=[0, 20]), "expected 0 to 24"),
        (lambda h: h["a"].update(data_offsets=[-4, 20]), "whole number from 0"),
        (lambda h: h["b"].update(data_offsets=[20, 28]), "expected 24 to 32"),  # overlapping
        (lambda h: h["b"].update(data_offsets=[26, 34]), "expected 24 to 32"),  # a gap
        (lambda h: h["a"].update(shape=[2, 4]), "expected 0 to 32"),
        (lambda h: h["a"].update(shape=[2**40, 2**40]), "by its dtype"),
        (lambda h: h["a"].update(shape=3), "a.shape is 3"),
        (lambda h: h["a"].update(dtype="F64"), "expected 0 to 48"),
        (lambda h: h["a"].update(dtype="F33"), "a.dtype is 'F33'"),
        (lambda h: h["a"].pop("dtype"), "a.dtype"),
        (lambda h: h.pop("b"), "the tensors have 24 bytes, the file has 32"),
        (lambda h: h.update(c=7), "c is 7; expected an object"),
        (lambda h: h.update(__metadata__={"x": 1}), "x is 1"),
        (lambda h: h.update(__metadata__=[]), "expected an object"),
    ],
)
def test_what_does_not_fit_is_named(path, change, message):
    rewritten(path, change)
    with pytest.raises(InputError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("first", "message"),
    [(b" {", "begins with ' '"), (b'{"a":{},', "the key 'a' is there twice")],
)
def test_a_header_that_others_read_otherwise_is_refused(path, first, message):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].replace(b"{", first, 1)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(InputError, match=message):
        read_header(path)


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**62, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused(path, length):
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_header(path)
