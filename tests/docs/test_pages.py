"""Links of the documentation resolve, its Python compiles, and its commands and flags exist."""

import contextlib
import importlib.util
import io
import posixpath
import re
import shlex
import sys
import tomllib
from functools import cache
from unittest.mock import patch

import pytest
import yaml
from docs.pages import FENCE, PAGES, ROOT, blocks, name

import onceedit_jax as oe

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


def anchors_of(path):
    """Anchors of a page's headings, as the site and GitHub make them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.replace("`", "").lower()).replace(" ", "-") for t in titles}


def has_anchor(path, anchor):
    return not anchor or path.suffix != ".md" or anchor in anchors_of(path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        target = ROOT / posixpath.normpath(posixpath.join(posixpath.dirname(name(page)), path))
        if not path:
            target = page
        if name(target).startswith("docs/api/"):  # made from the package, see docs/hooks
            continue
        if not target.exists() or not has_anchor(target, anchor):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_compiles(page):
    for source in blocks(page, "python"):
        compile(source, name(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_that_pages_name_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"`(?:onceedit_jax/)?([a-z_]+/[\w/]+\.py)`", text))
    # A study of one's own is no file of the checkout.
    modules -= {m for m in modules if m.startswith("experiments/")}
    places = (ROOT / "onceedit_jax", ROOT / "experiments", ROOT)
    assert not {m for m in modules if not any((place / m).is_file() for place in places)}


def test_pages_that_code_names_exist():
    folders = (ROOT / at for at in ("onceedit_jax", "experiments", "benchmarks", "configs"))
    code = [path for at in folders for path in at.rglob("*") if path.suffix in (".py", ".yaml")]
    named = {page for path in code for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())}
    assert not {page for page in named if not (ROOT / page).is_file()}


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(re.findall(r"[\w/-]+\.md", yaml.safe_dump(config["nav"])))
    written = {name(page).removeprefix("docs/") for page in PAGES if name(page).startswith("docs/")}
    assert written <= listed


def test_every_public_name_is_in_the_api_reference():
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "hooks" / "site.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    text = dict(hook.api_pages())["api/index.md"]
    rooms = {path.parent.name for path in (ROOT / "onceedit_jax").glob("*/__init__.py")}
    public = set(oe.__all__) - rooms - {"__version__"}
    assert not {name for name in public if f"`{name}`" not in text}


@cache
def help_of(*words):
    """What the command prints for `onceedit WORDS --help`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["onceedit"].split(":")
    # `run` restarts the process with huge pages, `main` is the command itself.
    main = getattr(importlib.import_module(module), "main" if function == "run" else function)
    out = io.StringIO()
    with (
        patch.object(sys, "argv", ["onceedit", *words, "--help"]),
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(out),
    ):
        main()
    return out.getvalue()


def commands(page):
    """The `onceedit` commands of a page: those in blocks of code, and those in running text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    indented = re.findall(r"^    (onceedit .+)$", text, re.MULTILINE)
    fenced = [line for block in blocks(page, "bash") for line in joined(block).splitlines()]
    inline = re.findall(r"`(onceedit [^`]+)`", FENCE.sub("", text))
    return [line for line in [*indented, *fenced, *inline] if line.startswith("onceedit ")]


def joined(block):
    return block.replace("\\\n", " ")


# The changelog names commands of the past.
WITH_COMMANDS = [page for page in PAGES if commands(page) and page.name != "CHANGELOG.md"]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_and_flags_exist(page):
    known = help_of()
    for line in commands(page):
        words = [word for word in shlex.split(line.split("#")[0])[1:] if word != "..."]
        if not words or not words[0][0].islower():  # `onceedit COMMAND --help`
            continue
        assert re.search(rf"\b{words[0]}\b", known), line
        if words[0] == "lm-eval" and importlib.util.find_spec("lm_eval") is None:
            continue  # its flags are the harness's
        flags = {w for w in words[1:] if w.startswith("--")} - {"--help", "--config", "--debug"}
        missing = {flag for flag in flags if not re.search(rf"{flag}\b", help_of(words[0]))}
        assert not missing, line
