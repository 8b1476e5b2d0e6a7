"""What this machine's processor multiplies fast."""

from functools import lru_cache
from pathlib import Path

_FLAGS = Path("/proc/cpuinfo")


@lru_cache
def multiplies_bfloat16(flags: Path = _FLAGS) -> bool:
    """Whether the processor has instructions for matrices in bfloat16 (AMX).

    Args:
      flags: the file in which Linux lists what the processor can do; other systems have none, and
        the answer is then no.
    """
    try:
        return "amx_bf16" in flags.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
