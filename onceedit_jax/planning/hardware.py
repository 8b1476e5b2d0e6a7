"""Published peak figures of accelerators; none of them was measured by this project."""

from typing import Literal, NamedTuple

ChipName = Literal["h100", "v5e", "v5p"]


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      name: as its vendor writes it.
      memory: bytes.
      flops: dense bfloat16 operations per second.
      bandwidth: bytes per second of its memory.
      link: bytes per second to other devices of its group, in one direction.
      source: publication of the figures.
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
