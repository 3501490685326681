"""What operators count: never a text, an id, or the name of anything stored."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

STAGES = ("encode", "index", "read", "total")
OUTCOMES = ("ok", "refused", "busy", "failed", "cancelled")
KINDS = (
    "host", "origin", "token", "size", "busy", "slow", "malformed", "type", "path",
)  # fmt: skip
OTHER = "other"
"""Stands for every name that is not ours: a client must not make labels."""

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class Now:
    """How things stand at this moment."""

    active: int
    waiting: int
    sessions: int
    ready: bool
    documents: int
    chunks: int
    size_bytes: int


class Metrics:
    """Counts, in a registry of its own; an `Observer` of the calls."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._tools: frozenset[str] = frozenset()
        self._current = _Current()
        self._registry.register(self._current)
        self._calls = Counter(
            "hybrid_search_calls",
            "Tool calls.",
            ["tool", "outcome"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "hybrid_search_call_seconds",
            "Time of tool calls that were let in.",
            ["tool"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "hybrid_search_search_stage_seconds",
            "Time of a search by stage.",
            ["stage"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._refusals = Counter(
            "hybrid_search_http_refusals",
            "HTTP requests that were refused.",
            ["reason"],
            registry=self._registry,
        )
        for kind in KINDS:
            self._refusals.labels(kind)

    def know(self, tools: Collection[str]) -> None:
        """Take note of the names that tools have."""
        self._tools = frozenset(tools)

    def called(self, tool: str, outcome: str, seconds: float) -> None:
        """Count a call."""
        tool = tool if tool in self._tools else OTHER
        outcome = outcome if outcome in OUTCOMES else OTHER
        self._calls.labels(tool, outcome).inc()
        if outcome not in {"busy", OTHER}:
            self._seconds.labels(tool).observe(seconds)

    def searched(self, milliseconds: Mapping[str, float]) -> None:
        """Count the stages of a search."""
        for stage, taken in milliseconds.items():
            if stage in STAGES:
                self._stages.labels(stage).observe(taken / 1000)

    def refused(self, kind: str) -> None:
        """Count a request that was refused."""
        self._refusals.labels(kind if kind in KINDS else OTHER).inc()

    def text(self, now: Now) -> bytes:
        """Return everything in the text format of Prometheus."""
        self._current.now = now
        return generate_latest(self._registry)


class _Current(Collector):
    """What is not counted but looked at."""

    now: Now | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield how things stand."""
        now = self.now
        if now is None:
            return
        for name, told, value in (
            ("calls_active", "Calls that are worked on.", now.active),
            ("calls_waiting", "Calls that wait for a place.", now.waiting),
            ("sessions", "HTTP sessions that are open.", now.sessions),
            ("ready", "Whether the engine answers.", now.ready),
            ("documents", "Documents stored.", now.documents),
            ("chunks", "Chunks stored.", now.chunks),
            ("bytes", "Bytes that the collections take.", now.size_bytes),
        ):
            yield GaugeMetricFamily(f"hybrid_search_{name}", told, value=value)
