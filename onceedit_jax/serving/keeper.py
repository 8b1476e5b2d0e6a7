"""Changes the edits while answers go on: one thread, which makes one change after another.

A thread and not a process: training shares the weights of the plug-in and the compiled programs
with the answers, and a second process could not have the same accelerator. The folder changes as a
whole at the end of a change (`editing.upkeep`), whatever happens to this thread.
"""

import logging
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.artifact_info import now
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import Progress
from onceedit_jax.editing.upkeep import add_edits
from onceedit_jax.errors import OnceEditError
from onceedit_jax.serving.edits import EditedFolder, Edits
from onceedit_jax.serving.journal import Journal, Pending
from onceedit_jax.serving.metrics import Metrics
from onceedit_jax.serving.problems import Problem
from onceedit_jax.serving.schemas import EditsRequest, Job, JobProgress, RevertRequest

LOG = logging.getLogger(__name__)
REMEMBERED = 1000  # jobs that have ended


class _Stopped(Exception):
    """The training is given up, as the server is being stopped."""


class Keeper:
    """The edits of a server, and the jobs that change them.

    Attributes:
      edits: the edits as they are now.
      problem: why the folder could not be read again; None if it could.
    """

    def __init__(
        self,
        folder: EditedFolder,
        edits: Edits,
        on_edits: Callable[[Edits], None],
        *,
        settings: EditSettings,
        jobs: int,
        reread_seconds: float,
        metrics: Metrics,
    ) -> None:
        """Read the journal, and wait for `start`.

        Args:
          folder: the edited folder.
          edits: as it was loaded.
          on_edits: called with every later state, before a job counts as done.
          settings: how edits are trained.
          jobs: changes that wait at most.
          reread_seconds: how often to look whether another program has changed the folder.
          metrics: where jobs are counted.

        Raises:
          InputError: the journal is damaged.
        """
        self.edits = edits
        self.problem: str | None = None
        self._folder, self._on_edits = folder, on_edits
        self._settings, self._most, self._every = settings, jobs, reread_seconds
        self._metrics, self._journal = metrics, Journal(folder.path)
        self._signature = folder.signature()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onceedit-keeper", daemon=True)
        for pending in self._journal.pending:
            self._enqueue(pending)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End: a training is given up at its next step, and the journal holds what is not made."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def jobs(self) -> list[Job]:
        """The jobs of this server, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def job(self, name: str) -> Job:
        """A job.

        Raises:
          Problem: there is none of this name.
        """
        with self._lock:
            if name not in self._jobs:
                raise Problem(404, f"no job {name}; GET /v1/edits/jobs lists them", param="job")
            return self._jobs[name]

    def add(self, request: EditsRequest) -> Job:
        """Accept facts to be learnt. This writes a file: call it from a thread.

        Raises:
          Problem: too many jobs wait, or the edits cannot change.
          RunError: the journal cannot be written.
        """
        self._check_ids(request.replacing, "replacing")
        return self._accept(Pending(id=_name(), created=now(), add=request))

    def revert(self, request: RevertRequest) -> Job:
        """Accept edits to be taken back. This writes a file: call it from a thread.

        Raises:
          Problem: an id that no edit has, or of one that was taken back; too many jobs wait; or the
            edits cannot change.
          RunError: the journal cannot be written.
        """
        self._check_ids(request.ids, "ids")
        return self._accept(Pending(id=_name(), created=now(), revert=request))

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        states = {entry.id: entry.state for entry in self.edits.info.edits}
        for number in ids:
            if number not in states:
                raise Problem(404, f"no edit has the id {number}", param=param)
            if states[number] == "reverted":
                raise Problem(409, f"edit {number} was taken back before", param=param)

    def _accept(self, pending: Pending) -> Job:
        if not self.edits.info.in_adapters:
            raise Problem(
                409,
                "the edits of this server are in the plug-in's weights, and cannot come and go; "
                "edit again with `--method adapter`",
                code="edits_in_weights",
            )
        with self._lock:
            waiting = sum(job.status == "queued" for job in self._jobs.values())
            if waiting >= self._most:
                raise Problem(429, f"{waiting} changes wait already; ask again later")
            if self._stopping.is_set():
                raise Problem(503, "the server is being stopped; ask again later")
            self._journal.write(pending)
            return self._enqueue(pending)

    def _enqueue(self, pending: Pending) -> Job:
        job = Job(id=pending.id, kind=pending.kind, status="queued", created=pending.created)
        self._jobs[pending.id] = job
        ended = [name for name, each in self._jobs.items() if each.status in ("done", "failed")]
        for name in ended[: max(0, len(ended) - REMEMBERED)]:
            del self._jobs[name]
        self._queue.put(pending)
        return job

    def _update(self, name: str, **changes: Any) -> None:
        with self._lock:
            self._jobs[name] = self._jobs[name].model_copy(update=changes)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pending = self._queue.get(timeout=self._every)
            except queue.Empty:
                self._reread()
                continue
            if pending is not None and not self._stopping.is_set():
                self._work(pending)

    def _work(self, pending: Pending) -> None:
        """Make a change, and tell of it when answers begin with it."""
        self._update(pending.id, status="running")
        result: dict[str, Any] = {}
        try:
            result = self._added(pending) if pending.add else self._reverted(pending)
            status = "done"
        except _Stopped:
            return  # it stays in the journal
        except OnceEditError as error:
            status, result["error"] = "failed", str(error)
        except Exception as error:
            LOG.exception("a change of the edits failed")
            status, result["error"] = "failed", f"{type(error).__name__}: {error}"
        self._reread()
        if status == "done" and self.problem is not None:
            result["warnings"] = [*result.get("warnings", []), self.problem]
        try:
            self._journal.remove(pending.id)
        except OnceEditError as error:
            LOG.warning("%s", error)
        self._update(pending.id, status=status, **result)
        self._metrics.jobs.labels(pending.kind, status).inc()

    def _added(self, pending: Pending) -> dict[str, Any]:
        request, warnings = pending.add, list[str]()
        assert request is not None

        def on_step(progress: Progress) -> None:
            if self._stopping.is_set():
                raise _Stopped
            shown = JobProgress(
                step=progress.step,
                steps=progress.steps,
                loss=float(progress.loss),
                reliability=float(progress.reliability),
            )
            self._update(pending.id, progress=shown)

        done = add_edits(
            self._folder.path,
            [
                EditRecord(
                    edit.prompt,
                    edit.target,
                    rephrase=edit.rephrase,
                    subject=edit.subject,
                    aliases=tuple(edit.aliases),
                    index=i,
                    source=f"{pending.id}:{i + 1}",
                )
                for i, edit in enumerate(request.edits)
            ],
            self._settings,
            last_wins=request.last_wins,
            replacing=request.replacing,
            base=self._folder.base,
            on_step=on_step,
            on_warning=warnings.append,
        )
        return {
            "edits": [entry.id for entry in done.edits],
            "superseded": sorted({old for olds in done.superseded.values() for old in olds}),
            "known": len(done.known),
            "warnings": warnings,
        }

    def _reverted(self, pending: Pending) -> dict[str, Any]:
        assert pending.revert is not None
        revert_edits(self._folder.path, pending.revert.ids)
        return {"edits": pending.revert.ids}

    def _reread(self) -> None:
        """Load the folder if it has changed, and let answers begin with what it holds now."""
        signature = self._folder.signature()
        if signature == self._signature:
            return
        try:
            edits = self._folder.load()
        except Exception as error:
            # Answers go on with the edits as they were; the next look tries again.
            problem = f"the edits could not be read again: {error}"
            if problem != self.problem:
                LOG.exception("the edits could not be read again")
            self.problem = problem
            return
        self._on_edits(edits)
        self.edits, self._signature, self.problem = edits, signature, None


def _name() -> str:
    return f"job-{uuid.uuid4().hex[:12]}"
