"""The command line: flags, config files, exit codes, and one line for every error."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from onceedit_jax.fusion.rules import PRESETS

from onceedit_jax.cli import main as cli
from onceedit_jax.cli.main import _with_config, with_huge_pages
from onceedit_jax.cli.workflow import _records_file
from onceedit_jax.data.loaders import FORMATS
from onceedit_jax.editing.artifact import FORMAT
from onceedit_jax.errors import InputError
from onceedit_jax.gates.weight_token import GateKind


def onceedit(*arguments):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from onceedit_jax.cli.main import run; run()",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
    )


COMMANDS = [
    "demo", "edit", "evaluate", "generate", "transfer", "experiment", "report", "export", "info",
]  # fmt: skip


def test_help_names_every_command():
    done = onceedit("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    assert onceedit(command, "--help").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "nowhere"),
        ("edit", "--plugin", "x", "--edits", "nowhere.jsonl", "--unrelated", "y", "--out", "z"),
        ("evaluate", "--edited", "nowhere", "--target", "t", "--data", "d", "--out", "o.json"),
        ("--config", "nowhere.yaml", "demo"),
        ("edit", "--plugin", "x", "--edits", "e", "--unrelated", "y", "--out", "z",
         "--learning-rate", "0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments):
    done = onceedit(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_starts_over_once_for_huge_pages():
    found = with_huge_pages({"A": "b"})
    if found is None:
        pytest.skip("this C library takes no advice on pages")
    assert found == {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert with_huge_pages(found) is None
    assert with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) is None
    kept = with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
    assert kept == {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"}


def test_debug_shows_where_an_error_arose():
    assert "Traceback" in onceedit("--debug", "info", "nowhere").stderr


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        (cli.Format, ["auto", *FORMATS]),
        (cli.Fusion, PRESETS),
        (cli.Gate, get_args(GateKind)),
    ],
)
def test_flags_offer_what_the_library_has(typed, known):
    """Written twice: `--help` may not wait for jax."""
    assert sorted(get_args(typed)) == sorted(known)


def test_unknown_flags_are_refused():
    assert onceedit("info", "x", "--colour").returncode == 2


def test_a_config_file_stands_for_flags_and_typed_flags_win(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("epochs: 3\nresume: true\ntarget: [a, b]\n")
    begin = ["edit", "--config", str(config)]
    flags = ["--epochs", "3", "--resume", "--target", "a", "--target", "b"]
    assert _with_config(begin) == ["edit", *flags]
    typed = ["--epochs=5", "--no-resume"]
    assert _with_config([*begin, *typed]) == ["edit", *flags[3:], *typed]
    assert _with_config([*begin, "--target", "c"]) == ["edit", *flags[:3], "--target", "c"]


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n"])
def test_a_config_that_holds_no_flags_is_refused(tmp_path, text):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(InputError, match=r"run\.yaml"):
        _with_config(["edit", "--config", str(config)])


def test_info_reads_no_array_and_counts_long_lists(tmp_path):
    values = {
        "format": FORMAT,
        "base": {"name": "tiny", "config": {}, "hf_config": {}},
        "edits": [{"prompt": "Where?", "target": "Here", "subject": None}],
        "trained_texts": ["0123abcd"] * 1000,
    }
    (tmp_path / "edit.json").write_text(json.dumps(values))
    done = onceedit("info", tmp_path)
    assert done.returncode == 0
    assert "Where? -> Here" in done.stdout
    assert "0123abcd" not in done.stdout and '"trained_texts": 1000' in done.stdout


def test_an_evaluation_tells_summary_and_records_apart(tmp_path):
    flags = ("--edited", tmp_path, "--target", "x", "--data", "y", "--out", tmp_path / "o.jsonl")
    done = onceedit("evaluate", *flags)
    assert done.returncode == 2
    assert "o.jsonl" in done.stderr and "results.json" in done.stderr
    assert _records_file(Path("eval.zsre")) == Path("eval.zsre.jsonl")
    assert _records_file(Path("a/eval.json")) == Path("a/eval.jsonl")


@pytest.mark.parametrize("out", ["questions.json", "questions.jsonl"])
def test_an_evaluation_does_not_write_over_its_data(tmp_path, out):
    data = tmp_path / "questions.jsonl"
    data.write_text('{"prompt": "Where?", "target": "Here"}\n')
    flags = ("--edited", tmp_path, "--target", "x", "--data", data, "--out", tmp_path / out)
    done = onceedit("evaluate", *flags)
    assert done.returncode == 2
    assert "questions.jsonl" in done.stderr and "another name" in done.stderr
    assert data.read_text() == '{"prompt": "Where?", "target": "Here"}\n'
