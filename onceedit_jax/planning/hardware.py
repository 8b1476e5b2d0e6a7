"""Published peaks of accelerators, for predictions; none of them was measured here."""

from typing import Literal, NamedTuple

ChipName = Literal["h100", "v5e", "v5p"]


class Chip(NamedTuple):
    """One device.

    Attributes:
      name: how it is called.
      memory: bytes.
      flops: bfloat16 operations a second, dense.
      bandwidth: bytes a second of its memory.
      link: bytes a second to the other devices of its group, one direction.
      source: who published the figures.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    source: str


CHIPS: dict[ChipName, Chip] = {
    "h100": Chip(
        "H100 SXM", 80e9, 989e12, 3.35e12, 450e9, "NVIDIA's H100 data sheet (NVLink: 900 GB/s)"
    ),
    "v5e": Chip(
        "TPU v5e", 16e9, 197e12, 819e9, 200e9, "Google Cloud's TPU v5e page (ICI: 1,600 Gb/s)"
    ),
    "v5p": Chip(
        "TPU v5p", 95e9, 459e12, 2.765e12, 600e9, "Google Cloud's TPU v5p page (ICI: 4,800 Gb/s)"
    ),
}
