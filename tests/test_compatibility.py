"""What is said of other programs is what is installed, pinned and run."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.foreign import NODE_DIRECTORY, ROOT, absent
from tests.test_conformance import SCENARIOS

PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WANTED: dict[str, str] = json.loads(
    (NODE_DIRECTORY / "package.json").read_text(encoding="utf-8")
)["dependencies"]
LOCK: dict[str, Any] = json.loads(
    (NODE_DIRECTORY / "package-lock.json").read_text(encoding="utf-8")
)


def python_packages() -> dict[str, str]:
    """Return what the examples and Node's wheel ask for by name."""
    sources = [*ROOT.glob("examples/*.py"), NODE_DIRECTORY / "requirements.in"]
    found: dict[str, str] = {}
    for source in sources:
        text = source.read_text(encoding="utf-8")
        found |= re.findall(r"([a-z][a-z-]+)(?:\[\w+\])?==([0-9.]+)", text)
    return found


def test_the_page_names_every_version_that_is_run() -> None:
    named = re.findall(r"`(@?[a-z][a-z/-]+)`(?: \||,)? ([0-9][0-9a-z.-]*)", PAGE)
    assert dict(named) == {**WANTED, **python_packages()}


@pytest.mark.parametrize("revision", SCENARIOS)
def test_the_page_counts_what_passes_in_the_suite(revision: str) -> None:
    baseline = NODE_DIRECTORY / f"conformance-{revision}.yml"
    entries = yaml.safe_load(baseline.read_text(encoding="utf-8"))["server"]
    assert len(entries) == len(set(entries))
    failing = {entry.partition(":")[0] for entry in entries}
    passing = SCENARIOS[revision] - len(failing)
    row = f"| {revision} | {SCENARIOS[revision]} | {passing} | {len(entries)} |"
    assert row in PAGE


def test_node_packages_are_exact_hashed_and_name_no_host() -> None:
    packages = dict(LOCK["packages"])
    assert packages.pop("")["dependencies"] == WANTED
    for path, package in packages.items():
        assert package["integrity"].startswith("sha512-"), path
        assert "resolved" not in package, path
    for name, version in WANTED.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    options = (NODE_DIRECTORY / ".npmrc").read_text(encoding="utf-8").splitlines()
    assert {"ignore-scripts=true", "omit-lockfile-registry-resolved=true"} <= set(
        options
    )


def test_what_the_makefile_installs_for_the_tests_must_be_there() -> None:
    recipe = re.search(r"^test: lint foreign\n\t(.+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    assert recipe[1].startswith("FOREIGN_CLIENTS=required $(BIN)/python -m pytest ")


@pytest.mark.parametrize(
    ("given", "outcome"), [("required", pytest.fail), ("", pytest.skip)]
)
def test_what_is_absent_fails_where_it_is_required_and_is_skipped_elsewhere(
    given: str, outcome: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREIGN_CLIENTS", given)
    with pytest.raises(outcome.Exception, match="X is not installed: `make foreign`"):
        absent("X")
