"""Text files into documents: one each, or several where a file is over the limit."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePath

from mcp_hybrid_search.documents import derived_id
from mcp_hybrid_search.errors import InvalidInputError

STDIN = "-"
HEAD_BYTES = 1024
MAX_TITLE_CHARACTERS = 200

_MARKDOWN = {".md", ".markdown", ".mdown", ".mkd"}
_FENCE = re.compile(r" {0,3}(```|~~~)")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")

_BORDERS = (
    re.compile(rb"\r?\n[ \t]*\r?\n\s*"),
    re.compile(rb"\r?\n"),
    re.compile(rb"\s+"),
)
"""Where a text may be cut, the best first: paragraphs, lines, words."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that was read."""

    name: str
    """As the user gave it."""
    document_id: str
    title: str | None
    source: str | None
    text: str


def read(name: str, *, namespace: str) -> TextFile:
    """Read a UTF-8 text file, or standard input as `-`.

    A byte order mark is dropped; everything else stays as it is.

    Raises:
        InvalidInputError: If it cannot be read, is binary, empty or not UTF-8.
    """
    if name == STDIN:
        text = _decoded(_without_nul(sys.stdin.buffer.read()))
        return TextFile(
            name, derived_id(namespace, text), first_heading(text), None, text
        )
    path = Path(name)
    text = _decoded(_read_bytes(path))
    heading = first_heading(text) if path.suffix.lower() in _MARKDOWN else None
    return TextFile(
        name,
        document_id=PurePath(os.path.normpath(name)).as_posix(),
        title=heading or path.name,
        source=path.absolute().as_uri(),
        text=text,
    )


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        msg = "is a directory. Name the files in it, for example with **/*.md."
        raise InvalidInputError(msg)
    try:
        with path.open("rb") as file:
            # Of a large binary file, no more than this is read.
            head = _without_nul(file.read(HEAD_BYTES))
            return head + file.read()
    except OSError as exc:
        msg = f"cannot be read: {exc.strerror or exc}."
        raise InvalidInputError(msg) from exc


def _without_nul(data: bytes) -> bytes:
    if b"\0" in data[:HEAD_BYTES]:
        msg = "holds NUL bytes: it is binary, or UTF-16. Save it as UTF-8 text."
        raise InvalidInputError(msg)
    return data


def _decoded(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        msg = f"is not UTF-8 at byte {exc.start}. Convert it to UTF-8."
        raise InvalidInputError(msg) from exc
    if not text.strip():
        msg = "is empty or only white space."
        raise InvalidInputError(msg)
    return text


def first_heading(text: str) -> str | None:
    """Return the first Markdown heading that is not in a code block."""
    fence = None
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and fence in {None, mark[1]}:
            fence = None if fence else mark[1]
        heading = None if fence else _HEADING.match(line)
        if heading and heading[1]:
            return heading[1][:MAX_TITLE_CHARACTERS]
    return None


def parts(text: str, *, max_bytes: int) -> list[str]:
    """Cut a text into parts that fit, between paragraphs where possible.

    Joined, the parts are the text; only a part without any words is left out.

    Args:
        text: Any text.
        max_bytes: Of a part, in UTF-8; at least 4.
    """
    data = text.encode()
    cuts = [0]
    while len(data) - cuts[-1] > max_bytes:
        cuts.append(_cut(data, cuts[-1], cuts[-1] + max_bytes))
    ends = [*cuts[1:], len(data)]
    found = [data[a:b].decode() for a, b in zip(cuts, ends, strict=True)]
    return [part for part in found if part.strip()]


def _cut(data: bytes, start: int, end: int) -> int:
    """Return the last good border up to `end`, or the last character's."""
    # A border further up would make a part of hardly anything.
    lowest = start + (end - start) // 4
    for border in _BORDERS:
        found = [m.end() for m in border.finditer(data, lowest, end)]
        if found:
            return found[-1]
    while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a UTF-8 continuation byte
        end -= 1
    return end
