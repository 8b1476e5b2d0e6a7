"""Several hosts that run the same command: how they connect, agree and wait for each other."""

from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from onceedit_jax.errors import InputError

# Without a heartbeat for this long, a host counts as dead, and JAX ends the others.
HEARTBEAT_SECONDS = 30
# A host that is done waits this long for the others: an evaluation may take a day longer there.
SHUTDOWN_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Host:
    """This host's number among all hosts; host 0 writes shared files.

    Attributes:
      index: from 0.
      count: of all hosts.
    """

    index: int = 0
    count: int = 1


def is_first(together: bool) -> bool:
    """Whether this host writes shared files.

    Args:
      together: whether the hosts work on the same arrays, which span all of them. If so, only host
        0 writes; if not, every host does its own work and writes its own files.
    """
    return not together or jax.process_index() == 0


def first_decides(together: bool, choice: bool) -> bool:
    """The choice of host 0, the same on all hosts; without `together`, this host's own choice.

    For decisions that depend on something that may differ between hosts, such as a clock or a
    folder, before all of them run the same computation.
    """
    if not together:
        return choice
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(choice)))


def all_agree(together: bool, condition: bool) -> bool:
    """Whether a condition holds on every host; without `together`, whether it holds here."""
    if not together:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.bool_(condition))))


def barrier(together: bool, name: str) -> None:
    """Wait until every host has reached this barrier; without `together`, do nothing."""
    if together:
        multihost_utils.sync_global_devices(name)


def join(spec: str | None) -> Host:
    """Connect to the other hosts. Must be called before JAX is first used.

    Args:
      spec: `auto` if JAX can detect the hosts (Slurm, Cloud TPU, GKE, Open MPI);
        `ADDRESS:PORT,COUNT,INDEX` with the address of host 0, the number of hosts and the number
        of this one; or None for a single host.

    Raises:
      InputError: another form, or the hosts cannot be reached.
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
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            **options,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed {spec}: cannot connect to the other hosts ({error}); start the command "
            "on every host, or give their address: ADDRESS:PORT,COUNT,INDEX"
        ) from error
    return Host(jax.process_index(), jax.process_count())
