"""The rule that holds the layout together: the pure core knows nothing of the edge."""

import subprocess
import sys

from support import ROOT


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
        assert callable(value) or name in ("editors", "fusion", "gates", "Params", "__version__")
