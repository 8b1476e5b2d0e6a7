"""Published peak figures of accelerators; none of them was measured by this project."""

from typing import Literal, NamedTuple

ChipName = Literal[
    "h100", "h100-pcie", "h200", "a100", "a100-40gb", "a100-pcie", "l4", "v4", "v5e", "v5p", "v6e"
]


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      name: as its vendor writes it.
      memory: bytes.
      flops: dense bfloat16 operations per second.
      bandwidth: bytes per second of its memory.
      link: bytes per second to other devices of its group, in one direction.
      source: publication of the figures.
      kinds: the names that JAX gives such a device (`device_kind`).
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    source: str
    kinds: tuple[str, ...] = ()


CHIPS: dict[ChipName, Chip] = {
    "h100": Chip(
        "H100 SXM", 80e9, 989e12, 3.35e12, 450e9, "NVIDIA's H100 data sheet (NVLink: 900 GB/s)",
        ("NVIDIA H100 80GB HBM3",),
    ),
    "h100-pcie": Chip(
        "H100 PCIe", 80e9, 756e12, 2e12, 300e9, "NVIDIA's H100 data sheet (NVLink: 600 GB/s)",
        ("NVIDIA H100 PCIe",),
    ),
    "h200": Chip(
        "H200 SXM", 141e9, 989e12, 4.8e12, 450e9, "NVIDIA's H200 data sheet (NVLink: 900 GB/s)",
        ("NVIDIA H200",),
    ),
    "a100": Chip(
        "A100 SXM 80 GB", 80e9, 312e12, 2.039e12, 300e9,
        "NVIDIA's A100 data sheet (NVLink: 600 GB/s)", ("NVIDIA A100-SXM4-80GB",),
    ),
    "a100-40gb": Chip(
        "A100 SXM 40 GB", 40e9, 312e12, 1.555e12, 300e9,
        "NVIDIA's A100 data sheet (NVLink: 600 GB/s)", ("NVIDIA A100-SXM4-40GB",),
    ),
    "a100-pcie": Chip(
        "A100 PCIe 80 GB", 80e9, 312e12, 1.935e12, 300e9,
        "NVIDIA's A100 data sheet (NVLink: 600 GB/s)", ("NVIDIA A100 80GB PCIe",),
    ),
    "l4": Chip(
        "L4", 24e9, 121e12, 300e9, 32e9,
        "NVIDIA's L4 data sheet (PCIe: 64 GB/s; 242 TFLOP/s with sparsity)", ("NVIDIA L4",),
    ),
    "v4": Chip(
        "TPU v4", 32e9, 275e12, 1.2e12, 300e9,
        "Google Cloud's TPU v4 page (ICI: six links of 50 GB/s, arXiv 2304.01433)", ("TPU v4",),
    ),
    "v5e": Chip(
        "TPU v5e", 16e9, 197e12, 819e9, 200e9, "Google Cloud's TPU v5e page (ICI: 1,600 Gb/s)",
        ("TPU v5 lite", "TPU v5e"),
    ),
    "v5p": Chip(
        "TPU v5p", 95e9, 459e12, 2.765e12, 600e9, "Google Cloud's TPU v5p page (ICI: 4,800 Gb/s)",
        ("TPU v5", "TPU v5p"),
    ),
    "v6e": Chip(
        "TPU v6e", 32e9, 918e12, 1.638e12, 400e9,
        "Google Cloud's TPU v6e page (ICI: 800 GB/s in both directions)",
        ("TPU v6 lite", "TPU v6e"),
    ),
}  # fmt: skip


def chip_of(kind: str) -> Chip | None:
    """The chip that JAX gives this `device_kind`; None for a device that the table lacks."""
    return next((chip for chip in CHIPS.values() if kind in chip.kinds), None)
