"""Write again what registries read, from the settings and tools.

`python -m tests.packages` writes the generated files; with `--bundle DIRECTORY` it
puts together what the bundle holds.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import mcp_hybrid_search
from mcp_hybrid_search.settings import PREFIX, Settings
from tests.contract import CONTRACT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
KEYS = (
    "type", "description", "default", "enum", "pattern", "minimum", "maximum",
    "writeOnly",
)  # fmt: skip
TITLE = "Hybrid Search"
PYTHONS = ">=3.10,<3.14"
"""What the dependencies have wheels for; uv would take the newest otherwise."""
BUNDLE_SETTINGS = (
    "data_dir",
    "collection",
    "namespace",
    "read_only",
    "engine_idle_seconds",
    "log_level",
)
"""What a person changes who runs one server for one assistant."""


def setting(name: str) -> dict[str, Any]:
    """Return a setting's schema without its title and its null."""
    schema: dict[str, Any] = Settings.model_json_schema()["properties"][name]
    (value, *_) = schema.get("anyOf", [{}])
    merged = {**schema, **value}
    return {key: merged[key] for key in KEYS if merged.get(key) not in (None, "")}


def variable(name: str) -> str:
    return PREFIX + name.upper()


def shown(value: Any) -> str:
    """Return a default as the text of a variable."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def registry_name() -> str:
    """Return the name in the MCP registry; it follows the repository."""
    urls = PROJECT["project"].get("urls", {})
    found = re.match(r"https://github\.com/([^/]+)/", urls.get("Repository", ""))
    return f"io.github.{found[1] if found else 'mcp-hybrid-search'}/mcp-hybrid-search"


class _Literal(str):
    """A text that YAML shows line by line."""

    __slots__ = ()


yaml.add_representer(
    _Literal,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", str(text), style="|"
    ),
    Dumper=yaml.SafeDumper,
)

COMMAND_FUNCTION = """\
(config) => {
  const env = {};
  for (const [name, value] of Object.entries(config)) {
    if (value !== undefined && value !== null) {
      env[`HYBRID_SEARCH_${name.toUpperCase()}`] = String(value);
    }
  }
  return { command: "mcp-hybrid-search", args: [], env };
}"""


def smithery() -> str:
    """Return smithery.yaml: every setting as a property."""
    start = {
        "type": "stdio",
        "configSchema": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: setting(name) for name in Settings.model_fields},
        },
        "commandFunction": _Literal(COMMAND_FUNCTION),
        "exampleConfig": {"collection": "notes"},
    }
    text = yaml.dump(
        {"startCommand": start}, Dumper=yaml.SafeDumper, sort_keys=False, width=88
    )
    return f"# Written by `python -m tests.packages`.\n{text}"


FORMATS = {"integer": "number", "boolean": "boolean"}


def environment_variable(name: str) -> dict[str, Any]:
    """Return a setting as the MCP registry describes a variable."""
    schema = setting(name)
    found = {"name": variable(name), "description": schema["description"]}
    if schema["type"] in FORMATS:
        found["format"] = FORMATS[schema["type"]]
    if "default" in schema:
        found["default"] = shown(schema["default"])
    if "enum" in schema:
        found["choices"] = schema["enum"]
    if schema.get("writeOnly"):
        found["isSecret"] = True
    return found


def server_json() -> str:
    """Return server.json: the package, on stdio and over HTTP."""
    project = PROJECT["project"]
    package = {
        "registryType": "pypi",
        "identifier": project["name"],
        "version": project["version"],
        "runtimeHint": "uvx",
    }
    variables = [environment_variable(name) for name in Settings.model_fields]
    serve = [
        {"type": "positional", "value": "serve"},
        {"type": "named", "name": "--transport", "value": "streamable-http"},
    ]
    token = {
        "name": "Authorization",
        "description": f"Bearer and the token, if the server has {PREFIX}TOKEN.",
        "isSecret": True,
    }
    http = {
        "type": "streamable-http",
        "url": f"http://{{{PREFIX}HOST}}:{{{PREFIX}PORT}}/mcp",
        "headers": [token],
    }
    server = {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": registry_name(),
        "title": TITLE,
        "description": project["description"],
        "version": project["version"],
        "packages": [
            {
                **package,
                "transport": {"type": "stdio"},
                "environmentVariables": variables,
            },
            {
                **package,
                "packageArguments": serve,
                "transport": http,
                "environmentVariables": variables,
            },
        ],
    }
    return json.dumps(server, indent=2, ensure_ascii=False) + "\n"


KINDS = {"integer": "number", "boolean": "boolean", "string": "string"}


def user_config(name: str) -> dict[str, Any]:
    """Return a setting as a person sees it who installs the bundle.

    Each has a default: what has none is passed on as `${user_config.name}`.
    """
    schema = setting(name)
    found = {
        "type": "directory" if name.endswith("_dir") else KINDS[schema["type"]],
        "title": name.replace("_", " ").capitalize(),
        "description": schema["description"],
        "default": schema.get("default", ""),
    }
    if "enum" in schema:
        found["description"] += f" One of {', '.join(schema['enum'])}."
    bounds = {"minimum": "min", "maximum": "max"}
    found |= {short: schema[long] for long, short in bounds.items() if long in schema}
    return found | ({"sensitive": True} if schema.get("writeOnly") else {})


def manifest() -> str:
    """Return the bundle's manifest.

    A bundle of type `python` would need a Python of the user's own, and wheels of
    compiled dependencies for each system; `uv` gets both on the spot.
    """
    project = PROJECT["project"]
    tools = json.loads(CONTRACT.read_text(encoding="utf-8"))
    found = {
        "manifest_version": "0.4",
        "name": project["name"],
        "display_name": TITLE,
        "version": project["version"],
        "description": project["description"],
        "author": {"name": "The mcp-hybrid-search authors"},
        "server": {
            "type": "uv",
            "entry_point": "server.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "server.py"],
                "env": {
                    variable(name): f"${{user_config.{name}}}"
                    for name in BUNDLE_SETTINGS
                },
            },
        },
        "tools": [
            {
                "name": tool["name"],
                "description": tool["description"].partition("\n\n")[0],
            }
            for tool in tools
        ],
        "keywords": project["keywords"],
        "license": project["license"],
        "compatibility": {
            "platforms": ["darwin", "win32", "linux"],
            "runtimes": {"python": PYTHONS},
        },
        "user_config": {name: user_config(name) for name in BUNDLE_SETTINGS},
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def bundle_project() -> str:
    """Return the bundle's pyproject.toml: the dependencies, pinned as in tests."""
    project = PROJECT["project"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^(\S+==.+?) \\$", constraints, re.MULTILINE)

    def listed(name: str, items: list[str]) -> str:
        lines = "".join(f"  {json.dumps(item)},\n" for item in items)
        return f"{name} = [\n{lines}]\n"

    return (
        f'[project]\nname = "{project["name"]}-bundle"\n'
        f'version = "{project["version"]}"\nrequires-python = "{PYTHONS}"\n'
        f"{listed('dependencies', project['dependencies'])}"
        f"\n[tool.uv]\npackage = false\n{listed('constraint-dependencies', pins)}"
    )


def put_together(directory: Path) -> None:
    """Fill an empty directory with what the bundle holds."""
    shutil.copytree(
        Path(mcp_hybrid_search.__file__).parent,
        directory / "mcp_hybrid_search",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("LICENSE", "NOTICE", "bundle/manifest.json", "bundle/server.py"):
        shutil.copy(ROOT / name, directory)
    (directory / "pyproject.toml").write_text(bundle_project(), encoding="utf-8")


GENERATED: dict[str, Callable[[], str]] = {
    "smithery.yaml": smithery,
    "server.json": server_json,
    "bundle/manifest.json": manifest,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, metavar="DIRECTORY")
    directory = parser.parse_args().bundle
    if directory is None:
        for name, written in GENERATED.items():
            (ROOT / name).write_text(written(), encoding="utf-8")
    else:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        put_together(directory)


if __name__ == "__main__":
    main()
