"""The process that a command runs in: memory in huge pages, and compiled programs on disk."""

import contextlib
import os
import signal
import sys
from collections.abc import Mapping


def begin_process() -> None:
    """What comes before a command: huge pages; and SIGTERM, which clears up as Ctrl-C does."""
    restart_with_huge_pages()
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def restart_with_huge_pages() -> None:
    """Start the same command over in huge pages, once, where the C library has them."""
    if sys.executable and (environment := with_huge_pages(os.environ)):
        with contextlib.suppress(OSError):  # then it runs as it is
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment for a restart; None where a restart would change nothing.

    A training step allocates and frees buffers of hundreds of megabytes. In pages of 4 KB the
    kernel needs a third of the step for that. The C library uses huge pages if the environment says
    so when a process starts.
    """
    setting = "glibc.malloc.hugetlb=1"
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError):
        libc = ""
    tunables = environment.get("GLIBC_TUNABLES", "")
    if not libc.startswith("glibc") or "glibc.malloc.hugetlb" in tunables:
        return None
    joined = f"{tunables}:{setting}" if tunables else setting
    return {**environment, "GLIBC_TUNABLES": joined}


def prepare_environment() -> None:
    """Set what JAX and transformers read when they are imported, unless the user has set it.

    JAX keeps compiled programs in the cache folder. Transformers does not advise to install
    PyTorch, which nothing here needs.
    """
    from onceedit_jax.storage.sources import cache_folder

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
