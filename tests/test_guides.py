"""What AGENTS.md and the skill tell assistants is true of the tools."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_hybrid_search.filters import parse_filter
from mcp_hybrid_search.settings import PREFIX, Settings
from tests.contract import CONTRACT

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "AGENTS.md", ROOT / "docs" / "skill" / "SKILL.md"]
TOOLS: list[dict[str, Any]] = json.loads(CONTRACT.read_text(encoding="utf-8"))
NAMES = {tool["name"] for tool in TOOLS}

WORDS = {"true", "false", "null", "topic", "project", "kind", "mcp-hybrid-search"}
"""Values, and keys of a user's own."""


def told(schema: Any) -> set[str]:
    """Return the names and values that a schema offers, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(told, schema))
    if not isinstance(schema, dict):
        return set()
    found = {*schema.get("properties", ()), *schema.get("enum", ())}
    if "const" in schema:
        found.add(schema["const"])
    return found.union(*map(told, schema.values()))


KNOWN = {
    tool["name"]: told(tool["inputSchema"]) | told(tool["outputSchema"])
    for tool in TOOLS
}


def spoken(path: Path) -> str:
    """Return a guide's text, without blocks of code."""
    return re.sub(r"(?s)```.*?```", "", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_a_guide_names_every_tool(path: Path) -> None:
    named = set(re.findall(r"`([a-z]+-[a-z-]+)`", spoken(path)))
    assert not NAMES - named
    assert named - NAMES <= {"not-found", "mcp-hybrid-search"}


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_every_word_in_code_is_of_a_tool(path: Path) -> None:
    known = NAMES | WORDS | set().union(*KNOWN.values())
    words = set(re.findall(r"`([a-z_-]+)`", spoken(path)))
    assert words
    assert words <= known


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_every_setting_and_command_that_is_named_exists(path: Path) -> None:
    from mcp_hybrid_search.commands import app  # noqa: PLC0415 - slow to import

    text = path.read_text(encoding="utf-8")
    variables = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", text)) <= variables
    commands = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback is not None
    }
    assert set(re.findall(r"`mcp-hybrid-search ([a-z]+)", text)) <= commands


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        (
            "hybrid-search",
            "query filter limit per_document max_tokens collection namespace",
        ),
        (
            "hybrid-search",
            "score document_id chunk_index content_flags source updated_at text",
        ),
        ("get-document", "id first_chunk chunk_limit"),
        (
            "store-document",
            "title source metadata id if_exists replace skip error",
        ),
        ("store-documents", "failed error"),
        ("list-documents", "order_by limit cursor"),
        ("update-metadata", "id metadata"),
        ("delete-document", "id not-found"),
        ("delete-documents", "filter dry_run confirm_count"),
    ],
)
def test_what_is_said_of_a_tool_is_its_own(tool: str, words: str) -> None:
    assert set(words.split()) <= KNOWN[tool]
    agents = spoken(GUIDES[0])
    assert all(f"`{word}`" in agents for word in words.split())


def test_the_example_of_a_filter_is_one() -> None:
    (block,) = re.findall(r"(?s)```json\n(.+?)```", GUIDES[0].read_text("utf-8"))
    assert parse_filter(json.loads(block)) is not None


def test_the_skill_has_the_head_that_assistants_read() -> None:
    """The form of https://agentskills.io/specification."""
    text = GUIDES[1].read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    fields = yaml.safe_load(head)
    assert set(fields) == {"name", "description"}
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fields["name"])
    assert len(fields["name"]) <= 64
    assert 1 <= len(fields["description"]) <= 1024
    assert body.strip()
