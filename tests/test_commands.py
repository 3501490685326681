"""The command line: what goes to stdout, what to stderr, and the exit codes."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server import Server
from rich.console import Console
from typer.testing import CliRunner, Result

import mcp_hybrid_search
from mcp_hybrid_search import demo, doctor, models
from mcp_hybrid_search.adding import AddedFile
from mcp_hybrid_search.commands import app, options
from mcp_hybrid_search.demo_documents import QUESTIONS
from mcp_hybrid_search.documents import NewDocument, SearchRequest
from mcp_hybrid_search.elsewhere import elsewhere
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import HybridSearchError
from mcp_hybrid_search.results import SearchHit, StageRanks
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.tables import print_added
from mcp_hybrid_search.terminal import Bar, one_line, print_text, visible

Run = Callable[..., Result]
OpenEngine = Callable[..., Engine]

COMMANDS = [
    ["add", "file"],
    ["search", "kettle"],
    ["get", "kettle"],
    ["delete", "kettle"],
    ["collections"],
    ["audit"],
    ["reindex", "documents"],
    ["doctor"],
    ["demo"],
]
KETTLE = "The kettle stands on the stove.\n"
HOSTILE = "The cat \x1b[2J sleeps on the sofa.\u202e [bold]\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, on a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_SEARCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HYBRID_SEARCH_MIN_FREE_BYTES", "0")
    monkeypatch.setenv("HYBRID_SEARCH_IN_PROCESS", "true")
    # Wide enough that no text is broken.
    monkeypatch.setenv("COLUMNS", "200")

    def run_(*arguments: str, stdin: str = "") -> Result:
        result = CliRunner().invoke(app, arguments, input=stdin)
        if result.exception is not None and not isinstance(
            result.exception, SystemExit
        ):
            raise result.exception
        return result

    return run_


@pytest.fixture
def stored(run: Run, open_engine: OpenEngine) -> None:
    """Two documents, and the directory free again."""
    del run
    engine = open_engine()
    documents = [
        NewDocument(KETTLE, "documents", "default", "kettle", "Kettle", "a note"),
        NewDocument(HOSTILE, "documents", "default", "cat", None, None, {"pets": 1}),
    ]
    anyio.run(engine.store_many, documents)
    engine.close()


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mcp_hybrid_search", *arguments],
        env={**os.environ, **environment},
        cwd=Path(mcp_hybrid_search.__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


# Adding


def test_adding_tells_what_became_of_each_file(run: Run) -> None:
    Path("kettle.txt").write_text(KETTLE)
    Path("binary").write_bytes(b"\0")
    result = run("add", "kettle.txt", "binary", "missing")
    assert result.exit_code == 1
    assert "kettle.txt   created" in result.stdout
    assert "1 of 3 files are stored; 2 failed." in result.stdout
    assert "binary: holds NUL bytes" in result.stderr
    assert "missing: cannot be read: No such file" in result.stderr


def test_adding_as_json_prints_one_document(run: Run) -> None:
    Path("binary").write_bytes(b"\0")
    result = run("add", "-", "binary", "--json", stdin="# Kettle\n\nIt is hot.\n")
    told = json.loads(result.stdout)
    assert result.exit_code == told["failed"] == 1
    piped, binary = told["files"]
    assert piped["file"] == "-"
    assert [d["status"] for d in piped["documents"]] == ["created"]
    assert binary["documents"] == []
    assert "NUL" in binary["error"]


def test_splitting_and_what_it_deletes_are_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_SEARCH_MAX_TEXT_BYTES", "1000")
    Path("long.txt").write_text("A paragraph of a few words.\n\n" * 50)
    assert "long.txt was split into 2 documents." in run("add", "long.txt").stdout
    Path("long.txt").write_text(KETTLE)
    result = run("add", "long.txt", "--namespace", "default")
    assert "long.txt#2 was deleted: it was of an older version." in result.stdout


def test_a_notice_about_a_document_goes_to_stderr(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_SEARCH_CHUNK_TOKENS", "32")
    Path("long.md").write_text(f"# {'wide ' * 40}\n\n{KETTLE}")
    result = run("add", "long.md", "--collection", "other")
    assert result.exit_code == 0
    assert "The title is long" in result.stderr


# Searching and reading


@pytest.mark.usefixtures("stored")
def test_searching_as_json_prints_what_the_tool_returns(run: Run) -> None:
    filter_ = '{"not": {"pets": {"gte": 1}}}'
    result = run("search", "Where is the kettle?", "--json", "--filter", filter_)
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert sorted(told) == ["hits", "notices", "searched_collection", "took_ms"]
    (hit,) = told["hits"]
    assert (hit["document_id"], hit["text"]) == ("kettle", KETTLE)
    assert hit["ranks"] == {"dense": 1, "bm25": 1, "colbert": 1}
    assert hit["explanation"] is None


@pytest.mark.usefixtures("stored")
def test_searching_prints_ranks_and_texts_that_a_terminal_can_take(run: Run) -> None:
    result = run("search", "Where does the cat sleep?", "--explain")
    first = next(line for line in result.stdout.splitlines() if "cat" in line)
    assert first.split()[:5] == ["1", "cat", "1", "1", "1"]
    assert "The cat \ufffd[2J sleeps on the sofa.\ufffd [bold]" in first
    assert "\x1b" not in result.stdout
    assert "1. cat: dense 0." in result.stdout
    assert any(line.split()[:2] == ["sleep", "sleeps"] for line in _lines(result))


def _lines(result: Result) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.strip()]


def test_notices_go_to_stderr(run: Run) -> None:
    result = run("search", "kettle")
    assert result.exit_code == 0
    assert result.stdout == "No hits in 'documents'.\n"
    assert result.stderr.startswith("Note: Nothing is stored yet")


@pytest.mark.usefixtures("stored")
def test_reading_prints_the_text_exactly(run: Run) -> None:
    assert run("get", "cat").stdout_bytes == HOSTILE.encode()
    assert json.loads(run("get", "cat", "--json").stdout)["metadata"] == {"pets": 1}


@pytest.mark.usefixtures("stored")
def test_deleting_tells_whether_there_was_anything(run: Run) -> None:
    first, again = run("delete", "cat"), run("delete", "cat", "--json")
    assert (first.exit_code, first.stdout) == (0, "deleted: cat\n")
    assert again.exit_code == 1
    assert json.loads(again.stdout) == {"id": "cat", "status": "not-found"}


def test_the_audit_lists_what_commands_changed_newest_first(run: Run) -> None:
    assert run("audit").stdout == "Nothing was changed yet.\n"
    Path("kettle.txt").write_text(KETTLE)
    run("add", "kettle.txt", "--namespace", "home")
    run("add", "kettle.txt")
    run("reindex", "documents")
    run("delete", "kettle.txt")

    changes = json.loads(run("audit", "--json").stdout)["changes"]

    assert [(c["action"], c["namespace"], c["tool"]) for c in changes] == [
        ("deleted", "default", "command delete"),
        ("reindexed", "", "command reindex"),
        ("created", "default", "command add"),
        ("created", "home", "command add"),
    ]
    assert {c["client"] for c in changes} == {"command line"}
    _, _, row, *rest = _lines(run("audit", "--namespace", "home", "--limit", "5"))
    told = ["created", "documents", "home", "kettle.txt", "command", "line"]
    assert row.split()[2:8] == told
    assert rest == []


@pytest.mark.usefixtures("stored")
def test_collections_are_listed_with_their_sizes(run: Run) -> None:
    (_, _, row, *_) = _lines(run("collections"))
    assert row.split()[:3] == ["documents", "2", "2"]
    (told,) = json.loads(run("collections", "--json").stdout)["collections"]
    assert (told["name"], told["documents"]) == ("documents", 2)


@pytest.mark.usefixtures("stored")
def test_reindexing_makes_a_collection_fit_other_settings(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_SEARCH_CHUNK_TOKENS", "32")
    refused = run("search", "kettle")
    assert refused.exit_code == 1
    assert "mcp-hybrid-search reindex documents" in refused.stderr
    result = run("reindex", "documents", "--json")
    assert json.loads(result.stdout) == {"collection": "documents", "documents": 2}
    assert "kettle" in run("search", "kettle").stdout
    assert "2 documents" in run("reindex", "documents").stdout


# Mistakes


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_mistyped_setting_is_refused_by_every_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    monkeypatch.setenv("HYBRID_SEARCH_DATADIR", "/somewhere")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Did you mean HYBRID_SEARCH_DATA_DIR?" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["search"],
        ["search", "x", "--limit", "0"],
        ["search", "x", "--limit", "101"],
        ["search", "x", "--filter", "{"],
        ["search", "x", "--filter", "[1]"],
        ["add"],
        ["serch", "x"],
        ["--nothing"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: Sequence[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


@pytest.mark.usefixtures("stored")
def test_a_foreseen_failure_is_one_line(run: Run) -> None:
    result = run("get", "nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("mcp-hybrid-search: There is no document 'nothing'")


def test_every_command_has_a_help_text(run: Run) -> None:
    told = run("--help").stdout
    for name, *_ in COMMANDS:
        assert f"\n  {name} " in told
        assert "Usage:" in run(name, "--help").stdout


def test_the_version_is_printed(run: Run) -> None:
    expected = f"mcp-hybrid-search {mcp_hybrid_search.__version__}\n"
    assert run("--version").stdout == expected


# Doctor


def check_of(result: Result, name: str) -> dict[str, Any]:
    checks = json.loads(result.stdout)["checks"]
    found: dict[str, Any] = next(check for check in checks if check["name"] == name)
    return found


def test_doctor_finds_nothing_wrong_and_leaves_nothing(
    run: Run, tmp_path: Path
) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ok"]
    assert check_of(result, "qdrant-edge-py")["detail"].startswith("0.9")
    assert "4 files" in check_of(result, "model BAAI/bge-small-en-v1.5")["detail"]
    assert not (tmp_path / "data").exists()


def test_doctor_says_what_to_do_about_what_is_wrong(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    monkeypatch.setenv("HYBRID_SEARCH_MIN_FREE_BYTES", str(10**18))
    result = run("doctor")
    assert result.exit_code == 1
    if os.name == "posix":
        assert f"permissions: chmod 700 {tmp_path / 'data'}" in result.stdout
    assert "free space: Free space, or lower" in result.stdout
    assert "store, search, delete: Do what the line says" in result.stdout
    assert "Something is wrong" in result.stdout


def test_doctor_names_who_has_the_directory(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    engine = open_engine()
    used = doctor._owner(tmp_path / "data")
    assert used.ok
    assert f"by process {os.getpid()}" in used.detail
    engine.close()
    assert doctor._owner(tmp_path / "data").detail == "no"
    assert doctor._owner(tmp_path).detail == "no"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_doctor_refuses_what_is_no_directory(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "link":
        data.symlink_to(tmp_path)
    else:
        data.write_text("")
    _, place = doctor._data_directory(load_settings(data_dir=data))
    assert not place.ok
    assert "HYBRID_SEARCH_DATA_DIR" in (place.next_step or "")


def test_doctor_names_damaged_model_files_and_the_repair(tmp_path: Path) -> None:
    directory = tmp_path / "bge_small_en"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    model_set = models.bundled(tmp_path)
    checks = list(doctor._model_files(model_set, load_settings()))
    wrong = [check for check in checks if not check.ok]
    assert len(wrong) == 8
    assert f"{directory / 'config.json'} is altered" in [c.detail for c in wrong]
    assert all(models.REPAIR in (check.next_step or "") for check in wrong)


def test_doctor_says_where_other_models_come_from(tmp_path: Path) -> None:
    tutorial = load_settings(models="tutorial", model_cache_dir=tmp_path)
    (dense, *_) = doctor._model_files(models.model_set(tutorial), tutorial)
    assert str(tmp_path) in dense.detail
    names = {
        f"{stage}_model": str(tmp_path) for stage in ("dense", "sparse", "colbert")
    }
    custom = load_settings(models="custom", **names)
    (dense, *_) = doctor._model_files(models.model_set(custom), custom)
    assert "no checksums" in dense.detail


def test_doctor_notices_a_package_that_is_missing_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not doctor._package("mcp-hybrid-search-missing").ok
    monkeypatch.setitem(sys.modules, "mcp_hybrid_search.engine", None)
    check = doctor._round_trip(load_settings(data_dir=tmp_path))
    assert doctor.INSTALL in (check.next_step or "")


def test_doctor_notices_what_it_may_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").mkdir()
    lock = doctor._owner(tmp_path)
    assert not lock.ok
    assert str(tmp_path / "lock") in (lock.next_step or "")
    tmp_path.chmod(0o700)
    assert doctor._permissions(tmp_path).ok
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "read and write" in (doctor._permissions(tmp_path).next_step or "")


class Broken:
    """An engine that finds what `found` says, first and after the deletion."""

    def __init__(self, *found: list[str]) -> None:
        self._found = iter(found)

    async def store(self, document: NewDocument) -> None:
        """Lose it."""

    async def delete(self, *place: str) -> None:
        """Do nothing."""

    async def search(self, request: SearchRequest) -> Any:
        del request
        return SimpleNamespace(
            hits=[SimpleNamespace(text=text) for text in next(self._found)]
        )


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (([], []), "stored was not found"),
        ((["The kettle stands on the stove."], ["The kettle"]), "deleted was found"),
    ],
)
def test_doctor_notices_an_engine_that_finds_the_wrong_things(
    found: tuple[list[str], list[str]], problem: str
) -> None:
    engine: Any = Broken(*found)
    with pytest.raises(HybridSearchError, match=problem):
        anyio.run(doctor._use, engine, "c", "n")


def test_a_trial_shares_only_what_was_downloaded(tmp_path: Path) -> None:
    bundled = elsewhere(load_settings(data_dir="/mine"), tmp_path)
    assert (bundled.data_dir, bundled.model_cache_dir) == (tmp_path, None)
    tutorial = elsewhere(load_settings(data_dir="/mine", models="tutorial"), tmp_path)
    assert tutorial.model_cache_dir == Path("/mine/models")


# Demo


def test_the_demo_shows_what_reranking_moves(run: Run) -> None:
    result = run("demo")
    assert result.exit_code == 0
    assert "12 documents are stored." in result.stdout
    assert all(question in result.stdout for question in QUESTIONS)
    firsts = [line for line in _lines(result) if line.split()[-2:-1] == ["1"]]
    assert len(firsts) == len(QUESTIONS)
    assert all("▲" in line for line in firsts)
    assert "▼" in result.stdout


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("MAX_DOCUMENTS_PER_CALL", "1", "documents has 12 items"),
        ("MIN_FREE_BYTES", str(10**18), "MB free"),
    ],
)
def test_the_demo_tells_what_the_server_refuses(
    run: Run, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"HYBRID_SEARCH_{setting}", value)
    result = run("demo")
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (1, "")
    assert line.count(told) == 1


def test_the_demo_tells_that_its_server_fails() -> None:
    async def told() -> str:
        async with Client(Server[None]("without tools")) as client:
            return str(await demo._shown(client))

    assert anyio.run(told).startswith("The server of the demo failed: ")


def hit(document_id: str, dense: int | None, bm25: int | None) -> SearchHit:
    return SearchHit(
        document_id=document_id,
        chunk_index=0,
        chunks_in_document=1,
        text="",
        score=0,
        ranks=StageRanks(dense=dense, bm25=bm25, colbert=1),
        created_at="",
        updated_at="",
    )


def test_the_rank_before_reranking_is_by_reciprocal_ranks_of_two() -> None:
    """By hand: c 1/61 + 1/62, a 1/61 + 1/63, b 1/62, d not found by either."""
    hits = [hit("a", 1, 3), hit("b", 3, None), hit("c", 2, 1), hit("d", None, None)]
    hits.append(hit("e", 4, 2))
    before = demo.ranks_before_reranking(hits)
    assert before == {"c": 1, "a": 2, "e": 3, "b": 4}


@pytest.mark.parametrize(
    ("before", "after", "told"), [(3, 1, "▲2"), (1, 2, "▼1"), (4, 4, "=")]
)
def test_a_change_of_rank_is_told(before: int, after: int, told: str) -> None:
    assert demo.change(before, after) == told


# The terminal


@pytest.mark.parametrize(
    ("terminal", "after_seconds", "shown"),
    [(True, 0, True), (True, 3600, False), (False, 0, False)],
)
def test_a_bar_is_shown_on_a_terminal_if_it_takes_long(
    *, terminal: bool, after_seconds: float, shown: bool
) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal)
    bar = Bar("Storing", console=console, after_seconds=after_seconds)
    anyio.run(bar.advance, 1, 2)
    bar.close()
    assert ("Storing" in output.getvalue()) is shown
    assert ("50 %" in output.getvalue()) is shown


def test_text_is_made_fit_for_a_terminal() -> None:
    assert visible("a\x1b[1m\u202e\u200b\r\x9b é😀\n\t") == "a�[1m���� é😀\n\t"
    assert one_line("  a\n\n b  ", characters=10) == "a b"
    assert one_line("word " * 10, characters=10) == "word word…"


def test_text_is_printed_exactly_for_a_program_and_safely_for_a_terminal(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    print_text("a\x1b\r\n", terminal=False)
    assert capfdbinary.readouterr().out == b"a\x1b\r\n"
    print_text("a\x1b", terminal=True)
    assert capfdbinary.readouterr().out == "a\ufffd\n".encode()


def test_nothing_stored_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_added([AddedFile(file="x", error="is empty.")], 1)
    assert capsys.readouterr().out == "0 of 1 files are stored; 1 failed.\n"


def test_any_object_can_be_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    options()


# The real command


def test_another_process_is_told_who_has_the_directory(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    open_engine()
    result = command("collections", HYBRID_SEARCH_DATA_DIR=str(tmp_path / "data"))
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert f"in use by process {os.getpid()}" in line


@pytest.mark.usefixtures("stored")
def test_a_poor_locale_stops_nothing(tmp_path: Path) -> None:
    result = command(
        "search",
        "cat",
        HYBRID_SEARCH_DATA_DIR=str(tmp_path / "data"),
        PYTHONIOENCODING="ascii",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "The cat ?[2J sleeps" in " ".join(result.stdout.split())
