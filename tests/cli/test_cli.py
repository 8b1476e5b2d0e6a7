"""The command line: flags, config files, exit codes, and one line for every error."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml
from support import ROOT

from onceedit_jax.cli.config_file import with_config
from onceedit_jax.cli.environment import with_huge_pages
from onceedit_jax.cli.main import COMMANDS, FORWARDED
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.options import records_file
from onceedit_jax.planning.hardware import CHIPS, ChipName


def onceedit(*arguments, cwd=None):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from onceedit_jax.cli.main import run; run()",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )


def test_help_names_every_command():
    done = onceedit("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


def options_of(command):
    """Name and type of every option of a command's records, settings records included."""

    def fields(record):
        for field in dataclasses.fields(record):
            kind = get_type_hints(record)[field.name]
            yield from fields(kind) if dataclasses.is_dataclass(kind) else [field.name]

    kinds = get_type_hints(COMMANDS[command])
    kinds.pop("return")
    return [name for kind in kinds.values() for name in fields(kind)]


POSITIONAL = {
    "edit": ["facts"],
    "add": ["facts"],
    "replace": ["number", "facts"],
    "revert": ["numbers"],
    "show": ["number"],
    "verify": ["folder"],
    "push": ["edited", "repository"],
    "pull": ["repository"],
    **{name: ["edited"] for name in ("info", "list", "history", "compact")},
}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in FORWARDED])
def test_every_option_of_a_commands_records_is_one_flag(command):
    done = onceedit(command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    flags = re.findall(r"│ --([a-z][a-z-]*)", done.stdout)
    positional = POSITIONAL.get(command, [])
    options = [name for name in options_of(command) if name not in positional]
    assert sorted(flags) == sorted(name.replace("_", "-") for name in options)
    assert len(set(flags)) == len(flags)
    assert done.stdout.count("positional arguments") == bool(positional)
    # Every one is explained.
    assert not re.search(r"^│ --\S+ +(\S+ +)?\((default|required)", done.stdout, re.MULTILINE)


def test_help_imports_no_jax():
    program = (
        "import sys\n"
        "from onceedit_jax.cli.main import main\n"
        "sys.argv = ['onceedit', 'evaluate', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print([name for name in ('jax', 'rich', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["editing.ledger_file", "editing.artifact_info", "data.loaders"])
def test_what_reads_no_weights_imports_no_jax(module):
    """So that `revert`, `list` and `history` answer at once."""
    program = f"import sys, onceedit_jax.{module}; sys.exit('jax' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", program]).returncode


def test_the_version_is_printed():
    assert onceedit("--version").stdout == f"onceedit {version('onceedit-jax')}\n"


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (("experiment", "scaling", "--data", "a b"), "experiments scaling --data 'a b'"),
        (("report", "results"), "experiments report results"),
    ],
)
def test_experiments_are_run_from_a_checkout(tmp_path, typed, command):
    done = onceedit(*typed, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert done.stderr.rstrip().endswith(f"python -m {command}")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()
    program = "import sys; print(sys.argv[1:]); sys.exit(7)"
    (tmp_path / "experiments" / "__main__.py").write_text(program)
    done = onceedit(*typed, cwd=tmp_path)
    assert done.returncode == 7
    assert done.stdout == f"{shlex.split(command)[1:]}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "nowhere"),
        ("edit", "nowhere.jsonl", "--plugin", "x", "--out", "z"),
        ("evaluate", "--edited", "nowhere", "--target", "t", "--data", "d", "--out", "o.json"),
        ("--config", "nowhere.yaml", "demo"),
        ("edit", "e.jsonl", "--plugin", "x", "--out", "z", "--learning-rate", "0"),
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


def test_chips_that_may_be_typed_have_their_figures():
    assert set(get_args(ChipName)) == set(CHIPS)


def test_the_example_configuration_has_every_setting_with_its_default():
    values = yaml.safe_load((ROOT / "configs" / "edit.yaml").read_text())
    assert list(values) == [field.name for field in dataclasses.fields(EditSettings)]
    assert EditSettings(**values) == EditSettings()


def test_unknown_flags_are_refused():
    assert onceedit("info", "x", "--colour").returncode == 2


def test_a_config_file_stands_for_flags_and_typed_flags_win(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("epochs: 3\nresume: true\ntarget: [a, b]\n")
    begin = ["edit", "--config", str(config)]
    flags = ["--epochs=3", "--resume", "--target=a", "--target=b"]
    assert with_config(begin) == ["edit", *flags]
    typed = ["--epochs=5", "--no-resume"]
    assert with_config([*begin, *typed]) == ["edit", *flags[2:], *typed]
    assert with_config([*begin, "--target", "c"]) == ["edit", *flags[:2], "--target", "c"]


def test_flags_come_from_the_environment_after_typed_ones_and_before_the_file(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("port: 1\nrows: 2\nwarm: true\n")
    begin = ["serve", "--config", str(config)]
    environment = {
        "ONCEEDIT_SERVE_PORT": "80", "ONCEEDIT_SERVE_WARM": "false", "ONCEEDIT_EVALUATE_LIMIT": "3",
        "ONCEEDIT_SERVE_BODY_BYTES": "9", "ONCEEDIT_SERVE_TARGET": "[a, b]", "ONCEEDIT_CACHE": "c",
    }  # fmt: skip
    rest = ["--body-bytes=9", "--target=a", "--target=b"]
    assert with_config(begin, environment) == [
        "serve", "--port=80", "--rows=2", "--no-warm", *rest
    ]  # fmt: skip
    assert with_config(["serve", "--port=5", "--warm"], environment) == [
        "serve", *rest, "--port=5", "--warm"
    ]  # fmt: skip
    assert with_config([], environment) == []


@pytest.mark.parametrize("token", ["0123", "1_000", "yes", "a: b", "#x", "-abc", "!x", "off"])
def test_a_token_in_the_environment_is_text_as_it_is(token):
    assert with_config(["serve"], {"ONCEEDIT_SERVE_TOKEN": token}) == ["serve", f"--token={token}"]


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n"])
def test_a_config_that_holds_no_flags_is_refused(tmp_path, text):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(InputError, match=r"run\.yaml"):
        with_config(["edit", "--config", str(config)])


def test_an_evaluation_tells_summary_and_records_apart(tmp_path):
    flags = ("--edited", tmp_path, "--target", "x", "--data", "y", "--out", tmp_path / "o.jsonl")
    done = onceedit("evaluate", *flags)
    assert done.returncode == 2
    assert "o.jsonl" in done.stderr and "results.json" in done.stderr
    assert records_file(Path("eval.zsre")) == Path("eval.zsre.jsonl")
    assert records_file(Path("a/eval.json")) == Path("a/eval.jsonl")


@pytest.mark.parametrize("out", ["questions.json", "questions.jsonl"])
def test_an_evaluation_does_not_write_over_its_data(tmp_path, out):
    data = tmp_path / "questions.jsonl"
    data.write_text('{"prompt": "Where?", "target": "Here"}\n')
    flags = ("--edited", tmp_path, "--target", "x", "--data", data, "--out", tmp_path / out)
    done = onceedit("evaluate", *flags)
    assert done.returncode == 2
    assert "questions.jsonl" in done.stderr and "another name" in done.stderr
    assert data.read_text() == '{"prompt": "Where?", "target": "Here"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-new-tokens: 4\nmax_new_tokens: 9", "--max-new-tokens is there twice"),
        ("alpha: {a: 1}", "alpha is {'a': 1}; expected a text, a number"),
        ("prompt: [[a]]", r"prompt is \['a'\]; expected a text"),
        ("prompt: 12:30", "line 1: YAML reads 12:30 as a number of base 8 or 60"),
        ("prompt: 007", "put text in quotes"),
        ("5: 1", "5 is no flag"),
        ('"alpha=3 --x": 1', "'alpha=3 --x' is no flag"),
        ('"": 1', "'' is no flag"),
    ],
)
def test_what_a_config_cannot_mean_is_named(tmp_path, text, message):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        with_config(["generate", "--config", str(config)])
    assert str(config) in str(caught.value)


def test_a_config_of_many_flags_is_read_in_a_moment(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("".join(f"k{n}: 1\n" for n in range(20_000)))
    start = time.monotonic()
    assert len(with_config(["generate", "--config", str(config)])) == 20_001
    assert time.monotonic() - start < 10


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = onceedit("gate-train", "--plugin", "nowhere", "--out", tmp_path / "fifo")
    assert done.returncode == 2 and "is a device, a FIFO or a socket" in done.stderr
    assert (tmp_path / "fifo").is_fifo()
