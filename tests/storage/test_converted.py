"""What was converted is kept by what it follows from; damaged, foreign and half-written is not."""

import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from support import ROOT

from onceedit_jax.errors import InputError
from onceedit_jax.storage import converted
from onceedit_jax.storage.converted import content_hash, converted_folder, entry

ARRAYS = {"a": np.arange(40, dtype=np.float32), "b": np.ones((3, 5), np.int8)}


@pytest.fixture
def source(tmp_path, keeping):
    """A file to convert."""
    (tmp_path / "source.bin").write_bytes(bytes(1000))
    return tmp_path / "source.bin"


def place(*files, what="test", code=(converted,), libraries=("numpy",)):
    return entry(files, what, code, libraries, least=1)


def kept(source, **changes):
    found = place(source, **changes)
    found.keep(ARRAYS, {"why": 1})
    return found


def test_what_is_kept_comes_back_mapped_and_cannot_be_written_to(source):
    arrays, about = kept(source).read()
    assert about == {"why": 1}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype and not arrays[name].flags.writeable
    assert arrays["a"].ctypes.data % 64 == 0


def test_another_source_another_use_and_other_code_have_other_places(source, tmp_path):
    first = kept(source)
    (tmp_path / "other.bin").write_bytes(bytes(999) + b"1")
    others = [place(tmp_path / "other.bin"), place(source, what="other"),
              place(source, code=(np,)), place(source, libraries=("jax",))]  # fmt: skip
    assert len({first.path, *(other.path for other in others)}) == 5
    assert all(other.read() is None for other in others)


def test_the_same_bytes_elsewhere_have_the_same_place(source, tmp_path):
    (tmp_path / "copy.bin").write_bytes(source.read_bytes())
    assert place(tmp_path / "copy.bin").path == kept(source).path


def test_a_source_is_hashed_once_and_again_when_it_has_changed(source, monkeypatch):
    hashed = []
    real = converted.sha256_of
    monkeypatch.setattr(converted, "sha256_of", lambda path: hashed.append(path) or real(path))
    first = place(source)
    assert place(source).path == first.path and len(hashed) == 1
    status = source.stat()
    source.write_bytes(bytes(999) + b"1")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))  # as some copies do
    assert place(source).path != first.path and len(hashed) == 2


def test_a_source_that_was_just_written_is_hashed_again(source, monkeypatch):
    monkeypatch.setattr(converted, "_SETTLED", 60.0)
    place(source)
    assert not list(converted_folder().glob("*.json"))


def test_every_flipped_bit_is_named_and_made_anew(source):
    path = kept(source).path
    sound = path.read_bytes()
    for bit in range(0, 8 * len(sound), 7):
        changed = bytearray(sound)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.warns(UserWarning, match=f"{path.name}.* made anew"):
            assert place(source).read() is None
    kept(source)
    assert place(source).read() is not None


@pytest.mark.parametrize("data", [b"", b"short", b"\0" * 4096])
def test_a_truncated_entry_is_named_and_made_anew(source, data):
    kept(source).path.write_bytes(data)
    with pytest.warns(UserWarning, match="made anew"):
        assert place(source).read() is None


def test_the_entry_of_another_source_is_not_believed(source):
    path = kept(source, what="other").path
    path.rename(place(source).path)
    with pytest.warns(UserWarning, match="under another name; it is made anew"):
        assert place(source).read() is None


def test_a_damaged_note_of_a_hash_costs_only_time(source):
    path = kept(source).path
    (note,) = converted_folder().glob("*.json")
    for text in ("", "[]", "{}", note.read_text()[:-3], note.read_text().replace('": [', '": [[')):
        note.write_text(text)
        assert place(source).path == path


def test_a_cache_that_cannot_be_written_loses_only_the_gain(source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="converted is not kept") as told:
        kept(source)
    assert len(told) == 1 and place(source).read() is None


def test_a_full_disk_loses_only_the_gain(source, monkeypatch):
    usage = converted.shutil.disk_usage(source.parent)._replace(free=10)
    monkeypatch.setattr(converted.shutil, "disk_usage", lambda path: usage)
    with pytest.warns(UserWarning, match=r"only 0\.0 GB are free"):
        kept(source)


def test_entries_stay_within_the_bound_and_the_oldest_go_first(source, monkeypatch):
    first, second = kept(source), kept(source, what="2")
    os.utime(second.path, (1, 1))
    size = first.path.stat().st_size
    monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", str((2 * size + 100) / 1e9))
    third = kept(source, what="3")
    assert [each.path.exists() for each in (first, second, third)] == [True, False, True]
    monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", str(10 / 1e9))
    with pytest.warns(UserWarning, match="the bound is"):
        kept(source, what="4")
    assert first.path.exists()


def test_zero_keeps_nothing_and_a_word_is_refused(source, monkeypatch):
    monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", "0")
    assert place(source) is None
    content_hash([source])
    assert not converted_folder().exists()
    monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", "much")
    with pytest.raises(InputError, match="ONCEEDIT_CONVERTED_GB=much"):
        place(source)


def test_a_small_source_is_not_kept(source):
    assert entry([source], "test", (converted,), (), least=1001) is None


def test_a_writer_that_is_killed_leaves_nothing_half_written(source):
    program = (
        "import os, signal, sys; from pathlib import Path; import numpy as np;"
        "from onceedit_jax.storage import checksums, converted;"
        "real = checksums.write_aligned;"
        "checksums.write_aligned = lambda *a: (real(*a), os.kill(os.getpid(), signal.SIGKILL));"
        "place = converted.entry([Path(sys.argv[1])], 'test', [converted], ['numpy'], least=1);"
        "place.keep({'a': np.zeros(9, np.float32)}, {})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, source], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(converted_folder().glob("*.partial"))
    assert place(source).read() is None
    kept(source)
    assert not list(converted_folder().glob("*.partial")) and place(source).read() is not None


def test_nothing_is_said_while_all_is_well(source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert place(source).read() is None
        assert kept(source).read() is not None
