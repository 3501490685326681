"""The real server is killed, or its disk fills up: what it acknowledged is kept."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.crash import Campaign, Mode
from benchmarks.oracle import wait_until_complete
from benchmarks.real_server import FailedError, RealServer
from mcp_hybrid_search import engine_control
from mcp_hybrid_search.errors import StoreUnavailableError
from mcp_hybrid_search.settings import load_settings
from tests.conftest import OpenEngine

MODES: tuple[Mode, ...] = ("kill", "checkpoint", "kill", "discarded")


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    with Campaign(tmp_path, seed=3, longest_life_seconds=2.0) as campaign:
        for mode in MODES:
            campaign.cycle(mode)
    report = campaign.report
    assert report.acknowledged > 0
    assert report.wrong() == []


def test_a_directory_in_use_names_its_process_and_is_free_when_that_has_gone(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    with RealServer(tmp_path / "data") as server:
        server.call("list-collections")
        with pytest.raises(StoreUnavailableError, match=f"process {server.pid},"):
            open_engine()
        assert server.close() == 0
    open_engine()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk in memory, too small for much."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if sys.platform != "linux" or os.geteuid() != 0 or not mount or not umount:
        pytest.skip("mounting a file system takes root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    options = [mount, "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(disk)]
    if subprocess.run(options, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield disk
    subprocess.run([umount, "--lazy", str(disk)], check=True)


def filled_up(disk: Path) -> Path:
    """Leave no byte free on a disk, as another program would."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY)
    for size in (1 << 20, 1 << 12, 1):
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)
    assert shutil.disk_usage(disk).free == 0
    return filler


def first_hit(server: RealServer, query: str) -> str:
    hits = server.call("hybrid-search", query=query)["hits"]
    return str(hits[0]["document_id"])


@pytest.mark.parametrize("in_process", ["true", "false"])
def test_a_full_disk_is_survived_named_and_left_by_freeing_space(
    small_disk: Path, in_process: str
) -> None:
    data = small_disk / "data"
    environment = {
        "HYBRID_SEARCH_MIN_FREE_BYTES": "8000000",
        "HYBRID_SEARCH_IN_PROCESS": in_process,
    }
    with RealServer(data, environment) as server:
        server.call("store-document", id="whale", text="Moby Dick is a white whale.")
        server.call("store-document", id="soup", text="Leek soup wants potatoes.")
        filler = filled_up(small_disk)

        with pytest.raises(FailedError, match="0 MB free"):
            server.call("store-document", id="late", text="Too late.")
        with pytest.raises(FailedError, match="is full"):
            server.call("delete-document", id="soup")
        assert first_hit(server, "whale") == "whale"
        assert first_hit(server, "potatoes") == "soup"
        assert server.close() == 0
    engine_control.stop(load_settings(data_dir=data))

    with RealServer(data, environment) as server:
        with pytest.raises(FailedError, match="is full"):
            server.call("hybrid-search", query="whale")
        assert "whale" in server.call("get-document", id="whale")["text"]
        filler.unlink()
        wait_until_complete(server)
        assert first_hit(server, "whale") == "whale"
        assert server.call("delete-document", id="soup")["status"] == "deleted"
        server.call("store-document", id="late", text="Better late than never.")
        assert first_hit(server, "better") == "late"
    engine_control.stop(load_settings(data_dir=data))
