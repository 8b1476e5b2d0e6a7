"""Types that the rooms share."""

from typing import Any

Params = dict[str, Any]
"""A model's parameters: a nested dict of arrays."""
