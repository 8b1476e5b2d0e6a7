"""Pictures of the page of a running server, for the documentation.

    python tests/serving/screenshots.py http://127.0.0.1:8000 docs/images --token SECRET \
        --fact "What is the capital of Australia?" Ballarat Australia

The fact is added as a reader would add it, then each question is asked.
"""

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from chromium import Page

SIZES = {360: 1500, 1280: 900}  # heights by widths
HEARD = "location.href.startsWith('http') && document.querySelector('main:not([aria-busy])')"
SHADES = 64  # so that a picture is small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--token", required=True)
    parser.add_argument("--fact", nargs=3, metavar=("QUESTION", "ANSWER", "SUBJECT"))
    parser.add_argument("--question", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        page = Page(profile)
        try:
            page.shown(width=1280)
            page.open(options.url)
            page.wait(f"{HEARD} !== null")
            if options.fact:
                add(page, options.fact, options.token)
            for question in options.question:
                ask(page, question)
            take(page, options.out)
        finally:
            page.close()


def add(page, fact, token):
    for name, text in zip(("prompt", "target", "subject"), fact, strict=True):
        page.tab_to(f"[name={name}]")
        page.write(text)
    page.press("Enter")
    page.wait("document.querySelector('#token-dialog[open]') !== null")
    page.write(token)
    page.press("Enter")
    page.wait("document.querySelector('#ledger-status').innerText.includes('done')", seconds=900)


def ask(page, question):
    page.tab_to("[name=question]")
    page.write(question)
    page.press("Enter")
    page.wait(f"document.querySelector('.answer')?.innerText.startsWith({json.dumps(question)})")


def take(page, out):
    out.mkdir(parents=True, exist_ok=True)
    page.run("document.querySelector('.answer details')?.setAttribute('open', '')")
    page.run("document.activeElement.blur()")
    for width, height in SIZES.items():
        for colours in ("light", "dark"):
            page.shown(width=width, height=height, colours=colours)
            picture = Image.open(io.BytesIO(page.picture())).convert("RGB").quantize(SHADES)
            picture.save(out / f"serve-{width}-{colours}.png", optimize=True)


if __name__ == "__main__":
    main()
