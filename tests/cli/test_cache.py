"""`onceedit cache` shows what the cache folder holds, and removes only what it is told to."""

import pytest

from onceedit_jax.cli.main import call
from onceedit_jax.storage.cache_parts import HOLDS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder with a file in each of its parts."""
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))
    for name in HOLDS:
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_bytes(bytes(3_000_000))
    return tmp_path


def test_every_part_is_shown_with_its_size(folder, capsys):
    call(["cache"])
    shown = capsys.readouterr().out
    assert shown.count("3 MB") == len(HOLDS) and all(name in shown for name in HOLDS)


def test_only_what_is_named_is_removed(folder, capsys):
    call(["cache", "--clear", "converted", "--clear", "tables"])
    assert {path.name for path in folder.iterdir()} == HOLDS.keys() - {"converted", "tables"}
    assert "removed converted: 1 files, 3 MB" in capsys.readouterr().err
    call(["cache", "--clear", "converted"])


def test_heads_that_were_learned_are_not_removed(folder):
    with pytest.raises(SystemExit):
        call(["cache", "--clear", "relation-heads"])
    assert (folder / "relation-heads" / "inner" / "file").exists()


def test_a_part_that_cannot_be_removed_is_named(folder, capsys, monkeypatch):
    from onceedit_jax.errors import RunError
    from onceedit_jax.storage import cache_parts

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_parts.shutil, "rmtree", refuse)
    with pytest.raises(RunError, match="tables: cannot be removed"):
        call(["cache", "--clear", "tables"])


def test_a_part_that_is_a_link_is_emptied_and_stays(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("large-disk") / "models"
    (folder / "models").rename(elsewhere)
    (folder / "models").symlink_to(elsewhere)
    call(["cache", "--clear", "models"])
    assert (folder / "models").is_symlink() and not list(elsewhere.iterdir())
