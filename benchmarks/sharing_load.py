"""A client that stores, replaces, deletes, reads and searches until it is told."""

import random
import threading
import time
from dataclasses import dataclass, field

from benchmarks.oracle import Oracle, Version, new_version, read
from benchmarks.real_server import FailedError, RealServer

OPERATIONS = {"new": 4, "replace": 4, "delete": 2, "read": 4, "search": 4}
LIVING_DOCUMENTS = 8
"""Of one client: more are deleted."""


@dataclass(slots=True)
class Noticed:
    """What clients noticed under load; all but `repeated` must be nothing."""

    errors: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    """Reads and searches that told of another state than the acknowledged one."""
    repeated: int = 0
    """Answers which say that the engine ended and the call was repeated."""
    not_found: int = 0
    """Deletions of what was there that were answered `not-found`."""


class LoadClient:
    """One server and documents that nobody else changes."""

    def __init__(
        self,
        server: RealServer,
        name: str,
        *,
        oracle: Oracle,
        lock: threading.Lock,
        rng: random.Random,
    ) -> None:
        """Do nothing yet.

        Args:
            server: Nobody else calls it meanwhile.
            name: Begins the ids of its documents.
            oracle: Of all clients.
            lock: Held by whoever uses the oracle.
            rng: Chooses what is done.
        """
        self.server = server
        self.noticed = Noticed()
        self.answered = 0.0
        """When the last answer came in, monotonic."""
        self._prefix = f"{name}-"
        self._oracle = oracle
        self._lock = lock
        self._rng = rng
        self._named = 0

    def work(self, stop: threading.Event) -> None:
        """Do one thing after another.

        Raises:
            GoneError: If the server left.
        """
        while not stop.is_set():
            try:
                self._operate()
            except FailedError as exc:
                self.noticed.errors.append(str(exc))
            self.answered = time.monotonic()

    def _operate(self) -> None:
        with self._lock:
            living = {
                name: version
                for name, version in self._oracle.living.items()
                if name.startswith(self._prefix) and name not in self._oracle.in_flight
            }
        kind = self._rng.choices([*OPERATIONS], [*OPERATIONS.values()])[0]
        if len(living) > LIVING_DOCUMENTS:
            kind = "delete"
        if kind == "new" or not living:
            self._named += 1
            self._store(f"{self._prefix}{self._named}")
            return
        name = self._rng.choice([*living])
        if kind == "replace":
            self._store(name)
        elif kind == "delete":
            self._delete(name)
        elif kind == "read":
            self._read(name, living[name])
        else:
            self._search(name, living[name])

    def _store(self, name: str) -> None:
        version = new_version(self._rng)
        with self._lock:
            self._oracle.in_flight[name] = version
        stored = self.server.call("store-document", id=name, text=version.text)
        self._count_repeated(stored["notices"])
        with self._lock:
            del self._oracle.in_flight[name]
            self._oracle.stored(name, version, stored["chunks"])

    def _delete(self, name: str) -> None:
        with self._lock:
            self._oracle.in_flight[name] = None
        deleted = self.server.call("delete-document", id=name)
        self.noticed.not_found += deleted["status"] != "deleted"
        with self._lock:
            del self._oracle.in_flight[name]
            self._oracle.deleted(name)

    def _read(self, name: str, version: Version) -> None:
        found = read(self.server, name)
        if found is None or found["text"] != version.text:
            self.noticed.stale.append(f"{name} was read as {found!r:.80}")

    def _search(self, name: str, version: Version) -> None:
        marker = self._rng.choice(version.markers)
        answer = self.server.call("hybrid-search", query=marker)
        self._count_repeated(answer["notices"])
        # An index that is being completed says so.
        if any("indexed again" in notice for notice in answer["notices"]):
            return
        if not any(marker in hit["text"].lower() for hit in answer["hits"]):
            self.noticed.stale.append(f"{name} was not found by {marker}")

    def _count_repeated(self, notices: list[str]) -> None:
        self.noticed.repeated += any("was repeated" in notice for notice in notices)
