"""`onceedit experiment`: runs an experiment of the checkout that is the current folder."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from onceedit_jax.errors import InputError


def experiment(arguments: Positional[tuple[str, ...]] = ()) -> None:
    """Run an experiment, in a checkout of the project: python -m experiments NAME.

    Args:
      arguments: the experiment's name and its flags.
    """
    run_in_checkout(arguments)


def run_in_checkout(arguments: Sequence[str]) -> None:
    """Run `python -m experiments` with these arguments, and end with its exit code.

    Raises:
      InputError: the current folder is not a checkout; the message has the command to run there.
    """
    command = ["python", "-m", "experiments", *arguments]
    if not all(map(Path.is_file, (Path("experiments/__main__.py"), Path("pyproject.toml")))):
        raise InputError(
            "experiments are not part of the installed package. In a checkout of onceedit-jax run: "
            f"{shlex.join(command)}"
        )
    sys.exit(subprocess.run([sys.executable, *command[1:]], check=False).returncode)
