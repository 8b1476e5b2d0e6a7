"""Folders appear whole, and nothing else is ever lost to them."""

import os

import pytest

from onceedit_jax.errors import InputError
from onceedit_jax.storage.checksums import write_sealed
from onceedit_jax.storage.files import FolderKind, check_replaceable, fresh_folder
from onceedit_jax.storage.locks import locked
from onceedit_jax.storage.text_files import write_whole

KIND = FolderKind("mark", ("[0-9]", "part*"))


def contents(folder):
    """What is below a folder, but for the lock of a folder that was written there."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return sorted(name for name in names if not name.endswith(".lock"))


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with fresh_folder(tmp_path / "a" / "b", KIND) as fresh:
        (fresh / "mark").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert contents(tmp_path) == ["a", "a/b", "a/b/mark"]


def test_an_earlier_result_is_replaced(tmp_path):
    for text in ("1", "2"):
        with fresh_folder(tmp_path / "b", KIND) as fresh:
            (fresh / "mark").write_text(text)
            (fresh / text).touch()
    assert (tmp_path / "b" / "mark").read_text() == "2"
    assert contents(tmp_path) == ["b", "b/2", "b/mark"]


@pytest.mark.parametrize("name", ["fifo", "link", "loop", "x" * 300, "nul\0", "\udcff"])
def test_what_is_no_place_to_write_to_is_refused_and_stays(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "loop").symlink_to("loop")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="choose another place"):
        write_whole(tmp_path / name, "text")
    with pytest.raises(InputError, match="choose another place"), locked(tmp_path / name):
        pass
    with pytest.raises(InputError, match="choose another"), fresh_folder(tmp_path / name, KIND):
        pass
    with pytest.raises(InputError, match="choose another place"):
        write_sealed(tmp_path / name, {}, {})
    assert contents(tmp_path) == before and not list(tmp_path.glob(".*"))
    assert (tmp_path / "link").is_fifo()


def test_what_fails_leaves_everything_as_it_was(tmp_path):
    with fresh_folder(tmp_path / "b", KIND) as fresh:
        (fresh / "mark").write_text("kept")
    with pytest.raises(RuntimeError), fresh_folder(tmp_path / "b", KIND) as fresh:
        (fresh / "mark").write_text("lost")
        raise RuntimeError
    assert (tmp_path / "b" / "mark").read_text() == "kept"
    assert contents(tmp_path) == ["b", "b/mark"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(InputError, match="holds other files"),
        fresh_folder(tmp_path, KIND),
    ):
        pass
    with pytest.raises(InputError, match="this is a file"):
        check_replaceable(tmp_path / "thesis.tex", KIND)
    assert contents(tmp_path) == ["thesis.tex"]


def test_what_is_put_into_a_result_is_not_lost_with_it(tmp_path):
    for name in ("mark", "part-1", "notes.txt"):
        (tmp_path / name).write_text(name)
    with (
        pytest.raises(InputError, match=r"notes\.txt would be lost"),
        fresh_folder(tmp_path, KIND),
    ):
        pass
    assert contents(tmp_path) == ["mark", "notes.txt", "part-1"]


def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "b"
    link.symlink_to(tmp_path / "disk")
    for text in ("1", "2"):
        with fresh_folder(link, KIND) as fresh:
            (fresh / "mark").write_text(text)
    assert link.is_symlink() and (tmp_path / "disk" / "mark").read_text() == "2"
    assert contents(tmp_path) == ["b", "disk", "disk/mark"]


def test_an_empty_folder_and_a_new_name_are_free(tmp_path):
    check_replaceable(tmp_path, KIND)
    check_replaceable(tmp_path / "new", KIND)
