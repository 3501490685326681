"""Kill the engine under its clients again and again, which notice nothing but time."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.engines import engine_pid, front_ends
from benchmarks.oracle import Oracle, Verdict, wait_until_complete
from benchmarks.real_server import RealServer
from benchmarks.report import Row, Section, figure, say
from benchmarks.sharing_load import LoadClient
from mcp_hybrid_search.settings import Settings

CLIENTS = 4
LONGEST_LIFE_SECONDS = 3.0
"""The longest time under load before a kill."""
EARLY_EVERY = 5
STARTING_SECONDS = 0.5
"""Within this time of having the directory no engine has loaded its models."""
ANSWER_SECONDS = 120.0
NAMESPACE = "killed"
"""Of the clients, so that what fills the store does not mix with their documents."""
NOTE = (
    "SIGKILL at a random moment under load; the clients are never restarted. Each"
    " fifth time the next engine is killed too, while it starts; times count from the"
    " last kill. A new"
    " engine has the directory, then a first client has an answer, then all have."
    " Searching: until no search says that documents are indexed again. After each"
    " kill everything acknowledged is read back and searched for"
)


@dataclass(slots=True)
class Kills:
    """How often, the seconds after the last kill of each time, what was found wrong."""

    sent: int = 0
    engine: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    everyone: list[float] = field(default_factory=list)
    complete: list[float] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)

    def add(self, verdict: Verdict) -> None:
        """Take over what one verification found."""
        for name in ("lost", "half", "resurrected", "duplicates"):
            getattr(self.verdict, name).extend(getattr(verdict, name))
        self.verdict.searched += verdict.searched
        self.verdict.not_first += verdict.not_first


class KillCampaign:
    """One data directory, its clients, and the engines that come and go."""

    def __init__(
        self, settings: Settings, servers: list[RealServer], seed: int
    ) -> None:
        """Begin with what is stored.

        Args:
            settings: Of the directory.
            servers: Already started on it.
            seed: Of everything random but the threads.
        """
        self._settings = settings
        self._rng = random.Random(seed)  # noqa: S311
        collections = servers[0].call("list-collections")["collections"]
        self.oracle = Oracle(
            self._rng,
            others=(
                sum(each["documents"] for each in collections),
                sum(each["chunks"] for each in collections),
            ),
        )
        lock = threading.Lock()
        self.clients = [
            LoadClient(
                server,
                f"client-{number}",
                oracle=self.oracle,
                lock=lock,
                rng=random.Random(seed + 1 + number),  # noqa: S311
            )
            for number, server in enumerate(servers)
        ]
        self.kills = Kills()

    def kill(self, *, early: bool = False) -> None:
        """Kill the engine under load, wait for everyone's answer, verify.

        Args:
            early: Kill the one that takes its place too, before it answers.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(len(self.clients)) as pool:
            working = [pool.submit(client.work, stop) for client in self.clients]
            try:
                time.sleep(self._rng.uniform(0.0, LONGEST_LIFE_SECONDS))
                self._kill_and_wait(working, early=early)
            except BaseException:
                # Their threads wait for answers that may never come.
                for client in self.clients:
                    client.server.kill()
                raise
            finally:
                stop.set()
            for each in working:
                each.result()
        self._verify()

    def _kill_and_wait(self, working: list[Future[None]], *, early: bool) -> None:
        killed, renewed = self._replaced(working)
        if early:
            time.sleep(self._rng.uniform(0.0, STARTING_SECONDS))
            killed, renewed = self._replaced(working)
        clients = self.clients
        first = _moment(lambda: max(c.answered for c in clients) > renewed, working)
        everyone = _moment(lambda: min(c.answered for c in clients) > renewed, working)
        self.kills.engine.append(renewed - killed)
        self.kills.first.append(first - killed)
        self.kills.everyone.append(everyone - killed)

    def _replaced(self, working: list[Future[None]]) -> tuple[float, float]:
        """Kill the engine; returns that moment, and when another one was there."""
        pid = engine_pid(self._settings)
        if pid is None:
            raise RuntimeError(self._settings.data_dir)
        os.kill(pid, signal.SIGKILL)
        self.kills.sent += 1
        killed = time.monotonic()
        # Whatever the killed engine had answered is read by the time of a new one.
        renewed = _moment(
            lambda: engine_pid(self._settings) not in {None, pid}, working
        )
        return killed, renewed

    def _verify(self) -> None:
        server = self._rng.choice(self.clients).server
        self.kills.complete.append(wait_until_complete(server))
        self.kills.add(self.oracle.verified(server))

    def problems(self) -> list[str]:
        """Return everything that must not be."""
        verdict = self.kills.verdict
        kept = [*verdict.lost, *verdict.half, *verdict.resurrected, *verdict.duplicates]
        noticed = [client.noticed for client in self.clients]
        return [*kept, *(t for each in noticed for t in (*each.errors, *each.stale))]

    def rows(self) -> list[Row]:
        """Return the figures."""
        kills, verdict = self.kills, self.kills.verdict
        noticed = [client.noticed for client in self.clients]
        counts = {
            "errors seen by clients": sum(len(each.errors) for each in noticed),
            "stale answers under load": sum(len(each.stale) for each in noticed),
            "acknowledged documents lost": len(verdict.lost),
            "half": len(verdict.half),
            "back after delete or replace": len(verdict.resurrected),
            "duplicates": len(verdict.duplicates),
        }
        told = {
            "kills": kills.sent,
            "acknowledged writes": self.oracle.acknowledged,
            "answers that tell of a repeated call": sum(n.repeated for n in noticed),
            "deletions repeated, told as not found": sum(n.not_found for n in noticed),
            "searches for a document's own word": verdict.searched,
            "  found, but not as the first hit": verdict.not_first,
        }
        return [
            *_times("kill to a new engine", kills.engine),
            *_times("kill to the first client's answer", kills.first, "<= 2", "<= 5"),
            *_times("kill to every client's answer", kills.everyone, "<= 2", "<= 5"),
            *_times("then, until the index is complete", kills.complete),
            *(figure(name, [count], "", target="0") for name, count in counts.items()),
            *(figure(name, [count], "") for name, count in told.items()),
        ]


def _times(
    what: str, seconds: list[float], target: str = "", worst_target: str = ""
) -> list[Row]:
    return [
        figure(f"{what}, median", seconds, "s", target=target),
        figure(f"{what}, worst", seconds, "s", target=worst_target, percentile=100),
    ]


def _moment(condition: Callable[[], bool], working: list[Future[None]]) -> float:
    """Return when a condition became true while the clients work.

    Raises:
        TimeoutError: If it does not.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while not condition():
        for each in working:
            if each.done():
                each.result()
        if time.monotonic() > deadline:
            msg = f"No answer within {ANSWER_SECONDS:.0f} s after a kill."
            raise TimeoutError(msg)
        time.sleep(0.005)
    return time.monotonic()


def kills_section(
    settings: Settings, *, kills: int, chunks: int, seed: int
) -> tuple[Section, list[str]]:
    """Kill the engine so often; returns the figures, and what went wrong.

    Args:
        settings: Of a store that stays as it is but for what clients store.
        kills: How often.
        chunks: In the store, for the title.
        seed: Of everything random but the threads.
    """
    settings = settings.model_copy(update={"namespace": NAMESPACE})
    with front_ends(settings, CLIENTS) as servers:
        campaign = KillCampaign(settings, servers, seed)
        for done in range(1, kills + 1):
            campaign.kill(early=done % EARLY_EVERY == 0)
            say(f"kill {done} of {kills}: {campaign.kills.everyone[-1]:.2f} s")
    title = f"SIGKILL of the engine under {CLIENTS} clients, {chunks:,} chunks"
    return Section(title, campaign.rows(), f"{NOTE}. Seed {seed}"), campaign.problems()
