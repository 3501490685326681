"""What a fresh clone and a registry read, held to the code."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mcp_hybrid_search
from mcp_hybrid_search import models
from mcp_hybrid_search.settings import PREFIX, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
KEYS = {"type", "description", "default", "enum", "pattern", "minimum", "maximum"}

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SMITHERY: dict[str, Any] = yaml.safe_load((ROOT / "smithery.yaml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def setting(name: str) -> dict[str, Any]:
    """Return a setting's schema without its title and its null."""
    schema: dict[str, Any] = Settings.model_json_schema()["properties"][name]
    (value, *_) = schema.get("anyOf", [{}])
    merged = {**schema, **value}
    return {k: v for k, v in merged.items() if k in KEYS and v is not None}


@pytest.mark.parametrize("name", SMITHERY["startCommand"]["configSchema"]["properties"])
def test_smithery_offers_a_setting_as_it_is(name: str) -> None:
    schema = SMITHERY["startCommand"]["configSchema"]
    assert schema["properties"][name] == setting(name)
    assert schema["additionalProperties"] is False


def test_smithery_starts_the_command_with_settings_as_variables() -> None:
    start = SMITHERY["startCommand"]
    (script,) = PROJECT["project"]["scripts"]
    assert start["type"] == "stdio"
    assert f'command: "{script}"' in start["commandFunction"]
    assert f"{PREFIX}${{name.toUpperCase()}}" in start["commandFunction"]
    assert set(start["exampleConfig"]) <= set(start["configSchema"]["properties"])


def names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements)
    return {re.sub(r"[-_.]+", "-", m[0]).lower() for m in found if m}


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == mcp_hybrid_search.__version__


def test_every_dependency_is_pinned_by_its_hashes() -> None:
    pinned = re.findall(r"^\S+==\S+.*$", CONSTRAINTS, re.MULTILINE)
    wanted = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    assert names(wanted) | {"hatchling"} <= names(pinned)
    entries = CONSTRAINTS.replace("\\\n", " ").splitlines()
    assert len(entries) == len(pinned)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_constraints_name_no_host_and_no_path() -> None:
    assert not re.search(r"/|\\\S|--(?!hash=)", CONSTRAINTS)


def test_the_repair_command_names_the_pinned_wheel() -> None:
    (wheel,) = [
        d for d in PROJECT["project"]["dependencies"] if d.startswith("vectrix")
    ]
    assert models.REPAIR.endswith(f" {wheel}")


def test_what_is_imported_is_a_dependency() -> None:
    """Names of distributions and modules differ only for these."""
    modules = {"qdrant-edge": "qdrant-edge-py", "pydantic-core": "pydantic"}
    pattern = re.compile(r"^\s*(?:from|import) ([A-Za-z0-9_]+)", re.MULTILINE)
    imported = {
        module.replace("_", "-")
        for path in (ROOT / "mcp_hybrid_search").rglob("*.py")
        for module in pattern.findall(path.read_text())
        if module not in {*sys.stdlib_module_names, "mcp_hybrid_search"}
    }
    wanted = {modules.get(name, name) for name in imported}
    assert wanted <= names(PROJECT["project"]["dependencies"])


def test_the_license_files_are_there_and_name_every_model() -> None:
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    notice = (ROOT / "NOTICE").read_text()
    for model_set in (models.bundled(), models.TUTORIAL):
        for spec in (model_set.dense, model_set.sparse, model_set.colbert):
            assert f"- {spec.name}: " in notice


@pytest.mark.skipif(os.name != "posix", reason="Windows has no executable bit")
def test_continuous_integration_runs_the_tests_of_the_makefile() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
    assert re.search(r"^test: lint ", (ROOT / "Makefile").read_text(), re.MULTILINE)
