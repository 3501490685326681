"""Kill the real server at random moments; prove that what it acknowledged is kept.

Run: python -m benchmarks.crash [--kills 50] [--power-cuts 10] [--torn 5] [--seed N]

After each kill the index is left as it is, or changed as no orderly machine would:
discarded, put back to an earlier checkpoint (both are power cuts: what was not
synced is gone, the ledger stays), or replaced by a torn copy that was made file by
file while the server was writing. A torn copy is harder than a power cut can be.
"""

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from typing_extensions import Self

from benchmarks.host import commit, machine, versions
from benchmarks.oracle import (
    Oracle,
    Verdict,
    Version,
    new_metadata,
    new_version,
    wait_until_complete,
)
from benchmarks.real_server import FailedError, GoneError, RealServer, structured

Mode = Literal["kill", "discarded", "checkpoint", "torn"]

LONGEST_LIFE_SECONDS = 6.0
LIVING_DOCUMENTS = 30
OUTSTANDING_CALLS = 3
OPERATIONS = {
    "new": 5,
    "replace": 5,
    "metadata": 5,
    "delete": 2,
    "matching": 1,
    "several": 2,
    "pause": 1,
}
Change = dict[str, Version | None]
"""What a call makes of documents, by id; None: they are deleted."""
PAUSE_SECONDS = 1.3
"""Longer than the server waits, idle, before it makes a checkpoint."""


@dataclass(slots=True)
class Report:
    """The campaign's counts; everything but the first rows must be nothing."""

    kills: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    in_flight: int = 0
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    resurrected: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    crashed_at_load: list[str] = field(default_factory=list)
    searched: int = 0
    not_first: int = 0
    first_answer_seconds: list[float] = field(default_factory=list)
    rebuild_seconds: list[float] = field(default_factory=list)

    def add(self, cycle: str, verdict: Verdict) -> None:
        """Take over what one verification found wrong."""
        for name in ("lost", "half", "resurrected", "duplicates"):
            found = [f"{cycle}: {text}" for text in getattr(verdict, name)]
            getattr(self, name).extend(found)
        self.searched += verdict.searched
        self.not_first += verdict.not_first

    def wrong(self) -> list[str]:
        """Return everything that must not be."""
        kept = [*self.lost, *self.half, *self.resurrected, *self.duplicates]
        return [*kept, *self.crashed_at_load, *self.refused]


class Campaign:
    """One data directory through many lives of its server."""

    def __init__(
        self,
        root: Path,
        seed: int,
        longest_life_seconds: float = LONGEST_LIFE_SECONDS,
    ) -> None:
        self._longest_life_seconds = longest_life_seconds
        self._data = root / "data"
        self._index = self._data / "index"
        self._copy = root / "copy"
        self._rng = random.Random(seed)  # noqa: S311
        self._oracle = Oracle(self._rng)
        self._named = 0
        self.report = Report()
        self._server = self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    def cycle(self, mode: Mode) -> None:
        """Let the server work, kill it, and see what its successor knows."""
        self._live(mode)
        self._server.close()
        self.report.kills[mode] = self.report.kills.get(mode, 0) + 1
        self.report.in_flight += len(self._oracle.in_flight)
        self.report.acknowledged = self._oracle.acknowledged
        if mode != "kill":
            shutil.rmtree(self._index, ignore_errors=True)
        if mode in ("checkpoint", "torn") and self._copy.exists():
            self._copy.rename(self._index)
        cycle = f"cycle {sum(self.report.kills.values())} ({mode})"
        try:
            self._server = self._started()
            self._verify(cycle)
        except GoneError as exc:
            self._crashed(f"{cycle}: {exc}")

    def _started(self) -> RealServer:
        return RealServer(self._data, {"HYBRID_SEARCH_MIN_FREE_BYTES": "0"})

    def _verify(self, cycle: str) -> None:
        self._answered(self._server)
        self.report.rebuild_seconds.append(wait_until_complete(self._server))
        self.report.add(cycle, self._oracle.verified(self._server))

    def _crashed(self, cycle: str) -> None:
        """Keep what the server died of, and go on without the index."""
        self._server.close()
        kept = self._data.with_name(f"{self._data.name}.{time.time_ns()}")
        shutil.copytree(self._data, kept)
        self.report.crashed_at_load.append(f"{cycle} See {kept}")
        shutil.rmtree(self._index, ignore_errors=True)
        self._server = self._started()

    def _answered(self, server: RealServer) -> None:
        server.call("hybrid-search", query="first", limit=1)
        seconds = time.monotonic() - server.started
        self.report.first_answer_seconds.append(seconds)

    # The life of a server

    def _live(self, mode: Mode) -> None:
        server = self._server
        if mode == "checkpoint":
            self._work(server, operations=self._rng.randint(1, 8))
            self._copy_at_checkpoint(server)
        seconds = self._rng.uniform(0.0, self._longest_life_seconds)
        killer = threading.Timer(seconds, self._end, [server, mode])
        killer.start()
        with suppress(GoneError):
            self._work(server, operations=None)
        killer.join()

    def _end(self, server: RealServer, mode: Mode) -> None:
        if mode == "torn":
            _copied(self._index, self._copy)
        server.kill()

    def _copy_at_checkpoint(self, server: RealServer) -> None:
        """Copy the index when the ledger says that all of it is on the disk."""
        server.call("hybrid-search", query="open", limit=1)
        ledger = sqlite3.connect(self._data / "ledger.sqlite3")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            sql = "SELECT count(*) FROM documents WHERE NOT indexed"
            if ledger.execute(sql).fetchone() == (0,):
                break
            time.sleep(0.05)
        ledger.close()
        _copied(self._index, self._copy)

    def _work(self, server: RealServer, operations: int | None) -> None:
        """Send random operations, some at once, until they are done or it dies."""
        calls: dict[int, Change] = {}
        while operations is None or operations > 0 or calls:
            if len(calls) < OUTSTANDING_CALLS and (operations is None or operations):
                self._send(server, calls)
                operations = operations and operations - 1
                continue
            request_id, result = server.receive()
            self._acknowledge(calls.pop(request_id), result)

    def _send(self, server: RealServer, calls: dict[int, Change]) -> None:
        if len(self._oracle.living) > LIVING_DOCUMENTS:
            kind = "delete"
        else:
            kind = self._rng.choices([*OPERATIONS], [*OPERATIONS.values()])[0]
        if kind == "pause":
            time.sleep(PAUSE_SECONDS)
            return
        tool, arguments, change = self._operation(kind)
        if not change:
            return
        # Before it is sent: a kill in the middle of the writing leaves it open too.
        self._oracle.in_flight |= change
        if tool == "delete-documents":
            self._oracle.together.append([*change])
        calls[server.send(tool, arguments)] = change

    def _operation(self, kind: str) -> tuple[str, dict[str, Any], Change]:
        living = [d for d in self._oracle.living if d not in self._oracle.in_flight]
        if kind == "delete":
            gone = self._rng.sample(living, min(1, len(living)))
            return "delete-document", {"id": "".join(gone)}, dict.fromkeys(gone)
        if kind == "matching":
            return self._deletion(living)
        names = self._rng.sample(living, min(1, len(living)))
        if kind == "metadata" and names:
            return self._metadata_update(names[0])
        if kind == "several":
            names += [self._new_name() for _ in range(self._rng.randint(1, 3))]
        if kind == "new" or not names:
            names = [self._new_name()]
        versions = {name: self._new_version() for name in names}
        items = [
            {"id": name, "text": v.text, "metadata": v.metadata}
            for name, v in versions.items()
        ]
        change: Change = {**versions}
        if kind == "several":
            return "store-documents", {"documents": items}, change
        return "store-document", items[0], change

    def _new_version(self) -> Version:
        return replace(new_version(self._rng), metadata=new_metadata(self._rng))

    def _metadata_update(self, name: str) -> tuple[str, dict[str, Any], Change]:
        """Change one key, and remove or change the other."""
        metadata = new_metadata(self._rng)
        patch = dict(metadata)
        if metadata["number"] % 2:
            del metadata["number"]
            patch["number"] = None
        version = replace(self._oracle.living[name], metadata=metadata)
        return "update-metadata", {"id": name, "metadata": patch}, {name: version}

    def _deletion(self, living: list[str]) -> tuple[str, dict[str, Any], Change]:
        """Delete a few documents by one filter."""
        gone = self._rng.sample(living, min(3, len(living)))
        tags = [self._oracle.living[name].metadata["tag"] for name in gone]
        arguments = {"filter": {"tag": tags}, "confirm_count": len(gone)}
        return "delete-documents", arguments, dict.fromkeys(gone)

    def _new_name(self) -> str:
        self._named += 1
        return f"document-{self._named}"

    def _acknowledge(self, change: Change, result: dict[str, Any]) -> None:
        try:
            content = structured(result)
        except FailedError as exc:
            self.report.refused.append(str(exc))
            return
        stored = content.get("results", [content] * len(change))
        if "dry_run" in content:
            self._oracle.together.remove([*change])
        for (name, version), item in zip(change.items(), stored, strict=True):
            del self._oracle.in_flight[name]
            if version is None:
                self._oracle.deleted(name)
            elif "chunks" not in item:
                self._oracle.changed(name, version)
            else:
                self._oracle.stored(name, version, item["chunks"])


def _copied(index: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    if index.exists():
        # Keeps the holes; a file that vanishes meanwhile makes it say so, and fail.
        subprocess.run(
            ["cp", "-r", "--sparse=always", str(index), str(copy)],  # noqa: S607
            check=False,
            stderr=subprocess.DEVNULL,
        )


def _table(report: Report) -> Table:
    table = Table("", "count", title="What was acknowledged is kept")
    for mode, count in report.kills.items():
        table.add_row(f"SIGKILLs, index {_MODES[mode]}", str(count))
    table.add_row("acknowledged operations", str(report.acknowledged))
    table.add_row("operations in flight when killed", str(report.in_flight))
    for name in ("lost", "half", "resurrected", "duplicates", "refused"):
        table.add_row(name, str(len(getattr(report, name))))
    table.add_row("crashed while opening", str(len(report.crashed_at_load)))
    table.add_row("searches for a document's own word", str(report.searched))
    table.add_row("found, but not as the first hit", str(report.not_first))
    for name, seconds in (
        ("restart to first answer", report.first_answer_seconds),
        ("until the index was complete", report.rebuild_seconds),
    ):
        if seconds:
            text = f"{median(seconds):.1f} s, {max(seconds):.1f} s"
            table.add_row(f"{name}: median, max", text)
    return table


_MODES = {
    "kill": "as it was",
    "discarded": "discarded",
    "checkpoint": "put back to an earlier checkpoint",
    "torn": "replaced by a torn copy",
}


def main() -> None:
    """Run the campaign and print its counts; exits with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--power-cuts", type=int, default=10)
    parser.add_argument("--torn", type=int, default=0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    modes: list[Mode] = ["kill"] * arguments.kills
    modes += ["discarded"] * (arguments.power_cuts // 2)
    modes += ["checkpoint"] * (arguments.power_cuts - arguments.power_cuts // 2)
    modes += ["torn"] * arguments.torn
    root = Path(tempfile.mkdtemp(prefix="crash-"))
    random.Random(arguments.seed).shuffle(modes)  # noqa: S311
    console = Console()
    with Campaign(root, arguments.seed) as campaign:
        for done, mode in enumerate(modes, 1):
            campaign.cycle(mode)
            console.print(f"{done}/{len(modes)} {mode}", style="dim")
    report = campaign.report
    console.print(_table(report))
    if arguments.json is not None:
        where = {"machine": machine(), "versions": versions(), "commit": commit()}
        figures = {**where, "seed": arguments.seed, **asdict(report)}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if report.wrong():
        console.print(json.dumps(asdict(report), indent=1), f"The data is in {root}.")
        raise SystemExit(1)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
