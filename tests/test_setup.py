"""`setup` on the files of real clients: real files, and the real command."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from mcp import Client as McpClient
from mcp import StdioServerParameters

import mcp_hybrid_search
from mcp_hybrid_search.client_configs import CLIENTS, Client, ClientName, System
from mcp_hybrid_search.config_file import Change, opened, write
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    InvalidInputError,
    StoreUnavailableError,
)
from mcp_hybrid_search.server_entry import (
    added,
    known_variables,
    removed,
    server_command,
    variables,
)

COMMAND = ["/opt/bin/mcp-hybrid-search"]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """Run the real command as a user with this home directory."""
    kept = ("PATH", "PYTHONPATH", "SYSTEMROOT")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "APPDATA": str(home / "AppData/Roaming"),
        "LOCALAPPDATA": str(home / "AppData/Local"),
        "PYTHONPATH": str(Path(mcp_hybrid_search.__file__).parents[1]),
    }

    def run_(*arguments: str, **given: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "mcp_hybrid_search", "setup", *arguments],
            env={**environment, **given},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    return run_


# Where each client's file is


SUPPORT = "Library/Application Support"
PATHS = {
    "claude-desktop": (
        f"{SUPPORT}/Claude/claude_desktop_config.json",
        "AppData/Roaming/Claude/claude_desktop_config.json",
        ".config/Claude/claude_desktop_config.json",
    ),
    "claude-code": (".claude.json",) * 3,
    "cursor": (".cursor/mcp.json",) * 3,
    "vscode": (
        f"{SUPPORT}/Code/User/mcp.json",
        "AppData/Roaming/Code/User/mcp.json",
        ".config/Code/User/mcp.json",
    ),
    "windsurf": (".codeium/windsurf/mcp_config.json",) * 3,
    "zed": (
        ".config/zed/settings.json",
        "AppData/Roaming/Zed/settings.json",
        ".config/zed/settings.json",
    ),
}


def test_every_client_that_can_be_named_is_known() -> None:
    assert set(CLIENTS) == set(PATHS) == set(get_args(ClientName))


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_s_file_is_where_its_documentation_says(
    name: ClientName, home: Path
) -> None:
    systems = [System(platform, home, {}) for platform in ("darwin", "win32", "linux")]
    expected = tuple(home / path for path in PATHS[name])
    assert tuple(CLIENTS[name].file(system) for system in systems) == expected


@pytest.mark.parametrize(
    ("name", "platform", "variable", "file"),
    [
        ("claude-desktop", "win32", "APPDATA", "Claude/claude_desktop_config.json"),
        ("vscode", "win32", "APPDATA", "Code/User/mcp.json"),
        ("zed", "win32", "APPDATA", "Zed/settings.json"),
        ("vscode", "linux", "XDG_CONFIG_HOME", "Code/User/mcp.json"),
        ("zed", "linux", "XDG_CONFIG_HOME", "zed/settings.json"),
        ("claude-code", "linux", "CLAUDE_CONFIG_DIR", ".claude.json"),
    ],
)
def test_a_directory_that_was_moved_is_followed(
    name: ClientName, platform: str, variable: str, file: str, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    system = System(platform, tmp_path / "home", {variable: str(moved)})
    assert CLIENTS[name].file(system) == moved / file


def test_packaged_claude_desktop_on_windows_has_a_file_of_its_own(home: Path) -> None:
    local = home / "AppData/Local"
    system = System("win32", home, {"LOCALAPPDATA": str(local)})
    first, second = (
        local / f"Packages/Claude_{name}/LocalCache/Roaming/Claude" for name in "ab"
    )
    first.mkdir(parents=True)
    second.mkdir(parents=True)
    found = CLIENTS["claude-desktop"].file
    assert found(system) == first / "claude_desktop_config.json"
    (second / "claude_desktop_config.json").write_text("{}")
    assert found(system) == second / "claude_desktop_config.json"


# What is written


FORMS: dict[ClientName, Any] = {
    "claude-desktop": ("mcpServers", {}),
    "claude-code": ("mcpServers", {"type": "stdio"}),
    "cursor": ("mcpServers", {"type": "stdio"}),
    "vscode": ("servers", {"type": "stdio"}),
    "windsurf": ("mcpServers", {}),
    "zed": ("context_servers", {}),
}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_a_client_gets_its_own_form_beside_what_it_has(
    name: ClientName, platform: str, home: Path
) -> None:
    client = CLIENTS[name]
    key, more = FORMS[name]
    path = client.file(System(platform, home, {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    other = {"z": 1, key: {"other": {"command": "x", "disabled": True}}, "a": [1.50]}
    path.write_text(json.dumps(other, indent=4))
    entry = client.entry(COMMAND, {"HYBRID_SEARCH_COLLECTION": "notes"})

    write(added(client, path, "hybrid-search", entry), now=NOW)

    written = json.loads(path.read_text())
    assert list(written) == ["z", key, "a"]
    assert written == {
        **other,
        key: {
            "other": {"command": "x", "disabled": True},
            "hybrid-search": {
                **more,
                "command": COMMAND[0],
                "args": [],
                "env": {"HYBRID_SEARCH_COLLECTION": "notes"},
            },
        },
    }
    assert not added(client, path, "hybrid-search", entry).needed

    write(removed(client, path, "hybrid-search"), now=NOW)
    assert path.read_text() == json.dumps(other, indent=4)


def test_what_the_user_added_to_the_entry_stays(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(
        '{"servers": {"hybrid-search": {\n'
        '  "command": "/old/mcp-hybrid-search", // moved\n'
        '  "disabled": true,\n'
        '  "env": {"HYBRID_SEARCH_COLLECTION": "old", "HYBRID_SEARCH_OFFLINE": "1"}\n'
        "}}}"
    )
    client = CLIENTS["vscode"]
    known = known_variables(client, path, "hybrid-search")
    given = variables(["HYBRID_SEARCH_COLLECTION=new"], known=known)
    change = added(client, path, "hybrid-search", client.entry(COMMAND, given))
    assert change.after.decode() == (
        '{"servers": {"hybrid-search": {\n'
        '  "command": "/opt/bin/mcp-hybrid-search", // moved\n'
        '  "disabled": true,\n'
        '  "env": {"HYBRID_SEARCH_COLLECTION": "new", "HYBRID_SEARCH_OFFLINE": "1"},\n'
        '  "type": "stdio",\n'
        '  "args": []\n'
        "}}}"
    )


def test_a_file_keeps_its_mark_its_line_ends_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    before = b'\xef\xbb\xbf{\r\n  "a": 1\r\n}\r\n'
    path.write_bytes(before)
    path.chmod(0o640)
    client = CLIENTS["cursor"]
    backup = write(added(client, path, "x", client.entry(COMMAND, {})), now=NOW)
    after = path.read_bytes()
    assert after.startswith(b'\xef\xbb\xbf{\r\n  "a": 1,\r\n  "mcpServers": {\r\n')
    assert after.count(b"\n") == after.count(b"\r\n")
    assert backup is not None
    assert backup.read_bytes() == before
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert sorted(tmp_path.iterdir()) == sorted([path, backup])


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    path, client = tmp_path / "mcp.json", CLIENTS["cursor"]
    path.write_text("{}")
    kept = []
    for name in ("a", "b", "c"):
        change = added(client, path, name, client.entry(COMMAND, {}))
        kept.append(write(change, now=NOW))
    first = f"{path}.backup-20260102-030405"
    assert [str(each) for each in kept] == [first, f"{first}-2", f"{first}-3"]
    assert Path(first).read_text() == "{}"


@pytest.mark.skipif(os.name != "posix", reason="links need a right on Windows")
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "dotfiles.json", tmp_path / "mcp.json"
    target.write_text("{}")
    link.symlink_to(target)
    client = CLIENTS["cursor"]
    write(added(client, link, "x", client.entry(COMMAND, {})), now=NOW)
    assert link.is_symlink()
    assert "mcpServers" in json.loads(target.read_text())


def test_a_file_that_was_changed_meanwhile_is_not_written(tmp_path: Path) -> None:
    path, client = tmp_path / "mcp.json", CLIENTS["cursor"]
    path.write_text("{}")
    change = added(client, path, "x", client.entry(COMMAND, {}))
    path.write_text('{"new": 1}')
    with pytest.raises(ConflictError, match="changed meanwhile"):
        write(change, now=NOW)
    assert path.read_text() == '{"new": 1}'


@pytest.mark.skipif(os.name != "posix", reason="a directory in the file's place")
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    client = CLIENTS["cursor"]
    entry = client.entry(COMMAND, {})
    with pytest.raises(StoreUnavailableError, match=r"mcp.json cannot be read: Not"):
        added(client, tmp_path / "file" / "mcp.json", "x", entry)
    change = added(client, tmp_path / "new" / "mcp.json", "x", entry)
    (tmp_path / "new").write_text("")
    with pytest.raises(StoreUnavailableError, match=r"mcp.json cannot be written: "):
        write(change, now=NOW)


def _set_up(client: Client, path: Path) -> Change:
    known = known_variables(client, path, "x")
    return added(client, path, "x", client.entry(COMMAND, variables([], known=known)))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b'{\n"a": 1\n"b"}', InvalidInputError, "is not valid JSON: line 3, column 1"),
        (b"// no comments here\n{}", InvalidInputError, "line 1, column 1"),
        (b'{"a": "\xff"}', InvalidInputError, "is not UTF-8 at byte 7"),
        (b'{"mcpServers": []}', ConflictError, '"mcpServers", but not as an object'),
        (b'{"mcpServers": {"x": 1}}', ConflictError, 'holds "x", but not as an object'),
        (
            b'{"mcpServers": {"x": {"url": "https://example.com"}}}',
            ConflictError,
            'a remote server named "x". Choose another --name',
        ),
    ],
)
def test_a_file_that_cannot_be_edited_is_named_and_left_alone(
    text: bytes, error: type[HybridSearchError], message: str, tmp_path: Path
) -> None:
    path, client = tmp_path / "mcp.json", CLIENTS["cursor"]
    path.write_bytes(text)
    with pytest.raises(error) as caught:
        _set_up(client, path)
    assert str(caught.value).startswith(f"{path.resolve()} ")
    assert message in str(caught.value)
    assert path.read_bytes() == text


def test_keys_and_tokens_are_not_shown(tmp_path: Path) -> None:
    path, client = tmp_path / "mcp.json", CLIENTS["cursor"]
    path.write_text('{"mcpServers": {"o": {"env": {"API_KEY": "sesame-1"}}}}')
    given = ["HYBRID_SEARCH_TOKEN=sesame-2", "HYBRID_SEARCH_CHUNK_TOKENS=64"]
    entry = client.entry(COMMAND, variables(given))
    change = added(client, path, "x", entry)
    assert b"sesame-1" in change.after
    assert b"sesame-2" in change.after
    assert "sesame" not in change.diff()
    assert '"HYBRID_SEARCH_CHUNK_TOKENS": "64"' in change.diff()


# Variables


def test_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["HYBRID_SEARCH_DATA_DIR=data", "HYBRID_SEARCH_OFFLINE=yes"]
    assert variables(given) == {
        "HYBRID_SEARCH_DATA_DIR": str(tmp_path / "data"),
        "HYBRID_SEARCH_OFFLINE": "yes",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("HYBRID_SEARCH_COLECTION=x", "Did you mean HYBRID_SEARCH_COLLECTION?"),
        ("HYBRID_SERCH_COLLECTION=x", "Did you mean HYBRID_SEARCH_COLLECTION?"),
        ("DATA_DIR=x", "Did you mean HYBRID_SEARCH_DATA_DIR?"),
        ("hybrid_search_data_dir=x", "Did you mean HYBRID_SEARCH_DATA_DIR?"),
        ("HYBRID_SEARCH_COLLECTION", "--env HYBRID_SEARCH_COLLECTION=VALUE"),
        ("HYBRID_SEARCH_CHUNK_TOKENS=1", "HYBRID_SEARCH_CHUNK_TOKENS: Input should"),
        ("HYBRID_SEARCH_DENSE_MODEL=x", "only with HYBRID_SEARCH_MODELS=custom"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused(given: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        variables([given])
    assert message in str(caught.value)


def test_a_variable_is_checked_with_those_that_are_set() -> None:
    models = [f"HYBRID_SEARCH_{name}_MODEL=x" for name in ("DENSE", "SPARSE")]
    known = {
        "HYBRID_SEARCH_MODELS": "custom",
        "HYBRID_SEARCH_COLBERT_MODEL": "x",
    }
    assert len(variables(models, known=known)) == 2


# The command that clients start


def test_the_running_script_is_the_command(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "mcp-hybrid-search"
    script.parent.mkdir()
    script.write_text("")
    other = tmp_path / "other"
    assert server_command(str(script), other, "/python") == [str(script)]
    assert server_command("/gone/__main__.py", script.parent, "/p") == [str(script)]
    python = "/home/me/.cache/pypoetry/virtualenvs/x/bin/python"
    assert server_command("pytest", other, python) == [
        python, "-m", "mcp_hybrid_search",
    ]  # fmt: skip


def test_a_launcher_on_windows_is_found_by_its_real_name(tmp_path: Path) -> None:
    script = tmp_path / "mcp-hybrid-search.exe"
    script.write_text("")
    started_as = str(script.with_suffix(""))
    assert server_command(started_as, tmp_path, "/python") == [str(script)]
    assert server_command(str(script), tmp_path, "/python") == [str(script)]


@pytest.mark.skipif(os.name != "posix", reason="links need a right on Windows")
def test_the_link_of_pipx_or_uv_is_the_command(tmp_path: Path) -> None:
    script = tmp_path / "venv" / "mcp-hybrid-search"
    script.parent.mkdir()
    script.write_text("")
    link = tmp_path / "mcp-hybrid-search"
    link.symlink_to(script)
    assert server_command(str(link), script.parent, "/python") == [str(link)]


@pytest.mark.parametrize(
    "python",
    [
        "/home/me/.cache/uv/archive-v0/x1/bin/python",
        "/home/me/.cache/uv/environments-v2/x1/bin/python",
        "/home/me/.local/share/pipx/.cache/d104b476edf8dde/bin/python",
        "/home/me/.cache/pipx/x1/bin/python",
    ],
)
def test_an_environment_that_does_not_last_is_refused(
    python: str, tmp_path: Path
) -> None:
    with pytest.raises(ConflictError, match="uv tool install mcp-hybrid-search"):
        server_command("mcp-hybrid-search", tmp_path, python)


# The real command


def test_setting_up_is_shown_written_and_done_once(run: Run, home: Path) -> None:
    path = home / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text('{\n  "mcpServers": {\n    "other": {"command": "x"}\n  }\n}\n')
    before = path.read_text()

    dry = run("cursor", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert '+    "hybrid-search": {' in dry.stdout
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == before

    done = run("cursor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(dry.stdout)
    assert "Restart Cursor" in done.stdout
    (backup,) = path.parent.glob("mcp.json.backup-*")
    assert str(backup) in done.stdout
    assert backup.read_text() == before

    again = run("cursor")
    assert again.stdout == f"Cursor is already set up: {path}\n"
    assert len(list(path.parent.iterdir())) == 2

    out = run("cursor", "--remove")
    assert out.returncode == 0
    assert path.read_text() == before
    assert "has no server hybrid-search" in run("cursor", "--remove").stdout


@pytest.mark.anyio
async def test_what_is_written_starts_the_server(run: Run, home: Path) -> None:
    data = home / "data"
    settings = {
        "HYBRID_SEARCH_DATA_DIR": str(data),
        "HYBRID_SEARCH_IN_PROCESS": "true",
        "HYBRID_SEARCH_MIN_FREE_BYTES": "0",
    }
    options = [f"--env={name}={value}" for name, value in settings.items()]
    result = await anyio.to_thread.run_sync(lambda: run("claude-code", *options))
    assert result.returncode == 0, result.stderr
    entry = json.loads((home / ".claude.json").read_text())["mcpServers"]
    (server,) = entry.values()
    assert server["env"] == settings
    package = {"PYTHONPATH": str(Path(mcp_hybrid_search.__file__).parents[1])}
    parameters = StdioServerParameters(
        command=server["command"], args=server["args"], env=server["env"] | package
    )
    async with McpClient(parameters) as client:
        await client.call_tool("store-document", {"text": "A kettle.", "id": "k"})
        found = await client.call_tool("hybrid-search", {"query": "kettle"})
    assert found.structured_content is not None
    assert [hit["document_id"] for hit in found.structured_content["hits"]] == ["k"]
    assert data.is_dir()


def test_a_project_has_a_file_of_its_own(run: Run, tmp_path: Path) -> None:
    assert run("vscode", "--project", "--name", "notes").returncode == 0
    written = json.loads((tmp_path / ".vscode/mcp.json").read_text())
    assert list(written["servers"]) == ["notes"]
    refused = run("windsurf", "--project")
    assert refused.returncode == 1
    assert "Windsurf reads no file of a project" in refused.stderr


def test_what_cannot_be_edited_is_printed_to_be_pasted(run: Run, home: Path) -> None:
    path = home / ".claude.json"
    path.write_text('{"a": 1\n')
    result = run("claude-code", "--env", "HYBRID_SEARCH_COLLECTION=notes")
    assert result.returncode == 1
    assert "is not valid JSON: line 2, column 1" in result.stderr
    assert "Nothing was changed" in result.stderr
    (entry,) = json.loads(result.stdout)["mcpServers"].values()
    assert entry["env"] == {"HYBRID_SEARCH_COLLECTION": "notes"}
    assert list(home.iterdir()) == [path]
    assert path.read_text() == '{"a": 1\n'


@pytest.mark.parametrize("name", CLIENTS)
def test_the_snippet_is_what_is_written_into_an_empty_file(
    name: ClientName, run: Run, home: Path
) -> None:
    option = "--env=HYBRID_SEARCH_COLLECTION=notes"
    printed = run(name, "--print", option)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert not list(home.iterdir())
    run(name, option)
    path = CLIENTS[name].file(
        System(sys.platform, home, {"APPDATA": str(home / "AppData/Roaming")})
    )
    assert path.read_text() == printed.stdout


def test_a_variable_that_the_client_will_not_see_is_named(run: Run) -> None:
    result = run("zed", HYBRID_SEARCH_COLLECTION="notes", HYBRID_SEARCH_OFFLINE="1")
    assert "Zed will not see HYBRID_SEARCH_COLLECTION" in result.stderr
    assert "Is the client installed?" in result.stderr
    passed = run("zed", "--env=HYBRID_SEARCH_OFFLINE=1", HYBRID_SEARCH_OFFLINE="1")
    assert "will not see" not in passed.stderr


def test_opening_a_file_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "none.json") as file:
        assert (file.before, file.text, file.needed) == (None, "", False)
    change = removed(CLIENTS["cursor"], tmp_path / "none.json", "x")
    assert not change.needed


# The documentation


DOCUMENT = (Path(__file__).parents[1] / "docs" / "clients.md").read_text("utf-8")


def test_the_document_shows_what_each_client_gets() -> None:
    shown = re.findall(
        r"<!-- setup (\S+) -->\n```json\n(.+?)\n```", DOCUMENT, re.DOTALL
    )
    command = ["/absolute/path/to/mcp-hybrid-search"]
    assert dict(shown) == {
        name: client.snippet("hybrid-search", client.entry(command, {}))
        for name, client in CLIENTS.items()
    }


@pytest.mark.parametrize("name", CLIENTS)
def test_the_document_names_the_file_of_each_client(name: ClientName) -> None:
    (section,) = re.findall(
        rf"^### {CLIENTS[name].title}\n(.+?)(?=^### |\Z)",
        DOCUMENT,
        re.MULTILINE | re.DOTALL,
    )
    for path in PATHS[name]:
        shown = f"`~/{path}`"
        if path.startswith("AppData/Roaming/"):
            shown = path.replace("AppData/Roaming", "`%APPDATA%").replace("/", "\\")
        assert shown in section
    project_file = CLIENTS[name].project_file
    assert ("of a project" in section) == (project_file is not None)
    assert project_file is None or f"`{project_file}`" in section


def test_every_option_that_the_document_names_exists(run: Run) -> None:
    shown = run("--help").stdout
    for option in set(re.findall(r"`(--[a-z-]+)", DOCUMENT)):
        assert option in shown
