"""mkdocs hook: pages that lie outside docs/, the API reference, and links into the repository.

- `CHANGELOG.md`, `CONTRIBUTING.md`, `SECURITY.md` and the pages of `results/` become pages of the
  site.
- The API reference is made from the public names of the package, one page for each
  package folder.
- A relative link to a file that is no page of the site leads to that file in the repository.
"""

import ast
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "onceedit_jax"
OUTSIDE = (
    "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "results/*/README.md", "results/*/*.svg",
)  # fmt: skip
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?\))")


class PublicName(NamedTuple):
    """A public name and the module that defines it."""

    name: str
    module: str

    @property
    def path(self) -> str:
        """The full name of the object."""
        return f"{self.module}.{self.name}"

    @property
    def folder(self) -> str:
        """The package folder, or the module at the package's root, in which it lies."""
        return self.module.split(".")[1]


def on_config(config: Any) -> Any:
    """List the added pages in the navigation."""
    added = {
        "api/index.md": sorted(name for name, _ in api_pages() if name != "api/index.md"),
        "results.md": [f"results/{path.parent.name}/README.md" for path in _result_pages()],
    }
    for section in config.nav:
        for title, first in section.items():
            if isinstance(first, str) and first in added:
                pages = [{Path(page).parts[1].removesuffix(".md"): page} for page in added[first]]
                section[title] = [first, *pages]
    return config


def on_files(files: "Files", config: Any) -> "Files":
    """Add the pages that lie outside docs/, and those of the API reference."""
    from mkdocs.structure.files import File

    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for name, text in api_pages():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: "Files") -> str:
    """Lead relative links to pages of the site, or else to files of the repository."""
    source = repository_path(page.file)

    def rewritten(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        target = path.removeprefix("docs/")
        if files.get_file_from_path(f"{target}/README.md"):
            target = f"{target}/README.md"
        if files.get_file_from_path(target):
            relative = posixpath.relpath(target, posixpath.dirname(page.file.src_uri))
            return f"{match[1]}{relative}{match[3]}"
        if (ROOT / path).exists() and not path.startswith("docs/"):
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            return f"{match[1]}{config.repo_url.rstrip('/')}/{kind}/main/{path}{match[3]}"
        return match[0]  # mkdocs reports it

    return LINK.sub(rewritten, markdown)


def _result_pages() -> list[Path]:
    return sorted(ROOT.glob("results/*/README.md"))


def repository_path(file: "File") -> str:
    """Where the source of a page lies in the repository."""
    return file.src_uri if (ROOT / file.src_uri).is_file() else f"docs/{file.src_uri}"


def public_names() -> list[PublicName]:
    """The public names: of the package, and of its folders that are public namespaces."""
    top = ROOT / PACKAGE
    names = set(_imported(_names_file(top), PACKAGE))
    for folder in sorted(path.parent for path in top.glob("*/__init__.py")):
        if PublicName(folder.name, PACKAGE) in names:
            names.remove(PublicName(folder.name, PACKAGE))
            names |= set(_imported(_names_file(folder), f"{PACKAGE}.{folder.name}"))
    return sorted(name for name in names if "." in name.module)


def _names_file(folder: Path) -> Path:
    """The file that lists the public names of a folder: its stub if its imports are lazy."""
    stub = folder / "__init__.pyi"
    return stub if stub.exists() else folder / "__init__.py"


def _imported(path: Path, package: str) -> Iterator[PublicName]:
    """The public names that an `__init__` imports from its own package."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module or ''}".rstrip(".") if node.level else node.module
            for alias in node.names:
                if str(module).split(".")[0] == PACKAGE and not alias.name.startswith("_"):
                    yield PublicName(alias.name, str(module))


def api_pages() -> Iterator[tuple[str, str]]:
    """Path and Markdown of every page of the API reference."""
    folders: dict[str, list[PublicName]] = defaultdict(list)
    for name in public_names():
        folders[name.folder].append(name)
    index = [
        "# API reference",
        "The public names of the package, by package folder. `import onceedit_jax as oe` gives "
        "most of them as `oe.NAME`. The folders `fusion`, `gates` and `editors` are namespaces: "
        "`oe.fusion.draft()`.",
    ]
    for folder, names in sorted(folders.items()):
        source = ROOT / PACKAGE / folder
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        purpose = _first_line(ast.parse(source.read_text(encoding="utf-8")))
        nodes = {name: _definition(name) for name in names}
        others = ", ".join(f"`{name.name}`" for name in names if nodes[name] is None)
        parts = [f"# {folder}", purpose, *([f"Also here: {others}."] if others else [])]
        parts += [f"::: {name.path}" for name in names if nodes[name] is not None]
        yield f"api/{folder}.md", "\n\n".join(parts) + "\n"
        rows = [
            f"| `{name.name}` | |"
            if node is None
            else f"| [`{name.name}`][{name.path}] | {_first_line(node)} |"
            for name, node in nodes.items()
        ]
        table = "\n".join(["| name | |", "| --- | --- |", *rows])
        index += [f"## [{folder}]({folder}.md)", purpose, table]
    yield "api/index.md", "\n\n".join(index) + "\n"


def _definition(name: PublicName) -> ast.ClassDef | ast.FunctionDef | None:
    """The class or function of a name; None for a constant."""
    base = ROOT.joinpath(*name.module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name.name:
            return node
    return None


def _first_line(node: Any) -> str:
    text = (ast.get_docstring(node) or "").split("\n\n")[0]
    return text.replace("\n", " ").replace("|", "\\|")
