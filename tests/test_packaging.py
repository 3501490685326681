"""What a fresh clone and a registry read, held to the code."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import mcp_hybrid_search
from mcp_hybrid_search import models
from mcp_hybrid_search.settings import (
    PREFIX,
    Settings,
    secret_variables,
    settings_from,
)
from tests.bundle import parameters, used
from tests.contract import CONTRACT
from tests.packages import GENERATED, PROJECT, ROOT, put_together

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SMITHERY: dict[str, Any] = yaml.safe_load((ROOT / "smithery.yaml").read_text())
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text("utf-8"))
MANIFEST: dict[str, Any] = json.loads(
    (ROOT / "bundle/manifest.json").read_text("utf-8")
)
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
PROPERTIES = SMITHERY["startCommand"]["configSchema"]["properties"]


@pytest.mark.parametrize("name", GENERATED)
def test_what_registries_read_is_what_settings_and_tools_say(name: str) -> None:
    written = (ROOT / name).read_text(encoding="utf-8")
    assert written == GENERATED[name](), "Write it again: python -m tests.packages"


def test_smithery_offers_every_setting() -> None:
    assert list(PROPERTIES) == list(Settings.model_fields)
    assert PROPERTIES["encoder_threads"] == {
        "type": "integer",
        "description": "Threads per encoder (default: half the cores).",
        "minimum": 1,
        "maximum": 64,
    }
    assert PROPERTIES["log_level"]["enum"] == ["DEBUG", "INFO", "WARNING", "ERROR"]
    assert PROPERTIES["offline"]["default"] is False
    assert PROPERTIES["token"]["writeOnly"] is True
    assert SMITHERY["startCommand"]["configSchema"]["additionalProperties"] is False


def test_the_defaults_that_registries_show_are_accepted() -> None:
    listed = {
        name: str(p["default"]) for name, p in PROPERTIES.items() if "default" in p
    }
    shown = {
        item["name"]: item["default"]
        for item in SERVER["packages"][0]["environmentVariables"]
        if "default" in item
    }
    assert {PREFIX + name.upper(): v.lower() for name, v in listed.items()} == {
        name: value.lower() for name, value in shown.items()
    }
    assert settings_from(shown).model_dump() == settings_from({}).model_dump()


def test_smithery_starts_the_command_with_settings_as_variables() -> None:
    start = SMITHERY["startCommand"]
    (script,) = PROJECT["project"]["scripts"]
    assert start["type"] == "stdio"
    assert f'command: "{script}"' in start["commandFunction"]
    assert f"{PREFIX}${{name.toUpperCase()}}" in start["commandFunction"]
    assert set(start["exampleConfig"]) <= set(start["configSchema"]["properties"])


def test_the_registry_entry_has_the_form_of_its_schema() -> None:
    """The rules of the schema of 2025-12-11 that concern what is in it."""
    assert set(SERVER) == {
        "$schema", "name", "title", "description", "version", "packages",
    }  # fmt: skip
    assert SERVER["$schema"].endswith("/schemas/2025-12-11/server.schema.json")
    assert re.fullmatch(r"io\.github\.[a-zA-Z0-9-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert 1 <= len(SERVER["description"]) <= 100
    stdio, http = SERVER["packages"]
    for package in (stdio, http):
        assert (package["registryType"], package["identifier"]) == (
            "pypi",
            PROJECT["project"]["name"],
        )
        assert package["version"] == SERVER["version"] == mcp_hybrid_search.__version__
    assert stdio["transport"] == {"type": "stdio"}
    assert http["transport"]["type"] == "streamable-http"
    named = set(re.findall(r"{(\w+)}", http["transport"]["url"]))
    assert named == {f"{PREFIX}HOST", f"{PREFIX}PORT"}


def test_the_registry_knows_every_variable_and_which_are_secret() -> None:
    variables = SERVER["packages"][0]["environmentVariables"]
    assert [item["name"] for item in variables] == [
        PREFIX + name.upper() for name in Settings.model_fields
    ]
    assert {item["name"] for item in variables if item.get("isSecret")} == (
        secret_variables()
    )
    for item in variables:
        assert set(item) <= {
            "name", "description", "format", "default", "choices", "isSecret",
        }  # fmt: skip
        assert item.get("format", "number") in {"number", "boolean"}
        texts = [item["description"], item.get("default", ""), *item.get("choices", ())]
        assert all(isinstance(text, str) for text in texts)


def test_the_readme_proves_the_name_in_the_registry() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- mcp-name: {SERVER['name']} -->" in readme


# The distributions


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Build both from a copy with things beside them that are nobody's business."""
    copy = tmp_path_factory.mktemp("built") / "copy"
    ignored = shutil.ignore_patterns(
        ".*_cache", ".venv", ".git", "build", "dist", "node_modules"
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    junk = ("memory.sqlite3", "notes.txt", ".env", "node_modules/x.js", ".venv/x.py")
    for name in (*junk, "mcp_hybrid_search/__pycache__/x.pyc"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", "dist"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    (wheel,) = (copy / "dist").glob("*.whl")
    (source,) = (copy / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(source) as tar:
        return {
            "wheel": set(archive.namelist()),
            "sdist": {name.partition("/")[2] for name in tar.getnames()},
        }


def test_the_wheel_holds_the_package_and_nothing_else(
    built: dict[str, set[str]],
) -> None:
    package = ROOT / "mcp_hybrid_search"
    modules = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    ours = {name for name in built["wheel"] if ".dist-info/" not in name}
    assert ours == modules | {"mcp_hybrid_search/py.typed"}
    information = {name.partition("/")[2] for name in built["wheel"] - ours}
    assert information == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt",
        "licenses/LICENSE", "licenses/NOTICE",
    }  # fmt: skip


def test_the_source_distribution_holds_what_is_kept_in_git(
    built: dict[str, set[str]],
) -> None:
    tops = {name.partition("/")[0] for name in built["sdist"]}
    assert tops <= {
        "mcp_hybrid_search", "tests", "benchmarks", "docs", "examples", "bundle",
        "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md", "LICENSE",
        "NOTICE", "Makefile", "constraints.txt", "pyproject.toml", "PKG-INFO",
        "Dockerfile", ".dockerignore", "compose.yaml", "smithery.yaml", "server.json",
        ".gitignore",
    }  # fmt: skip
    assert {"mcp_hybrid_search/py.typed", "NOTICE", "tests/tools.json"} <= built[
        "sdist"
    ]
    assert not [name for name in built["sdist"] if "__pycache__" in name]
    assert not [name for name in built["sdist"] if name.startswith("benchmarks/res")]


# The bundle


def test_the_bundle_passes_on_what_the_user_fills_in() -> None:
    config, fields = MANIFEST["server"]["mcp_config"], MANIFEST["user_config"]
    assert config["env"] == {
        PREFIX + name.upper(): f"${{user_config.{name}}}" for name in fields
    }
    assert set(fields) <= set(Settings.model_fields)
    # A host puts the name itself in the place of what has no value.
    assert all("default" in field for field in fields.values())
    defaults = {PREFIX + name.upper(): str(f["default"]) for name, f in fields.items()}
    assert settings_from(defaults).model_dump() == settings_from({}).model_dump()


def test_the_bundle_names_the_tools_and_the_version() -> None:
    tools = json.loads(CONTRACT.read_text(encoding="utf-8"))
    assert [tool["name"] for tool in MANIFEST["tools"]] == [t["name"] for t in tools]
    assert all(tool["description"] for tool in MANIFEST["tools"])
    assert MANIFEST["version"] == mcp_hybrid_search.__version__


def test_the_bundle_pins_what_was_tested(tmp_path: Path) -> None:
    put_together(tmp_path)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dependencies"] == PROJECT["project"]["dependencies"]
    pinned = project["tool"]["uv"]["constraint-dependencies"]
    assert len(pinned) == len(re.findall(r"^\S+==", CONSTRAINTS, re.MULTILINE))
    assert names(project["project"]["dependencies"]) <= names(pinned)


@pytest.mark.anyio
async def test_the_bundle_starts_as_its_manifest_says(tmp_path: Path) -> None:
    """With the Python of the tests in the place of what uv would get."""
    put_together(tmp_path)
    chosen = {"data_dir": str(tmp_path / "data"), "engine_idle_seconds": "0"}
    server = parameters(tmp_path, **chosen)
    assert server.command == "uv"
    assert server.args[:3] == ["run", "--directory", str(tmp_path)]
    assert server.env is not None
    server.env.pop("PYTHONPATH", None)
    server.command, server.args = sys.executable, [str(tmp_path / server.args[3])]
    assert await used(server) == [tool["name"] for tool in MANIFEST["tools"]]
    assert (tmp_path / "data").is_dir()


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
    modules = {
        "qdrant-edge": "qdrant-edge-py",
        "pydantic-core": "pydantic",
        "jwt": "pyjwt",
    }
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
