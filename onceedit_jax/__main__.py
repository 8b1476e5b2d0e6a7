"""`python -m onceedit_jax`, the same as the `onceedit` command."""

from onceedit_jax.cli.main import run

run()
