"""`onceedit verify`: hold files against the hashes that were written with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class VerifyOptions:
    """What to verify.

    Attributes:
      folder: an edited plug-in, a checkpoint, the cache folder, or a folder of these.
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR")]


def verify(options: Annotated[VerifyOptions, arg(name="")]) -> None:
    """Check the SHA-256 of every file that carries one, and name those that have changed."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.verification import verify as verified
    from onceedit_jax.errors import InputError

    checked = verified(options.folder)
    faults = [each.fault for each in checked if each.fault]
    for each in checked:
        out.print(f"{'damaged' if each.fault else 'sound'}: {each.path}", markup=False)
    for fault in faults[1:]:
        out.print(fault, markup=False)
    if faults:
        raise InputError(faults[0])
