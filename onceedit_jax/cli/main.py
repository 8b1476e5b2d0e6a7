"""The `onceedit` command: parses, calls one command, turns errors into one line and an exit code.

Commands import JAX when they run, so that `--help` answers at once.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version

from tyro.conf import OmitArgPrefixes, UseAppendAction
from tyro.extras import subcommand_cli_from_dict

from onceedit_jax.cli.add import add
from onceedit_jax.cli.cache import cache
from onceedit_jax.cli.check import check
from onceedit_jax.cli.compact import compact
from onceedit_jax.cli.config_file import with_config
from onceedit_jax.cli.demo import demo
from onceedit_jax.cli.edit import edit
from onceedit_jax.cli.environment import begin_process, prepare_environment
from onceedit_jax.cli.evaluate import evaluate
from onceedit_jax.cli.experiment import experiment
from onceedit_jax.cli.export import export
from onceedit_jax.cli.gate_train import gate_train
from onceedit_jax.cli.generate import generate
from onceedit_jax.cli.history import history
from onceedit_jax.cli.info import info
from onceedit_jax.cli.list_edits import list_edits
from onceedit_jax.cli.lm_eval import lm_eval
from onceedit_jax.cli.plan import plan
from onceedit_jax.cli.pull import pull
from onceedit_jax.cli.push import push
from onceedit_jax.cli.replace import replace
from onceedit_jax.cli.report import report
from onceedit_jax.cli.revert import revert
from onceedit_jax.cli.serve import serve
from onceedit_jax.cli.show import show
from onceedit_jax.cli.transfer import transfer
from onceedit_jax.cli.verify import verify
from onceedit_jax.errors import InputError, OnceEditError, RunError
from onceedit_jax.storage.visible import one_line, visible

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "edit": edit,
    "add": add,
    "replace": replace,
    "revert": revert,
    "list": list_edits,
    "show": show,
    "history": history,
    "compact": compact,
    "gate-train": gate_train,
    "evaluate": evaluate,
    "check": check,
    "lm-eval": lm_eval,
    "generate": generate,
    "serve": serve,
    "transfer": transfer,
    "plan": plan,
    "export": export,
    "push": push,
    "pull": pull,
    "info": info,
    "verify": verify,
    "cache": cache,
    "experiment": experiment,
    "report": report,
}
# Their flags are not known here.
FORWARDED = ("experiment", "report", "lm-eval")

# What the system says of names that were given.
_OF_INPUT = (
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
    errno.EPERM, errno.EROFS,
)  # fmt: skip
_TOLD = (*_OF_INPUT, errno.ENOSPC)  # errors of the system that say enough without a file's name

DESCRIPTION = (
    "Edit one small model once; every target LLM answers with the new facts. Every command takes "
    "--config FILE.yaml (flags as keys) and --debug (tracebacks). --version prints the version."
)


def run() -> None:
    """Entry point of the `onceedit` command: `main`, with memory in huge pages."""
    begin_process()
    main()


def main() -> None:
    """Parse the arguments and run a command; errors become one line and an exit code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        call(arguments)
    except OnceEditError as error:
        if debug:
            print(visible(traceback.format_exc()), end="", file=sys.stderr)
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        if not isinstance(error, OSError) or not (error.filename or error.errno in _TOLD):
            line = f"{type(error).__name__}: {one_line(str(error))}"
            print(f"error: {line} (--debug shows where)", file=sys.stderr)
            sys.exit(1)
        place = f"{error.filename}: " if error.filename else ""
        line = one_line(f"{place}{error.strerror or error}")
        print(f"error: {line}; check the name, its permissions and free space", file=sys.stderr)
        sys.exit(InputError.exit_code if error.errno in _OF_INPUT else RunError.exit_code)


def call(arguments: list[str]) -> None:
    """Run the command that the arguments name."""
    prepare_environment()
    if arguments[:1] == ["--version"]:
        print(f"onceedit {version('onceedit-jax')}")
    elif arguments and arguments[0] in FORWARDED:
        COMMANDS[arguments[0]](tuple(arguments[1:]))
    else:
        subcommand_cli_from_dict(
            COMMANDS,
            prog="onceedit",
            description=DESCRIPTION,
            args=with_config(arguments, os.environ),
            config=(OmitArgPrefixes, UseAppendAction),
        )
