"""Files into texts, ids, titles and parts."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_hybrid_search.documents import derived_id
from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.files import first_heading, parts, read


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(name: str) -> str:
    with pytest.raises(InvalidInputError) as caught:
        read(name, namespace="default")
    return str(caught.value)


def test_a_file_is_named_by_its_path_and_located_by_its_source(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    Path("notes/a b.txt").write_text("Hello.\n")
    file = read("./notes/../notes//a b.txt", namespace="default")
    assert file.document_id == "notes/a b.txt"
    assert file.title == "a b.txt"
    assert file.source is not None
    assert file.source.startswith("file:///")
    assert file.source.endswith("a%20b.txt")
    assert file.text == "Hello.\n"


@pytest.mark.parametrize(
    ("name", "title"),
    [("a.md", "Real title"), ("a.py", "a.py"), ("a.MD", "Real title")],
)
def test_only_markdown_files_are_titled_by_their_heading(name: str, title: str) -> None:
    Path(name).write_text("text\n# Real title\n")
    assert read(name, namespace="default").title == title


def test_a_text_is_read_as_it_is_but_for_the_byte_order_mark() -> None:
    Path("a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n \u202e\ufeff".encode())
    file = read("a.txt", namespace="default")
    assert file.text == "one\r\ntwo\rthree\n \u202e\ufeff"


def test_standard_input_is_named_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"# From a pipe\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    file = read("-", namespace="team")
    assert file.document_id == derived_id("team", "# From a pipe\n")
    assert (file.title, file.source) == ("From a pipe", None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"abc\0def", "binary", id="NUL"),
        pytest.param("text".encode("utf-16"), "UTF-16", id="UTF-16"),
        pytest.param(b"caf\xe9", "not UTF-8 at byte 3", id="Latin-1"),
        pytest.param(b"x" * 2000 + b"\xed\xa0\x80", "byte 2000", id="surrogate"),
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b" \r\n\t", "white space", id="white space"),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    Path("file").write_bytes(data)
    assert reason in refused("file")


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    Path("file").write_text("text")
    assert "No such file" in refused("missing.txt")
    assert "cannot be read" in refused("file/below.txt")
    assert "is a directory" in refused(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "heading"),
    [
        ("# One #\n# Two", "One"),
        ("text\n\n   ### Three  ", "Three"),
        ("```\n# comment\n```\n# After", "After"),
        ("```\n~~~\n# comment\n```\n# After", "After"),
        ("#no space\n#\n", None),
        ("", None),
        ("# " + "x" * 500, "x" * 200),
    ],
)
def test_the_first_heading_outside_code_is_found(
    text: str, heading: str | None
) -> None:
    assert first_heading(text) == heading


TEXTS = st.lists(
    st.sampled_from(
        ["word", "é", "😀", " ", "\n", "\r\n", "\n\n", "\r\n \r\n", "x" * 30]
    )
).map("".join)


@given(TEXTS, st.integers(4, 60))
def test_parts_fit_and_only_white_space_is_lost(text: str, max_bytes: int) -> None:
    found = parts(text, max_bytes=max_bytes)
    assert all(0 < len(part.encode()) <= max_bytes for part in found)
    assert all(part.strip() for part in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@given(st.lists(st.sampled_from(["word", "é", "\n\n", "😀"])).map("".join))
def test_parts_joined_are_the_text(text: str) -> None:
    found = parts(f"{text}.", max_bytes=8)
    missing = len(f"{text}.") - len("".join(found))
    assert missing % 2 == 0
    assert "".join(found).replace("\n", "") == f"{text}.".replace("\n", "")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        pytest.param("aa bb\ncc\n\ndd\nee ff", "aa bb\ncc\n\n", id="paragraph"),
        pytest.param("aaa bbb\r\n \r\nccc ddd ee", "aaa bbb\r\n \r\n", id="CRLF"),
        pytest.param("aa bb cc\ndd ee ff gg", "aa bb cc\n", id="line"),
        pytest.param("aaaa bbbb cccc dddd", "aaaa bbbb cccc ", id="word"),
        pytest.param("é" * 20, "é" * 8, id="character"),
        pytest.param("a\n\nbbbb cccc ddddddd", "a\n\nbbbb cccc ", id="not too early"),
    ],
)
def test_a_text_is_cut_at_the_best_border(text: str, first: str) -> None:
    found = parts(text, max_bytes=17)
    assert found[0] == first
    assert "".join(found) == text


def test_a_text_that_fits_is_one_part() -> None:
    assert parts("a\n\nb", max_bytes=4) == ["a\n\nb"]
