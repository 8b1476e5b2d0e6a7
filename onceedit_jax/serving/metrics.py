"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server; two servers in one process count apart.

    Attributes:
      requests: by path and status.
      seconds: that requests took, by path.
      first: seconds to the first token.
      tokens: read and written.
      rounds: answers that were written at once.
      writing: answers on their way.
      waiting: prompts that wait.
      edits: by state.
      jobs: changes of the edits, by kind and status.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        self._registry = registry = CollectorRegistry()
        self.requests: Counter = Counter(
            "onceedit_requests", "Requests by path and status", ["path", "status"],
            registry=registry,
        )  # fmt: skip
        self.seconds: Histogram = Histogram(
            "onceedit_request_seconds", "Seconds that requests took", ["path"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.first: Histogram = Histogram(
            "onceedit_first_token_seconds", "Seconds to the first token of an answer",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.tokens: Counter = Counter(
            "onceedit_tokens", "Tokens that were read and written", ["kind"], registry=registry
        )
        self.rounds: Histogram = Histogram(
            "onceedit_batch_rows", "Answers that were written at once",
            buckets=(0, 1, 2, 4, 8, 16, 32, 64), registry=registry,
        )  # fmt: skip
        self.writing: Gauge = Gauge(
            "onceedit_answers_writing", "Answers on their way", registry=registry
        )
        self.waiting: Gauge = Gauge(
            "onceedit_prompts_waiting", "Prompts that wait", registry=registry
        )
        self.edits: Gauge = Gauge("onceedit_edits", "Edits by state", ["state"], registry=registry)
        self.jobs: Counter = Counter(
            "onceedit_edit_jobs", "Changes of the edits that have ended", ["kind", "status"],
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All of it, in Prometheus's format."""
        return generate_latest(self._registry)
