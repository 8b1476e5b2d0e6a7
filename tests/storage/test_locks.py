"""Two programs that write to one place: one waits, or says who writes there."""

import os
import subprocess
import sys
import threading

import pytest
from support import PYTHONPATH, in_another_thread

from onceedit_jax.cli.edit import EditOptions, edit_from_files
from onceedit_jax.errors import RunError
from onceedit_jax.evaluation.from_files import evaluate_from_files
from onceedit_jax.evaluation.options import EvaluationOptions
from onceedit_jax.storage.files import FolderKind, fresh_folder
from onceedit_jax.storage.locks import locked

KIND = FolderKind("mark", ("*.txt",))
HOLD = """
import sys, time
from pathlib import Path
from onceedit_jax.storage.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def write(folder, text):
    with fresh_folder(folder, KIND) as fresh:
        (fresh / "mark").write_text("")
        (fresh / "a.txt").write_text(text)


def test_who_comes_second_learns_who_writes(tmp_path):
    place = tmp_path / "plugin"
    told = (
        rf"plugin: process {os.getpid()} on .*, since \d.* is writing here; .* Nothing was changed"
    )
    with (
        in_another_thread(locked(place)),
        pytest.raises(RunError, match=told),
        locked(place, seconds=0),
    ):
        raise AssertionError


def test_a_thread_may_hold_a_place_several_times_over(tmp_path):
    with locked(tmp_path / "x", seconds=0), locked(tmp_path / "x", seconds=0):
        pass
    with in_another_thread(locked(tmp_path / "x", seconds=0)):
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "x")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    told = f"process {process.pid} on"
    with pytest.raises(RunError, match=told), locked(tmp_path / "x", seconds=0):
        raise AssertionError
    process.kill()
    process.wait()
    with locked(tmp_path / "x", seconds=0):
        pass


def test_writers_of_one_folder_take_turns(tmp_path):
    place, wrong = tmp_path / "plugin", []

    def write_often(text):
        for _ in range(20):
            write(place, text)
            if (place / "a.txt").read_text() not in ("a", "b"):
                wrong.append(text)

    threads = [threading.Thread(target=write_often, args=(text,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(path.name for path in tmp_path.iterdir()) == [".plugin.lock", "plugin"]


@pytest.mark.parametrize("made", [True, False])
def test_what_a_killed_run_left_is_cleared(tmp_path, made):
    place = tmp_path / "plugin"
    write(place if made else tmp_path / ".plugin.old", "before")
    (tmp_path / ".plugin.partial").mkdir()
    (tmp_path / ".plugin.partial" / "a.txt").write_text("half")
    with pytest.raises(ZeroDivisionError), fresh_folder(place, KIND):
        1 / 0  # noqa: B018
    assert (place / "a.txt").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} - {".plugin.lock", "..plugin.old.lock"} == {
        "plugin"
    }


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    write(tmp_path / "plugin", "before")
    with (
        pytest.raises(RunError, match=r"plugin: cannot be written \(No space left on device\); ch"),
        fresh_folder(tmp_path / "plugin", KIND),
    ):
        raise OSError(28, "No space left on device")
    assert (tmp_path / "plugin" / "a.txt").read_text() == "before"


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"), locked(tmp_path / "file" / "x"):
        raise AssertionError


def test_a_second_edit_to_one_place_is_refused_before_it_begins(tmp_path):
    options = EditOptions(facts="none.jsonl", plugin="none", out=tmp_path / "plugin")
    with in_another_thread(locked(options.out)), pytest.raises(RunError, match="is writing here"):
        edit_from_files(options)


def test_a_second_evaluation_to_one_place_is_refused_before_it_begins(tmp_path):
    options = EvaluationOptions(
        edited=tmp_path / "plugin", target=("none",), data="none", out=tmp_path / "out.json"
    )
    with in_another_thread(locked(options.out)), pytest.raises(RunError, match="is writing here"):
        evaluate_from_files(options)


WAITS = """
import sys, time
from onceedit_jax.cli import environment, main
environment.restart_with_huge_pages = lambda: None
def wait(arguments):
    try:
        print("begun", flush=True)
        time.sleep(600)
    finally:
        print("cleared up", flush=True)
main.call = wait
main.run()
"""


def test_sigterm_ends_a_command_as_ctrl_c_does():
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
    )
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.terminate()
    assert process.communicate() == (b"cleared up\n", b"interrupted\n")
    assert process.returncode == 130
