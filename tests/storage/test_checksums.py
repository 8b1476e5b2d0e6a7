"""One flipped bit anywhere is found and named."""

import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file

from onceedit_jax.errors import InputError
from onceedit_jax.storage import checksums
from onceedit_jax.storage.checksums import (
    SUMS,
    check_sealed,
    check_sums,
    digest_of_sums,
    is_sealed,
    read_sealed,
    write_sealed,
    write_sums,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "f" / "inner").mkdir(parents=True)
    (tmp_path / "f" / "a").write_bytes(b"abc")
    (tmp_path / "f" / "inner" / "b c").write_bytes(b"")
    write_sums(tmp_path / "f")
    return tmp_path / "f"


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_of_a_folder_is_named(folder):
    digest = digest_of_sums(folder)
    for path in (folder / "a", folder / SUMS):
        sound = path.read_bytes()
        for bit in range(8 * len(sound)):
            path.write_bytes(flipped(sound, bit))
            with pytest.raises(InputError, match=str(path)):
                check_sums(folder, digest, remedy="x")
        path.write_bytes(sound)
    check_sums(folder, digest, remedy="x")


def test_files_that_come_and_go_are_named(folder):
    (folder / "new").touch()
    with pytest.raises(InputError, match="new: is not one of the files"):
        check_sums(folder, None, remedy="x")
    (folder / "new").unlink()
    (folder / "inner" / "b c").unlink()
    with pytest.raises(InputError, match="b c: is missing"):
        check_sums(folder, None, remedy="x")


def test_the_hashes_of_another_folder_are_refused(folder):
    with pytest.raises(InputError, match=f"{SUMS}: has changed"):
        check_sums(folder, "0" * 64, remedy="x")


def test_a_file_that_goes_while_it_is_read_is_named(folder, monkeypatch):
    there = checksums._names(folder)
    (folder / "a").unlink()
    monkeypatch.setattr(checksums, "_names", lambda place: there)
    with pytest.raises(InputError, match=r"a: cannot be read \(No such file or directory\); again"):
        check_sums(folder, None, remedy="again")


def test_a_file_of_an_earlier_version_is_read_and_a_damaged_one_is_not(tmp_path):
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    arrays = {"a": np.arange(3, dtype=np.float32)}
    save_file(arrays, old, {"about": '{"why": 1}'})
    assert read_sealed(old, remedy="x", older=True)[1] == {"why": 1}
    with pytest.raises(InputError, match="holds no SHA-256"):
        read_sealed(old, remedy="x")
    write_sealed(new, arrays, {"why": 1})
    sound = new.read_bytes()
    new.write_bytes(sound.replace(b'"sha256"', b'"sha257"'))
    with pytest.raises(InputError, match="holds no SHA-256"):
        read_sealed(new, remedy="x", older=True)


def test_usual_tools_read_the_hashes(folder):
    done = subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_every_flipped_bit_of_a_sealed_file_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {"a": np.arange(3, dtype=np.float32)}
    write_sealed(path, arrays, {"why": 'say "sha256":"no"'})
    assert is_sealed(path)
    sound = path.read_bytes()
    for bit in range(8 * len(sound)):
        path.write_bytes(flipped(sound, bit))
        with pytest.raises(InputError, match=str(path)):
            check_sealed(path, remedy="x")
    path.write_bytes(sound)
    found, about = read_sealed(path, remedy="x")
    np.testing.assert_array_equal(found["a"], arrays["a"])
    assert about == {"why": 'say "sha256":"no"'}
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]
