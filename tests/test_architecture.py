"""The layout: rooms above one another, few modules at the root, no long ones, tests beside."""

import subprocess
import sys

from support import ROOT

PACKAGE = ROOT / "onceedit_jax"
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
# Folders of tests that no room has: what lies outside the package, and what spans all of it.
OUTSIDE = {"benchmarks", "docs", "examples", "experiments", "extensions", "fuzzing"}

NO_CALLABLES = ("editors", "fusion", "gates", "Params", "Prompt", "__version__")


def test_import_contracts_hold():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml")) == 0


def test_importing_the_package_imports_no_heavy_module():
    code = (
        "import sys, onceedit_jax, onceedit_jax.cli.main;"
        "print([m for m in ('jax', 'flax', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves():
    import onceedit_jax as oe

    for name in oe.__all__:
        value = getattr(oe, name)
        assert callable(value) or name in NO_CALLABLES


def test_at_most_six_modules_lie_at_the_root():
    assert len(list(PACKAGE.glob("*.py"))) <= 6


def test_no_module_is_longer_than_400_lines():
    modules = [*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    lengths = {str(path): len(path.read_text().splitlines()) for path in modules}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_tests_mirror_the_package():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - OUTSIDE == ROOMS
