"""`onceedit serve`: an HTTP server in the form of OpenAI's, whose edits come and go."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from onceedit_jax.cli.rules import RuleOptions, fusion_arguments
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.options import EnsembleOptions
from onceedit_jax.serving.settings import ServingSettings

if TYPE_CHECKING:
    from onceedit_jax.serving.server import Server


@dataclass(frozen=True, kw_only=True)
class ServeOptions(EnsembleOptions):
    """An edited plug-in and its targets, and how they are served.

    Attributes:
      serving: where the server listens, who may write, and how much it takes on.
      settings: how edits are trained that clients add.
    """

    serving: ServingSettings = ServingSettings()  # noqa: RUF009 (frozen)
    settings: EditSettings = EditSettings()  # noqa: RUF009 (frozen)


def serve(options: Annotated[ServeOptions, arg(name="")], rule: RuleOptions) -> None:
    """Serve targets with their edits over HTTP, in the form that OpenAI's clients speak."""
    from onceedit_jax.cli.console import note

    server = open_server(options, rule)
    names = ", ".join(server.service.targets)
    note(f"listening on {server.url}; models: {names}; Ctrl-C ends it")
    if options.serving.token is None:
        note("edits can be read and not changed; --token lets clients that know it change them")
    server.listen()
    note("stopped; changes of the edits that were accepted and not made are made at the next start")


def open_server(options: ServeOptions, rule: RuleOptions) -> "Server":
    """A server that is ready to listen.

    Raises:
      InputError: what it needs is not installed, or as for `open_service`.
      RunError: the address is taken.
    """
    from onceedit_jax.cli.progress import table_progress

    try:
        from onceedit_jax.serving.server import Server, open_service
    except ModuleNotFoundError as error:
        raise InputError(
            f"the server needs {error.name}, which is not installed: "
            "pip install 'onceedit-jax[serve]'"
        ) from error
    fusion = fusion_arguments(rule, options.edited)
    with table_progress() as on_block:
        service = open_service(
            options, options.serving, options.settings, on_block=on_block, **fusion
        )
    return Server(service)
