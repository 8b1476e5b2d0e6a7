"""From the options of a command to a server that listens, until it is told to stop."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.ensemble.preparation import prepare_plugin
from onceedit_jax.ensemble.side import OnBlock
from onceedit_jax.errors import RunError
from onceedit_jax.evaluation.from_files import open_ensemble
from onceedit_jax.evaluation.options import EnsembleOptions
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.gates.types import FittedGate, Gate
from onceedit_jax.serving.app import app
from onceedit_jax.serving.edits import EditedFolder, Edits, warm
from onceedit_jax.serving.engine import Engine, check_rule
from onceedit_jax.serving.guards import patient
from onceedit_jax.serving.keeper import Keeper
from onceedit_jax.serving.metrics import Metrics
from onceedit_jax.serving.request_log import log_to_stderr
from onceedit_jax.serving.service import Service
from onceedit_jax.serving.settings import ServingSettings
from onceedit_jax.serving.worker import Worker

LOG = logging.getLogger(__name__)
UNROLLED_FROM = 1_000_000  # decoding steps that a server is expected to take
SPARE_FILES = 200  # beside those of connections


def open_service(
    options: EnsembleOptions,
    settings: ServingSettings,
    editing: EditSettings,
    *,
    rule: FusionRule | None = None,
    gate: Gate | FittedGate | None = None,
    on_block: OnBlock = lambda name, done, total: None,
    on_choice: Callable[[Any], None] | None = None,
) -> Service:
    """Load an edited plug-in and its targets, and prepare to serve them.

    Args:
      options: which.
      settings: the server's bounds.
      editing: how edits are trained that clients add.
      rule: the fusion rule (default: `fusion.draft()`).
      gate: the gate, fitted or not (default: the plug-in's `default_gate`).
      on_block: called with (model name, blocks done, all blocks) while a table is built.
      on_choice: choose each target's rule, see `open_ensemble`.

    Raises:
      InputError: a plug-in or target that cannot be read, settings that do not fit, or a rule that
        the server cannot decide by.
    """
    if rule is not None:
        check_rule(rule)  # before anything is loaded
    ensemble = open_ensemble(
        options, rule=rule, gate=gate, chat=None, on_block=on_block, on_choice=on_choice
    ).unrolled_for(UNROLLED_FROM)
    first, targets = ensemble.prepared_plugin, ensemble.prepared
    prepare = partial(
        prepare_plugin,
        rule=first.rule,
        gate=gate,
        alpha_threshold=options.alpha_threshold,
        hops=options.hops,
        mesh=first.mesh,
    )
    folder = EditedFolder(options.edited, options.base, first, prepare)
    engines = {
        target.name: Engine(target, largest=settings.rows, context=settings.context)
        for target in targets
    }
    metrics, edits = Metrics(), folder.load(first)
    worker = Worker(engines, edits, settings.waiting, metrics)

    def switch(fresh: Edits) -> None:
        if settings.warm:
            try:
                for target in targets:
                    warm(fresh, target)
            except Exception:  # it only makes the first answers quicker
                LOG.warning("new edits could not be tried before answers", exc_info=True)
        worker.edits = fresh

    keeper = Keeper(
        folder,
        edits,
        switch,
        settings=editing,
        jobs=settings.jobs,
        reread_seconds=settings.reread_seconds,
        metrics=metrics,
        writes=settings.token is not None,
    )
    if settings.warm:
        switch(edits)
        for engine in engines.values():
            engine.warm()
    served = {target.name: target.target for target in targets}
    return Service(settings, served, worker, keeper, metrics)


class Server(uvicorn.Server):
    """Listens, and ends cleanly on SIGTERM and SIGINT: open requests are answered first.

    Attributes:
      service: what answers.
    """

    def __init__(self, service: Service) -> None:
        """Take the address, so that an address that is taken is known at once.

        Raises:
          RunError: the address cannot be listened on.
        """
        self.service, settings = service, service.settings
        if settings.log != "off":
            log_to_stderr()
        _allow_files(settings.connections + SPARE_FILES)
        super().__init__(
            uvicorn.Config(
                app(service),
                http=patient(settings.body_seconds + settings.seconds),
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # anybody can send these, and the ledger tells addresses
                limit_concurrency=settings.connections,
                timeout_graceful_shutdown=round(settings.grace_seconds),
            )
        )
        self._socket = _listening(settings.host, settings.port)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def listen(self) -> None:
        """Serve until it is told to stop."""
        self.run(sockets=[self._socket])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT, with the exit code of success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        usual = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise RunError(
            f"cannot listen on {host}, port {port} ({error}); choose another with --host and --port"
        ) from error


def _allow_files(count: int) -> None:
    """Let the process open so many files, as far as the system lets it: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
