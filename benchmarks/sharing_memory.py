"""What an engine and each of its clients take of the memory."""

from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from benchmarks.engines import end_engine, front_end, shared_settings
from benchmarks.host import Footprint, footprint, has_mapped, processes_of
from benchmarks.real_server import RealServer
from benchmarks.report import Row, Section, figure

MODEL_RUNTIME = "onnxruntime"
NOTE = (
    "After a store and a search by each. RSS counts pages that others have too in"
    " full, PSS in parts, USS not at all; what a client adds is the growth of the PSS"
    " of all processes. Models are loaded where their runtime is mapped"
)


def memory_section(work: Path, *, clients: int) -> Section:
    """Start clients one by one, and see what each takes and adds."""
    settings = shared_settings(work / "memory")
    totals = []
    with ExitStack() as opened:
        opened.callback(end_engine, settings)
        servers: list[RealServer] = []
        for _ in range(clients):
            servers.append(opened.enter_context(front_end(settings)))
            _use(servers)
            processes = processes_of(settings.data_dir)
            totals.append(sum(footprint(each).pss for each in processes))
        pids = [server.pid for server in servers]
        engines = [footprint(each) for each in processes if each not in pids]
        later = [footprint(pid) for pid in pids[1:]]
        with_models = sum(has_mapped(each, MODEL_RUNTIME) for each in processes)
    added = [(b - a) / 1e6 for a, b in pairwise(totals)]
    rows = [
        *_rows("engine", engines),
        *_rows("further client", later, target="<= 80"),
        figure("further client, added to the PSS of all", added, "MB", target="<= 80"),
        figure("processes with models", [with_models], "", target="1"),
        *_rows("server with the engine in process", [_in_process(work)]),
    ]
    return Section(f"Memory, {clients} clients of one engine", rows, NOTE)


def _use(servers: list[RealServer]) -> None:
    """Let all work, so that the engine has grown as far as it does."""
    for number, server in enumerate(servers):
        server.call("store-document", id=f"note-{number}", text=f"Note {number}.")
        server.call("hybrid-search", query="note")


def _in_process(work: Path) -> Footprint:
    with RealServer(work / "memory-in-process") as server:
        _use([server])
        return footprint(server.pid)


def _rows(who: str, found: list[Footprint], *, target: str = "") -> list[Row]:
    return [
        figure(f"{who}, RSS", [f.rss / 1e6 for f in found], "MB", target=target),
        figure(f"{who}, PSS", [f.pss / 1e6 for f in found], "MB"),
        figure(f"{who}, USS", [f.uss / 1e6 for f in found], "MB", target=target),
    ]
