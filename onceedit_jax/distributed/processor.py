"""What this machine's processor multiplies fast."""

from functools import lru_cache
from pathlib import Path

_FLAGS = Path("/proc/cpuinfo")
_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16"})


@lru_cache
def multiplies_bfloat16(flags: Path = _FLAGS) -> bool:
    """Whether the processor has instructions that multiply in bfloat16 (AMX, or AVX-512's).

    Args:
      flags: the file in which Linux lists what the processor can do; other systems have none, and
        the answer is then no.
    """
    try:
        found = flags.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return not _INSTRUCTIONS.isdisjoint(found)
