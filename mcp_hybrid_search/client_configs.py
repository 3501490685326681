"""Where each client keeps its MCP servers, and how it writes one.

The paths and forms are those of the clients' own documentation; docs/clients.md
names the pages.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ClientName = Literal[
    "claude-desktop", "claude-code", "cursor", "vscode", "windsurf", "zed"
]


@dataclass(frozen=True, slots=True)
class System:
    """What the place of a configuration depends on."""

    platform: str
    """As `sys.platform`: darwin, win32; anything else is taken as Linux."""
    home: Path
    environment: Mapping[str, str]

    def application_data(self, *, macos: str = "Library/Application Support") -> Path:
        """Return where applications keep what belongs to this user."""
        if self.platform == "darwin":
            return self.home / macos
        if self.platform == "win32":
            return self._named("APPDATA", "AppData/Roaming")
        return self._named("XDG_CONFIG_HOME", ".config")

    def packages(self) -> Path:
        """Return where Windows keeps the files of packaged applications."""
        return self._named("LOCALAPPDATA", "AppData/Local") / "Packages"

    def _named(self, variable: str, default: str) -> Path:
        return Path(self.environment.get(variable) or self.home / default)


@dataclass(frozen=True, slots=True)
class Client:
    """A program that starts MCP servers."""

    title: str
    key: str
    """Of the object that holds the servers."""
    file: Callable[[System], Path]
    """Where this user's configuration is."""
    next_step: str
    project_file: str | None = None
    """In a project's directory, where the client reads such a file."""
    comments: bool = False
    """Whether the file may hold comments and trailing commas."""
    typed: bool = False
    """Whether an entry says that it is a stdio server."""

    def entry(self, command: list[str], environment: Mapping[str, str]) -> Any:
        """Return the server's entry in this client's form."""
        entry: dict[str, Any] = {"type": "stdio"} if self.typed else {}
        entry |= {"command": command[0], "args": command[1:]}
        return entry | ({"env": dict(environment)} if environment else {})

    def snippet(self, name: str, entry: Any) -> str:
        """Return what to paste into a configuration that is still empty."""
        return json.dumps({self.key: {name: entry}}, indent=2, ensure_ascii=False)


def _claude_desktop(system: System) -> Path:
    file = "claude_desktop_config.json"
    if system.platform == "win32":
        # The packaged application reads its own copy of the directory.
        found = sorted(system.packages().glob("Claude_*/LocalCache/Roaming/Claude"))
        used = [path for path in found if (path / file).exists()]
        if found:
            return (used or found)[0] / file
    return system.application_data() / "Claude" / file


def _claude_code(system: System) -> Path:
    directory = system.environment.get("CLAUDE_CONFIG_DIR")
    return Path(directory or system.home).expanduser() / ".claude.json"


def _cursor(system: System) -> Path:
    return system.home / ".cursor" / "mcp.json"


def _vscode(system: System) -> Path:
    return system.application_data() / "Code" / "User" / "mcp.json"


def _windsurf(system: System) -> Path:
    return system.home / ".codeium" / "windsurf" / "mcp_config.json"


def _zed(system: System) -> Path:
    directory = "Zed" if system.platform == "win32" else "zed"
    return system.application_data(macos=".config") / directory / "settings.json"


CLIENTS: dict[ClientName, Client] = {
    "claude-desktop": Client(
        title="Claude Desktop",
        key="mcpServers",
        file=_claude_desktop,
        next_step="Quit Claude Desktop and start it again.",
    ),
    "claude-code": Client(
        title="Claude Code",
        key="mcpServers",
        file=_claude_code,
        next_step="Start Claude Code again; /mcp shows the server.",
        project_file=".mcp.json",
        typed=True,
    ),
    "cursor": Client(
        title="Cursor",
        key="mcpServers",
        file=_cursor,
        next_step="Restart Cursor and switch the server on in its MCP settings.",
        project_file=".cursor/mcp.json",
        typed=True,
    ),
    "vscode": Client(
        title="VS Code",
        key="servers",
        file=_vscode,
        next_step='Run "MCP: List Servers" in VS Code and start the server.',
        project_file=".vscode/mcp.json",
        comments=True,
        typed=True,
    ),
    "windsurf": Client(
        title="Windsurf",
        key="mcpServers",
        file=_windsurf,
        next_step="Press Refresh in the MCP settings of Windsurf, or restart it.",
    ),
    "zed": Client(
        title="Zed",
        key="context_servers",
        file=_zed,
        next_step="Zed starts the server at once; its Agent settings show it.",
        comments=True,
    ),
}
