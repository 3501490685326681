"""The examples run as they are, each with the packages that it names."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign import (
    DEADLINE_SECONDS,
    ROOT,
    STDIO_COMMAND,
    absent,
    http_server,
    server_environment,
)

EXAMPLES = ROOT / "examples"
QUESTION = "My coffee comes out too fast. What should I change?"
BEST = "Grind finer when the shot runs through in under twenty seconds."


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    data_dir = tmp_path_factory.mktemp("examples") / "data"
    # Nothing that the machine sets may make an example report anywhere.
    return {**server_environment(data_dir), "LANGSMITH_TRACING": "false"}


@pytest.fixture(scope="module")
def base_url(environment: dict[str, str]) -> Iterator[str]:
    with http_server(environment) as url:
        yield url


@pytest.fixture(params=["stdio", "streamable HTTP"])
def server(request: pytest.FixtureRequest, base_url: str) -> list[str]:
    if request.param == "stdio":
        return ["--", *STDIO_COMMAND]
    return ["--url", f"{base_url}/mcp"]


def printed(example: str, server: list[str], environment: dict[str, str]) -> list[str]:
    """Return the lines of an example that ends with zero."""
    home = Path(sys.prefix) / "examples" / example
    if not (home / ".ready").exists():
        absent(f"the environment of examples/{example}.py")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ran = subprocess.run(
        # -I: whatever this process can import, the example cannot.
        [str(python), "-I", str(EXAMPLES / f"{example}.py"), *server],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_the_client_of_fastmcp_stores_and_finds(
    server: list[str], environment: dict[str, str]
) -> None:
    lines = printed("fastmcp_client", server, environment)
    version, *stored, question, first, _second = lines
    assert version == "MCP 2026-07-28"
    assert [line.split(": ")[1] for line in stored] == ["sourdough", "espresso"]
    assert question == QUESTION
    assert first == f"1. espresso: {BEST}"


def test_an_agent_of_langchain_calls_the_search_and_answers_from_it(
    server: list[str], environment: dict[str, str]
) -> None:
    lines = printed("langchain_agent", server, environment)
    assert lines[:4] == [
        "stored: sourdough",
        "stored: espresso",
        f"human: {QUESTION}",
        "ai: hybrid-search",
    ]
    assert lines[4].startswith("tool: [1] espresso")
    assert lines[-1] == f"ai: {BEST} [espresso]"


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_the_packages_of_an_example_are_pinned_by_their_hashes(example: Path) -> None:
    block = re.search(r"dependencies = \[(.*)\]", example.read_text(encoding="utf-8"))
    assert block is not None
    pinned = example.with_suffix(".requirements.txt").read_text(encoding="utf-8")
    for requirement in re.findall(r'"(\S+)==(\S+)"', block[1]):
        name, version = requirement[0].split("[")[0], requirement[1]
        assert re.search(rf"^{name}=={version} ", pinned, re.MULTILINE)
    entries = pinned.replace("\\\n", " ").splitlines()
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"/|\\\S|--(?!hash=)", pinned)
