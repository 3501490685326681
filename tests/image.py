"""Take the Dockerfile's steps here, and use the server that comes out.

`python -m tests.image` needs a package index, and no Docker: the steps of the build
run in a temporary directory, with its own environment in the place of the image's.
"""

import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from httpx2 import AsyncClient
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from mcp_hybrid_search.settings import PREFIX
from tests.packages import ROOT

START_SECONDS = 60
STOP_SECONDS = 15


@dataclass(frozen=True)
class Instruction:
    """A line of the Dockerfile, whole."""

    stage: int
    word: str
    rest: str

    @property
    def listed(self) -> list[str]:
        """The JSON list that the line ends with."""
        found: list[str] = json.loads(self.rest[self.rest.index("[") :])
        return found


def instructions(text: str) -> list[Instruction]:
    """Read a Dockerfile, without its comments and line ends."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    stage, found = -1, []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            stage += word == "FROM"
            found.append(Instruction(stage, word, " ".join(rest.split())))
    return found


def dockerfile() -> list[Instruction]:
    return instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def build(directory: Path) -> None:
    """Take the steps of the first stage; `/opt/venv` is then in `directory`."""
    source = directory / "src"
    source.mkdir()
    subprocess.run([sys.executable, "-m", "venv", directory / "build"], check=True)
    others = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment = {**others, "PATH": f"{directory}/build/bin:{os.environ['PATH']}"}
    for step in dockerfile():
        if (step.stage, step.word) == (0, "COPY"):
            *names, target = step.rest.split()
            for name in names:
                copied = source / target
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, copied)
                else:
                    shutil.copy(ROOT / name, copied)
        if (step.stage, step.word) == (0, "RUN"):
            sys.stdout.write(f"RUN {step.rest}\n")
            sys.stdout.flush()
            words = [
                word.replace("/wheels", f"{directory}/wheels").replace(
                    "/opt/venv", f"{directory}/venv"
                )
                for word in shlex.split(step.rest)
            ]
            subprocess.run(words, cwd=source, env=environment, check=True)


async def used(token: str) -> list[str]:
    """Store and search over HTTP as a client does; returns the tools."""
    headers = {"Authorization": f"Bearer {token}"}
    async with AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(
            "http://127.0.0.1:8000/mcp", http_client=http
        )
        async with Client(transport) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            await client.call_tool("store-document", {"text": "A kettle.", "id": "k"})
            found = await client.call_tool("hybrid-search", {"query": "kettle"})
    hits = (found.structured_content or {}).get("hits", [])
    if [hit["document_id"] for hit in hits] != ["k"]:
        msg = f"What was stored was not found: {hits}"
        raise SystemExit(msg)
    return tools


def _wait_until_healthy(check: list[str], environment: dict[str, str]) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        done = subprocess.run(check, env=environment, capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.2)
    msg = f"The health check fails for {START_SECONDS} s."
    raise SystemExit(msg)


def serve(directory: Path) -> None:
    """Run what the image runs, as its health check sees it, and use it."""
    found = {step.word: step for step in dockerfile() if step.stage == 1}
    binaries = directory / "venv" / "bin"
    token = secrets.token_urlsafe(32)
    environment = {
        "PATH": f"{binaries}:/usr/bin:/bin",
        "HOME": str(directory),
        f"{PREFIX}DATA_DIR": str(directory / "data"),
        f"{PREFIX}OFFLINE": "true",
        f"{PREFIX}ENGINE_IDLE_SECONDS": "0",
        f"{PREFIX}TOKEN": token,
    }
    (program,) = found["ENTRYPOINT"].listed
    command = [str(binaries / program), *found["CMD"].listed]
    python, *script = found["HEALTHCHECK"].listed
    server = subprocess.Popen(command, env=environment)
    try:
        _wait_until_healthy([str(binaries / python), *script], environment)
        tools = anyio.run(used, token)
        with urllib.request.urlopen("http://127.0.0.1:8000/readyz") as answer:
            sys.stdout.write(f"/readyz: {answer.status}\n")
    finally:
        number = found["STOPSIGNAL"].rest
        server.send_signal(signal.Signals[number])
        code = server.wait(timeout=STOP_SECONDS)
    sys.stdout.write(f"{len(tools)} tools, stored and found; exit code {code}.\n")
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary).resolve()
        build(directory)
        serve(directory)
