"""Choices of decoding that commands offer; this module imports no JAX."""

from typing import Literal

# Whether a plug-in drafts for what a target says alone. "auto": where it can pay; "on": beside any
# target that lies on one device.
Speculate = Literal["auto", "on", "off"]
