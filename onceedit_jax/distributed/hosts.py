"""Several hosts that run the same command: which of them this is, and who the others are."""

from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from onceedit_jax.errors import InputError

# A host that is not heard of for so long is taken for dead, and JAX ends the others.
HEARTBEAT_SECONDS = 30
# Who is done first waits for the others: an evaluation may well take a day longer there.
PATIENCE_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Host:
    """Number `index` of `count` hosts; the first writes what there is one of."""

    index: int = 0
    count: int = 1


def is_first(together: bool) -> bool:
    """Whether this host writes what there is one of: the first of those that work together.

    Args:
      together: whether hosts do the same work on arrays that lie over all of them; a host that
        works by itself is its own first.
    """
    return not together or jax.process_index() == 0


def first_decides(together: bool, choice: bool) -> bool:
    """What the first host has chosen, told to all that work together; alone, a host's own choice.

    For what hosts may see differently, a clock or a folder, before they compute in step.
    """
    if not together:
        return choice
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(choice)))


def all_agree(together: bool, fact: bool) -> bool:
    """Whether something holds on every host that works on this together."""
    if not together:
        return fact
    return bool(np.all(multihost_utils.process_allgather(np.bool_(fact))))


def meet(together: bool, where: str) -> None:
    """Wait until all hosts that work together have come here."""
    if together:
        multihost_utils.sync_global_devices(where)


def join(spec: str | None) -> Host:
    """Find the other hosts, before JAX is first used.

    Args:
      spec: `auto`, where JAX finds them by itself (Slurm, Cloud TPU, GKE, Open MPI);
        `ADDRESS:PORT,COUNT,INDEX`, the first host's address, how many there are and which this
        is; or None for one host alone.

    Raises:
      InputError: another form, or hosts that cannot be found.
    """
    if spec is None:
        return Host()
    options: dict[str, object] = {}
    if spec != "auto":
        try:
            address, count, index = spec.split(",")
            options = {
                "coordinator_address": address,
                "num_processes": int(count),
                "process_id": int(index),
            }
            if ":" not in address or not 0 <= int(index) < int(count):
                raise ValueError(f"host {index} of {count} at {address}")
        except ValueError as error:
            raise InputError(
                f"--distributed {spec}: {error}; expected auto, or ADDRESS:PORT,COUNT,INDEX as in "
                "10.0.0.1:9876,2,0 on the first of two hosts"
            ) from error
    try:
        jax.distributed.initialize(
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=PATIENCE_SECONDS,
            **options,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed {spec}: the other hosts were not found ({error}); start the command on "
            "every host, or name them: ADDRESS:PORT,COUNT,INDEX"
        ) from error
    return Host(jax.process_index(), jax.process_count())
