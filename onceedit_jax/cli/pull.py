"""`onceedit pull`: fetch an edited plug-in from a repository of the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class PullOptions:
    """A repository, and where it goes.

    Attributes:
      repository: repository of the hub that holds an edited plug-in.
      out: folder to write.
      revision: a branch, a tag or a commit; None takes main.
    """

    repository: Annotated[Positional[str], arg(metavar="OWNER/NAME")]
    out: Path
    revision: str | None = None


def pull(options: Annotated[PullOptions, arg(name="")]) -> None:
    """Fetch an edited plug-in from a repository of the Hugging Face hub, and check every file."""
    from onceedit_jax.cli.console import note, out
    from onceedit_jax.editing.artifact_info import read_info
    from onceedit_jax.editing.hub import pull as pulled

    folder = pulled(options.repository, options.out, revision=options.revision)
    info = read_info(folder)
    out.print(f"pulled {len(info.live)} edits: {folder}")
    if info.in_adapters:
        spec = info.base.spec or "not said where: name it with --base"
        note(f"they are in adapters, and need {info.base.name} too ({spec})")
