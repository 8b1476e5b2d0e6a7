"""The pages of the documentation, and the blocks of code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "experiments").glob("*.md"),
    ]
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    """The code blocks of a language, without the indentation that they have in a list."""
    text = path.read_text(encoding="utf-8")
    return [
        "\n".join(line.removeprefix(found[1]) for line in found[3].splitlines())
        for found in FENCE.finditer(text)
        if found[2] == language
    ]
