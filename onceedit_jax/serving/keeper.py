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
from onceedit_jax.editing.artifact_info import now, read_info
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import Progress
from onceedit_jax.editing.upkeep import add_edits
from onceedit_jax.errors import OnceEditError, RunError
from onceedit_jax.serving.edit_schemas import EditsRequest, Job, JobProgress, RevertRequest
from onceedit_jax.serving.edits import EditedFolder, Edits
from onceedit_jax.serving.journal import Journal, Pending
from onceedit_jax.serving.metrics import Metrics
from onceedit_jax.serving.problems import Problem

LOG = logging.getLogger(__name__)
REMEMBERED = 1000  # jobs that have ended
UNREAD = "the edits could not be read again; the server's log says why"
MOST_STARTS = 3  # of a change; a server that is killed in each of them would never get beyond it


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
        writes: bool,
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
          writes: whether this server changes edits. Otherwise it leaves the journal to others.

        Raises:
          InputError: the journal is damaged.
          RunError: another server changes the edits.
        """
        self.edits: Edits = edits
        self.problem: str | None = None
        self._folder, self._on_edits = folder, on_edits
        self._settings, self._most, self._every = settings, jobs, reread_seconds
        self._metrics, self._journal = metrics, Journal(folder.path) if writes else None
        self._signature, self._logged = folder.signature(), ""
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()  # held for moments: the event loop takes it
        self._accepting = threading.Lock()  # held while the journal is written
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onceedit-keeper", daemon=True)
        left = self._journal.pending if self._journal else []
        self._left = {pending.id for pending in left}  # by an earlier server
        for pending in left:
            self._enqueue(pending)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End: a training is given up at its next step, and the journal holds what is not made."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(seconds)
        if self._journal and not self._thread.is_alive():
            with self._accepting:  # whoever is accepted has been written down
                self._journal.close()

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

    def add(self, request: EditsRequest, by: str) -> Job:
        """Accept facts to be learnt, of somebody. This writes a file: call it from a thread.

        Raises:
          Problem: too many jobs wait, or the edits cannot change.
          RunError: the journal cannot be written.
        """
        self._check_ids(request.replacing, "replacing")
        return self._accept(Pending(id=_name(), created=now(), by=by, add=request))

    def revert(self, request: RevertRequest, by: str) -> Job:
        """Accept that somebody takes edits back. This writes a file: call it from a thread.

        Raises:
          Problem: an id that no edit has, or of one that was taken back; too many jobs wait; or the
            edits cannot change.
          RunError: the journal cannot be written.
        """
        self._check_ids(request.ids, "ids")
        return self._accept(Pending(id=_name(), created=now(), by=by, revert=request))

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
        if self._journal is None:
            raise Problem(403, "this server does not change edits; start it with --token")
        with self._accepting:
            waiting = sum(job.status == "queued" for job in self.jobs)
            if waiting >= self._most:
                raise Problem(429, f"{waiting} changes wait already; ask again later")
            if self._stopping.is_set():
                raise Problem(503, "the server is being stopped; ask again later")
            self._journal.write(pending)
            return self._enqueue(pending)

    def _enqueue(self, pending: Pending) -> Job:
        job = Job(
            id=pending.id,
            kind=pending.kind,
            status="queued",
            created=pending.created,
            title=pending.title,
        )
        with self._lock:
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
        assert self._journal is not None
        self._update(pending.id, status="running")
        result: dict[str, Any] = {}
        try:
            result = self._made(pending)
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

    def _made(self, pending: Pending) -> dict[str, Any]:
        """Make a change once, however often servers were killed meanwhile.

        Raises:
          OnceEditError: it cannot be made.
          _Stopped: the server is being stopped.
        """
        assert self._journal is not None
        if pending.id in self._left and (done := self._made_before(pending)):
            return {"edits": done}
        if pending.starts >= MOST_STARTS:
            LOG.error("%s is given up: the server was killed whenever it was made", pending.id)
            raise RunError(
                f"given up: the server was killed {pending.starts} times while this change was "
                "made; post it again, in smaller parts if it was large"
            )
        self._journal.write(pending.model_copy(update={"starts": pending.starts + 1}))
        try:
            return self._added(pending) if pending.add else self._reverted(pending)
        except _Stopped:
            self._journal.write(pending)  # a stop is no fault of the change
            raise

    def _made_before(self, pending: Pending) -> list[int]:
        """The edits that came or went if an earlier server made a change, as the ledger says."""
        info = read_info(self._folder.path)
        if pending.revert is None:
            return [e.id for e in info.edits if e.source.startswith(f"{pending.id}:")]
        # An edit is taken back once at most: these are this change's, or the same one's.
        ids = pending.revert.ids
        done = any(o.kind == "revert" and o.edits == tuple(ids) for o in info.operations)
        return ids if done else []

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
            by=pending.by,
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
        revert_edits(self._folder.path, pending.revert.ids, by=pending.by)
        return {"edits": pending.revert.ids}

    def _reread(self) -> None:
        """Load the folder if it has changed, and let answers begin with what it holds now."""
        signature = self._folder.signature()
        if signature == self._signature:
            return
        try:
            edits = self._folder.load()
            self._on_edits(edits)
        except Exception as error:
            # Answers go on with the edits as they were; the next look tries again.
            if str(error) != self._logged:
                LOG.exception("the edits could not be read again")
            self.problem, self._logged = UNREAD, str(error)
            return
        self._logged = ""
        self.edits, self._signature, self.problem = edits, signature, None


def _name() -> str:
    return f"job-{uuid.uuid4().hex[:12]}"
