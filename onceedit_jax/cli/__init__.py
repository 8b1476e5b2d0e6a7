"""The `onceedit` command."""
