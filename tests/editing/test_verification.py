"""One flipped bit anywhere in an artifact is found and named."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest
from editing_cases import FAST, RECORDS, UNRELATED

from onceedit_jax.cli.verify import VerifyOptions
from onceedit_jax.cli.verify import verify as verify_command
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import read_info, write_info
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.verification import verify
from onceedit_jax.errors import InputError
from onceedit_jax.storage.checkpoints import load_tree, save_tree
from onceedit_jax.storage.checksums import SUMS, write_sealed

FLIPS = 1000


@pytest.fixture(scope="module")
def artifact(tiny_model, tmp_path_factory):
    model, tokenizer = tiny_model()
    settings = dataclasses.replace(FAST, epochs=1)
    folder = tmp_path_factory.mktemp("verify") / "plugin"
    return edit(model, tokenizer, RECORDS, UNRELATED, settings).save(folder)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_thousand_flipped_bits_are_found_and_named(artifact):
    rng = random.Random(0)
    files = [path for path in artifact.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 8 and {"edit.json", "tokenizer.json"} <= {path.name for path in files}
    for number in range(FLIPS):
        path = files[number % len(files)]
        bit = rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        (found,) = verify(artifact)
        flip(path, bit)
        assert found.fault and path.name in found.fault, (path, bit, found)
    assert [each.fault for each in verify(artifact)] == [None]


@pytest.mark.parametrize("name", ["edit.json", "tokenizer/tokenizer.json", "params/SHA256SUMS"])
def test_loading_names_the_damaged_file(artifact, name):
    flip(artifact / name, 4001)
    try:
        with pytest.raises(InputError, match=name):
            EditedPlugin.load(artifact)
    finally:
        flip(artifact / name, 4001)
    EditedPlugin.load(artifact)


def test_no_verify_opens_what_its_owner_has_changed(artifact):
    path = artifact / "edit.json"
    sound = path.read_text()
    path.write_text(sound.replace(RECORDS[0].target, "Mine"))
    try:
        with pytest.raises(
            InputError, match="if you changed it yourself, `onceedit export --no-verify`"
        ):
            EditedPlugin.load(artifact)
        assert EditedPlugin.load(artifact, verify=False).info.edits[0].target == "Mine"
    finally:
        path.write_text(sound)


def test_the_tokenizer_is_bound_to_the_weights(artifact, tiny_model, tmp_path):
    model, tokenizer = tiny_model(30)
    settings = dataclasses.replace(FAST, epochs=1)
    other = edit(model, tokenizer, RECORDS, UNRELATED, settings).save(tmp_path / "other")
    mixed = shutil.copytree(artifact, tmp_path / "mixed")
    shutil.rmtree(mixed / "tokenizer")
    shutil.copytree(other / "tokenizer", mixed / "tokenizer")
    with pytest.raises(InputError, match="tokenizer/SHA256SUMS: has changed"):
        EditedPlugin.load(mixed)


def test_a_number_that_is_none_is_refused(artifact):
    path = artifact / "edit.json"
    sound = path.read_text()
    values = json.loads(sound)
    values["rule"]["reach_evidence"] = float("nan")
    text = json.dumps(values)
    messages = {"NaN": "NaN is no number of JSON", "1e999": r"rule\.reach_evidence: expected a fin"}
    try:
        for number, message in messages.items():
            path.write_text(text.replace("NaN", number))
            with pytest.raises(InputError, match=message):
                read_info(artifact, verify=False)
    finally:
        path.write_text(sound)


def test_a_checkpoint_carries_hashes(tmp_path):
    save_tree(tmp_path / "c", {"a": np.arange(9.0)})
    assert [each.fault for each in verify(tmp_path)] == [None]
    files = [path for path in (tmp_path / "c").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    flip(largest, 77)
    with pytest.raises(InputError, match=largest.name):
        load_tree(tmp_path / "c")
    with pytest.raises(InputError, match=largest.name):
        verify_command(VerifyOptions(tmp_path))


def test_there_has_to_be_something_to_verify(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(InputError, match="nothing here carries hashes"):
        verify(tmp_path)


@pytest.mark.parametrize("bit", range(0, 8 * 10, 3))
def test_a_table_that_has_lost_its_hash_is_named(tmp_path, bit):
    path = tmp_path / "tables" / "x.safetensors"
    write_sealed(path, {"a": np.zeros(2, np.float32)}, {})
    assert [each.fault for each in verify(tmp_path)] == [None]
    flip(path, 8 * path.read_bytes().index(b'"sha256"') + bit)
    (found,) = verify(tmp_path)
    assert found.fault and str(path) in found.fault


def test_a_part_without_hashes_is_named(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "plugin")
    info = read_info(folder)
    (folder / "tokenizer" / SUMS).unlink()
    write_info(folder, dataclasses.replace(info, checksums={}))
    (found,) = verify(folder)
    assert found.fault and "tokenizer were written by a version without hashes" in found.fault
