"""Where commands print: results to standard output, everything else to standard error."""

import sys

from rich.console import Console

# No markup: a text such as "[/INST]" is printed as it is. Tables have a fixed width in a file or a
# pipe, where there is no terminal that has one.
out = Console(width=None if sys.stdout.isatty() else 110, markup=False)
err = Console(stderr=True, markup=False)


def note(text: str) -> None:
    """Print one line to standard error, however long it is."""
    err.print(text, soft_wrap=True, highlight=False)
