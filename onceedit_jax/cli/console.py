"""Where commands print: results to standard output, everything else to standard error."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from onceedit_jax.storage.visible import visible


class SafeConsole(Console):
    """A console that shows control sequences in texts, and does not send them to the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as `Console.render_str` makes it, of its visible text."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of anything that is printed: a table's cells and headers come here too."""
        if (
            isinstance(renderable, Text)
            and (plain := visible(renderable.plain)) != renderable.plain
        ):
            renderable = Text(plain, style=renderable.style, end=renderable.end)
        return super().render(renderable, options)


# No markup: a text such as "[/INST]" is printed as it is. Tables have a fixed width in a file or a
# pipe, where there is no terminal that has one.
out = SafeConsole(width=None if sys.stdout.isatty() else 110, markup=False)
err = SafeConsole(stderr=True, markup=False)


def note(text: str) -> None:
    """Print one line to standard error, however long it is."""
    err.print(text, soft_wrap=True, highlight=False)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    note(f"warning: {text}")
