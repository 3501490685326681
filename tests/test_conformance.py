"""The MCP conformance suite against the HTTP server, in both requirement sets.

Most scenarios call tools, resources or prompts that only a server made for the suite
has. A baseline lists every check that does not pass, each with its reason: a check that
starts to fail, or to pass, fails the test here.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.foreign import NODE_DIRECTORY, http_server, node, server_environment

SUITE = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
SCENARIOS = {"2025-11-25": 33, "2026-07-28": 50}
TIME = "-2026-01-01T00-00-00-000Z"
POLLING = "server-sse-polling:"
DEADLINE_SECONDS = 300


@pytest.fixture(scope="module", params=["streams", "JSON"])
def answers(request: pytest.FixtureRequest) -> str:
    """Return what the server answers with."""
    form: str = request.param
    return form


@pytest.fixture(scope="module")
def url(answers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir = tmp_path_factory.mktemp("conformance") / "data"
    options = ["--json-responses"] if answers == "JSON" else []
    with http_server(server_environment(data_dir), *options) as base_url:
        yield f"{base_url}/mcp"


def not_passed(checks: Path) -> Iterator[str]:
    """Yield `scenario:check` for what failed, or warned: a SHOULD that is not met."""
    # The suite names the directory server-SCENARIO-TIME.
    scenario = checks.parent.name.removeprefix("server-")[: -len(TIME)]
    for check in json.loads(checks.read_text(encoding="utf-8")):
        if check["status"] in {"FAILURE", "WARNING"}:
            yield f"{scenario}:{check['id']}"


@pytest.mark.parametrize("revision", SCENARIOS)
def test_what_does_not_pass_is_what_the_baseline_says(
    revision: str, answers: str, url: str, tmp_path: Path
) -> None:
    baseline = NODE_DIRECTORY / f"conformance-{revision}.yml"
    ran = subprocess.run(
        [
            *node(SUITE, "server", "--url", url, "--requirements", revision),
            *("--expected-failures", str(baseline), "--output-dir", str(tmp_path)),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    print(ran.stdout, ran.stderr)  # noqa: T201 - the report of `make conformance`
    results = list(tmp_path.rglob("checks.json"))
    assert len(results) == SCENARIOS[revision]
    found = {name for checks in results for name in not_passed(checks)}
    expected = set(yaml.safe_load(baseline.read_text(encoding="utf-8"))["server"])
    if answers == "JSON":
        # Without streams there are none to poll: the suite skips what it says of them.
        expected = {name for name in expected if not name.startswith(POLLING)}
        found = {name for name in found if not name.startswith(POLLING)}
    assert found == expected
    # Its own verdict covers what the revision requires, without what it only reports.
    assert ran.returncode == 0
