"""What was converted is kept by what it follows from; damaged, foreign and half-written is not."""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, in_another_thread

from onceedit_jax.errors import InputError
from onceedit_jax.storage import checksums, converted
from onceedit_jax.storage.converted import content_hash, converted_folder, entry
from onceedit_jax.storage.locks import locked

ARRAYS = {"a": np.arange(40, dtype=np.float32), "b": np.ones((3, 5), np.int8)}


@pytest.fixture
def source(tmp_path, keeping):
    """A file to convert."""
    (tmp_path / "source.bin").write_bytes(bytes(1000))
    return tmp_path / "source.bin"


def place(*files, what="test", libraries=("numpy",)):
    return entry(files, what, libraries)


def read(found, **options):
    """The arrays of an entry and what is said about them; None for none."""
    return found.read(lambda arrays, about: (arrays, about), **options)


def kept(source, **changes):
    found = place(source, **changes)
    found.keep(ARRAYS, {"why": 1})
    return found


def test_what_is_kept_comes_back_mapped_and_cannot_be_written_to(source):
    arrays, about = read(kept(source))
    assert about == {"why": 1}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype and not arrays[name].flags.writeable
    assert arrays["a"].ctypes.data % 64 == 0


def test_another_source_another_use_and_other_code_have_other_places(source, tmp_path, monkeypatch):
    first = kept(source)
    (tmp_path / "other.bin").write_bytes(bytes(999) + b"1")
    others = [place(tmp_path / "other.bin"), place(source, what="other"),
              place(source, libraries=("jax",))]  # fmt: skip
    monkeypatch.setattr(converted, "_source_code", lambda: "other")
    others.append(place(source))
    assert len({first.path, *(other.path for other in others)}) == 5
    assert all(read(other) is None for other in others)


def test_every_file_of_the_code_counts(tmp_path):
    package = Path(converted.__file__).parents[1]
    for name in converted._CONVERTING:
        shutil.copytree(package / name, tmp_path / name)
        before = converted._hash_of_code(tmp_path / name)
        for file in (tmp_path / name).rglob("*.py"):
            sound = file.read_bytes()
            file.write_bytes(sound + b"#")
            assert converted._hash_of_code(tmp_path / name) != before
            file.write_bytes(sound)
        assert converted._hash_of_code(tmp_path / name) == before


def test_what_cannot_be_read_is_not_kept(source, tmp_path, monkeypatch):
    assert place(tmp_path / "absent") is None
    assert place() is None
    assert place(source, libraries=("no-such-package",)) is None
    monkeypatch.setattr(converted, "_source_code", lambda: converted._hash_of_code(tmp_path / "x"))
    assert place(source) is None


def test_the_same_bytes_elsewhere_have_the_same_place(source, tmp_path):
    (tmp_path / "copy.bin").write_bytes(source.read_bytes())
    assert place(tmp_path / "copy.bin").path == kept(source).path


def test_a_source_is_hashed_once_and_again_when_it_has_changed(source, monkeypatch):
    hashed = []
    real = converted.sha256_of
    monkeypatch.setattr(converted, "sha256_of", lambda path: hashed.append(path) or real(path))
    first = place(source)
    converted._content_hash.cache_clear()  # as in another process, which has the note
    assert place(source).path == first.path and len(hashed) == 1
    status = source.stat()
    source.write_bytes(bytes(999) + b"1")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))  # as some copies do
    assert place(source).path != first.path and len(hashed) == 2
    monkeypatch.setattr(converted, "_noted", lambda *given: None)
    assert place(source).path != first.path and len(hashed) == 2  # nor twice in one process


def test_a_source_that_was_just_written_is_hashed_again(source, monkeypatch):
    monkeypatch.setattr(converted, "_SETTLED", 60.0)
    place(source)
    assert not list(converted_folder().glob("*.json"))
    states = converted._states([source])
    monkeypatch.setattr(converted, "_states", lambda files: states)  # as within one tick
    before = content_hash([source])
    source.write_bytes(bytes(999) + b"1")
    assert content_hash([source]) != before


def test_every_flipped_bit_is_named_and_made_anew(source):
    path = kept(source).path
    sound = path.read_bytes()
    for bit in range(0, 8 * len(sound), 7):
        changed = bytearray(sound)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.warns(UserWarning, match=f"{path.name}.* made anew"):
            assert read(place(source)) is None
    kept(source)
    assert read(place(source)) is not None


@pytest.mark.parametrize("data", [b"", b"short", b"\0" * 4096])
def test_a_truncated_entry_is_named_and_made_anew(source, data):
    path = kept(source).path
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="made anew"):
        assert read(place(source)) is None
    assert not path.exists()


@pytest.mark.parametrize(
    "fault",
    [
        PermissionError(13, "Permission denied"),
        OSError(24, "Too many open files"),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
)
def test_an_entry_that_cannot_be_opened_stays(source, monkeypatch, fault):
    found = kept(source)

    def refuse(*given, **options):
        raise fault

    for where, name in ((Path, "open"), (checksums, "_mapped"), (checksums, "ThreadPoolExecutor")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, refuse)
            with pytest.warns(UserWarning, match=f"{found.path.name}: cannot be read"):
                assert read(found) is None
        assert read(found) is not None


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("x"), InputError("other shapes")])
def test_an_entry_that_holds_something_else_is_made_anew(source, error):
    def make(arrays, about):
        raise error

    path = kept(source).path
    with pytest.warns(UserWarning, match=f"{path.name}: holds something else.*made anew"):
        assert place(source).read(make) is None
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs owners and modes")
@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_what_others_may_write_is_not_used(source, mode):
    entry_file, (note,) = kept(source).path, converted_folder().glob("*.note.json")
    for file in (entry_file, note):
        file.chmod(mode)
        with pytest.warns(UserWarning, match=f"{file.name}: .*others may write"):
            found = place(source)
            assert (read(found) is None) is (file == entry_file)
        file.chmod(0o644)
    assert read(place(source)) is not None


@pytest.mark.skipif(os.name != "posix", reason="needs owners and modes")
def test_what_another_user_wrote_is_not_used(source, monkeypatch):
    found = kept(source)
    monkeypatch.setattr(converted.os, "geteuid", lambda: found.path.stat().st_uid + 1)
    if found.path.stat().st_uid == 0:  # root's files are everybody's
        assert read(found) is not None
        os.chown(found.path, 4711, -1)
    with pytest.warns(UserWarning, match=f"{found.path.name}: belongs to another user"):
        assert read(found) is None


@pytest.mark.skipif(os.name != "posix", reason="needs owners and modes")
def test_nobody_else_may_write_what_is_kept_whatever_the_umask(source):
    before = os.umask(0)
    try:
        found = kept(source)
    finally:
        os.umask(before)
    assert converted_folder().stat().st_mode & 0o777 == 0o700
    assert not any(file.stat().st_mode & 0o022 for file in converted_folder().iterdir())
    assert read(found) is not None


def test_a_source_that_was_rewritten_after_it_was_hashed_is_not_kept(source):
    found = place(source)
    source.write_bytes(bytes(999) + b"1")
    found.keep(ARRAYS, {})
    source.unlink()
    found.keep(ARRAYS, {})
    assert not found.path.exists()


def test_what_another_program_keeps_is_not_waited_for(source):
    with in_another_thread(locked(converted_folder())), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kept(source).path.exists()


def test_the_entry_of_another_source_is_not_believed(source):
    path = kept(source, what="other").path
    path.rename(place(source).path)
    with pytest.warns(UserWarning, match="under another name; it is made anew"):
        assert read(place(source)) is None


def test_a_damaged_note_of_a_hash_costs_only_time(source):
    path = kept(source).path
    (note,) = converted_folder().glob("*.note.json")
    for text in ("", "[]", "{}", note.read_text()[:-3], note.read_text().replace('": [', '": [[')):
        note.write_text(text)
        assert place(source).path == path


def test_a_cache_that_cannot_be_written_loses_only_the_gain(source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="converted is not kept") as told:
        kept(source)
    assert len(told) == 1 and read(place(source)) is None


def test_a_full_disk_loses_only_the_gain(source, monkeypatch):
    usage = converted.shutil.disk_usage(source.parent)._replace(free=10)
    first = kept(source, what="before")
    monkeypatch.setattr(converted.shutil, "disk_usage", lambda path: usage)
    with pytest.warns(UserWarning, match=r"only 0\.0 GB are free"):
        kept(source)
    size = first.path.stat().st_size
    monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", str((size + 10) / 1e9))
    larger = {"a": np.zeros(size // 4, np.float32)}
    with pytest.warns(UserWarning, match=r"only 0\.0 GB are free"):
        place(source).keep(larger, {})
    assert first.path.exists()  # removing it would not have helped


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
    for text in ("much", "-1", "nan", "inf", ""):
        monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", text)
        with pytest.raises(InputError, match=f"ONCEEDIT_CONVERTED_GB={text}: expected gigabytes"):
            place(source)


def test_a_note_that_is_no_file_is_not_waited_for(source):
    place(source)
    (note,) = converted_folder().glob("*.note.json")
    note.unlink()
    os.mkfifo(note, 0o600)
    assert place(source) is not None


def test_old_notes_are_dropped_and_a_note_that_is_written_stays(source, tmp_path):
    place(source)
    (note,) = converted_folder().glob("*.note.json")
    writing = converted_folder() / "x.note.new"
    for file in (writing, converted_folder() / "old.note.new", note):
        file.touch()
    os.utime(note, (1, 1))
    os.utime(converted_folder() / "old.note.new", (1, 1))
    kept(source, what="2")
    assert [file.name for file in converted_folder().glob("*.note.*")] == [writing.name]


def test_two_links_of_other_names_have_notes_of_their_own(source, tmp_path):
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    for link in (first, second):
        link.symlink_to(source)
    assert place(first, second).path != place(second, first).path
    third = tmp_path / "c.gguf"
    third.symlink_to(source)
    assert place(first, third).path != place(first, second).path


def test_a_writer_that_is_killed_leaves_nothing_half_written(source):
    program = (
        "import os, signal, sys; from pathlib import Path; import numpy as np;"
        "from onceedit_jax.storage import checksums, converted;"
        "real = checksums.write_aligned;"
        "checksums.write_aligned = lambda *a: (real(*a), os.kill(os.getpid(), signal.SIGKILL));"
        "place = converted.entry([Path(sys.argv[1])], 'test', ['numpy']);"
        "place.keep({'a': np.zeros(9, np.float32)}, {})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, source], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(converted_folder().glob("*.partial"))
    assert read(place(source)) is None
    kept(source)
    assert not list(converted_folder().glob("*.partial"))
    assert read(place(source)) is not None


def test_nothing_is_said_while_all_is_well(source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(place(source)) is None
        assert read(kept(source)) is not None
