"""Where and with what a measurement was made."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("mcp", "qdrant-edge-py", "fastembed", "onnxruntime", "numpy")


def described() -> dict[str, object]:
    """Return the machine, the versions and the commit, as JSON takes them."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
