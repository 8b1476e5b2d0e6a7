"""`onceedit push`: put an edited plug-in into a repository of the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """An edited plug-in, and where it goes.

    Attributes:
      edited: folder of the edited plug-in.
      repository: repository of the hub; it is made if there is none.
      private: make the repository private; one that is public is refused.
      revision: branch, which is made if there is none; None takes main.
      card: write the model card, README.md, anew.
      scores: summary of `onceedit evaluate` or JSON of `onceedit check`, for the card.
      license: the hub's name of a licence, for the card, as in apache-2.0.
    """

    edited: Annotated[Positional[Path], arg(metavar="DIR")]
    repository: Annotated[Positional[str], arg(metavar="OWNER/NAME")]
    private: bool = False
    revision: str | None = None
    card: bool = True
    scores: Path | None = None
    license: str | None = None


def push(options: Annotated[PushOptions, arg(name="")]) -> None:
    """Put an edited plug-in into a repository of the Hugging Face hub, with a model card."""
    from onceedit_jax.cli.console import note, out
    from onceedit_jax.editing.hub import push as pushed

    note(f"checking {options.edited}; its edits, and where they came from, go to the repository")
    done = pushed(
        options.edited,
        options.repository,
        private=options.private,
        revision=options.revision,
        card=options.card,
        scores=options.scores,
        license=options.license,
    )
    out.print(f"pushed {done.files} files: {done.url}")
