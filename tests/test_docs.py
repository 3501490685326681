"""The documents keep up with the code."""

import json
import re
from pathlib import Path

import pytest

from mcp_hybrid_search.settings import PREFIX, Settings
from tests.contract import CONTRACT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_readme_lists_every_setting_with_its_default_and_no_other() -> None:
    rows = dict(re.findall(rf"^\| `({PREFIX}\w+)` \| (.+?) \|", README, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "not set" if default in {None, ""} else f"`{default!s}`"
        if isinstance(default, bool):
            shown = f"`{str(default).lower()}`"
        expected[PREFIX + name.upper()] = shown
    expected[f"{PREFIX}DATA_DIR"] = "per user"
    assert rows == expected


def test_the_readme_lists_every_tool_and_no_other() -> None:
    tools = {tool["name"] for tool in json.loads(CONTRACT.read_text(encoding="utf-8"))}
    section = README.partition("## Tools")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == tools


def test_the_page_on_tools_names_every_argument_and_no_other() -> None:
    page = (ROOT / "docs" / "tools.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| ", page, re.MULTILINE)
    named = {name: set(re.findall(r"`([a-z_]+)`", row)) for name, row in rows}
    contract = json.loads(CONTRACT.read_text(encoding="utf-8"))
    for tool in contract:
        schema = tool["inputSchema"]
        assert named[tool["name"]] == set(schema["properties"]), tool["name"]
        bold = set(re.findall(r"\*\*`([a-z_]+)`", dict(rows)[tool["name"]]))
        assert bold == set(schema.get("required", [])), tool["name"]


def test_the_readme_lists_every_command() -> None:
    from mcp_hybrid_search.commands import app  # noqa: PLC0415 - slow to import

    section = README.partition("## Commands")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `mcp-hybrid-search (\w+)", section, re.MULTILINE))
    defined = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None
    }
    defined |= {str(group.name) for group in app.registered_groups}
    assert listed == {name.replace("_", "-") for name in defined}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_the_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_the_client_configurations_are_json() -> None:
    blocks = re.findall(r"```json\n(.+?)```", README, re.DOTALL)
    assert [list(json.loads(block)) for block in blocks] == [
        ["mcpServers"],
        ["servers"],
    ]


@pytest.mark.parametrize("target", ["demo", "test", "bench-quality", "crash"])
def test_the_make_targets_that_are_named_exist(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
