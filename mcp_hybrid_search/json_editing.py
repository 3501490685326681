"""JSON text edited in place: what is not meant stays, byte for byte.

Comments and trailing commas are blanked by spaces, so that the standard library's
parser reads what is left and its positions are those of the text. Every edit is
parsed again and compared with what it should have become.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mcp_hybrid_search.errors import ConflictError, InvalidInputError

_STRING = r'"(?:[^"\\]|\\.)*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA = re.compile(
    rf"({_STRING}|[\]}}\w])(\s*),(?=\s*[\]}}])|{_STRING}", re.DOTALL
)
_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_INDENT = re.compile(r'^([ \t]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Member:
    key: str
    start: int
    value_start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, and twice the same with spaces for what is not JSON."""

    text: str
    bare: str
    """Without comments."""
    blank: str
    """Without comments and trailing commas: JSON."""


def value_at(text: str, path: Sequence[str], *, comments: bool) -> Any:
    """Return a value of the text, or None if it is not there.

    Objects are tuples of pairs, in order, and numbers are as they are written.

    Raises:
        InvalidInputError: If the text is not JSON; it names the line.
        ConflictError: If something on the way is no object, or is there twice.
    """
    document = _read(text, comments=comments)
    found = _find(document, path)
    return None if found is None else _decoded(document.blank[found[1] : found[2]])


def put(text: str, path: Sequence[str], value: Any, *, comments: bool) -> str:
    """Set one value; objects on the way are made if they are missing.

    Raises:
        InvalidInputError: If the text is not JSON; it names the line.
        ConflictError: If it cannot be edited with certainty.
    """
    document = _read(text, comments=comments)
    wanted = _decoded(json.dumps(value))
    if value_at(document.text, path, comments=comments) == wanted:
        return text
    edited = _put(document, _root(document), path, value)
    expected = _with(_decoded(document.blank), path, wanted)
    return _checked(edited, expected, comments=comments)


def drop(text: str, path: Sequence[str], *, comments: bool) -> str:
    """Take out one value with its key, if it is there.

    Raises:
        InvalidInputError: If the text is not JSON; it names the line.
        ConflictError: If it cannot be edited with certainty.
    """
    document = _read(text, comments=comments)
    if _find(document, path) is None:
        return text
    start = _root(document)
    for key in path[:-1]:
        start = _object_at(document, start, key)
    edited = _without(document, start, path[-1])
    expected = _with(_decoded(document.blank), path, None)
    return _checked(edited, expected, comments=comments)


def _read(text: str, *, comments: bool) -> _Text:
    bare = _COMMENT.sub(_spaces, text) if comments else text
    if not bare.strip():
        text += ("" if text.endswith("\n") or not text else "\n") + "{}\n"
        bare = " " * (len(text) - 3) + "{}\n"
    blank = _TRAILING_COMMA.sub(_no_comma, bare) if comments else bare
    _decoded(blank)
    return _Text(text, bare, blank)


def _spaces(match: "re.Match[str]") -> str:
    found = match[0]
    return found if found[0] == '"' else re.sub(r"[^\n]", " ", found)


def _no_comma(match: "re.Match[str]") -> str:
    return match[0] if match[1] is None else f"{match[1]}{match[2]} "


def _constant(name: str) -> NoReturn:
    msg = f"is not valid JSON: {name} is no JSON number."
    raise InvalidInputError(msg)


def _number(digits: str) -> tuple[str, str]:
    # As it is written: 1.0 and 1 are two texts, and digits may be many.
    return ("number", digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=tuple,
    parse_int=_number,
    parse_float=_number,
    parse_constant=_constant,
)


def _decoded(blank: str) -> Any:
    try:
        return _DECODER.decode(blank)
    except json.JSONDecodeError as exc:
        msg = f"is not valid JSON: line {exc.lineno}, column {exc.colno}: {exc.msg}."
        raise InvalidInputError(msg) from None
    except RecursionError:
        msg = "is not valid JSON that can be read: it is nested too deep."
        raise InvalidInputError(msg) from None


def _root(document: _Text) -> int:
    start = _after_space(document.blank, 0)
    if document.blank[start] != "{":
        msg = "holds something else than an object."
        raise ConflictError(msg)
    return start


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _put(document: _Text, start: int, path: Sequence[str], value: Any) -> str:
    key, *rest = path
    member = _member(document, start, key)
    if member is None:
        for name in reversed(rest):
            value = {name: value}
        return _inserted(document, start, key, value)
    if not rest:
        return _replaced(document, member, value)
    return _put(document, member.value_start, rest, value)


def _find(document: _Text, path: Sequence[str]) -> tuple[int, int, int] | None:
    """Return where a member, its value and its end are."""
    start = _root(document)
    for depth, key in enumerate(path):
        member = _member(document, start, key)
        if member is None:
            return None
        if depth == len(path) - 1:
            return member.start, member.value_start, member.end
        start = _object_at(document, start, key)
    return None


def _object_at(document: _Text, start: int, key: str) -> int:
    member = _member(document, start, key)
    if member is None or document.blank[member.value_start] != "{":
        msg = f'holds "{key}", but not as an object.'
        raise ConflictError(msg)
    return member.value_start


def _member(document: _Text, start: int, key: str) -> _Member | None:
    if document.blank[start] != "{":
        msg = f'has no object that could hold "{key}".'
        raise ConflictError(msg)
    found = [member for member in _members(document, start) if member.key == key]
    if len(found) > 1:
        msg = f'holds "{key}" twice.'
        raise ConflictError(msg)
    return found[0] if found else None


def _members(document: _Text, start: int) -> list[_Member]:
    blank = document.blank
    members = []
    at = _after_space(blank, start + 1)
    while blank[at] != "}":
        if blank[at] == ",":
            at = _after_space(blank, at + 1)
        key, end = _DECODER.raw_decode(blank, at)
        colon = _after_space(blank, end)
        value = _after_space(blank, colon + 1)
        _, end = _DECODER.raw_decode(blank, value)
        members.append(_Member(key, at, value, end))
        at = _after_space(blank, end)
    return members


def _end(document: _Text, start: int) -> int:
    """Return where the closing brace of the object at `start` is."""
    _, end = _DECODER.raw_decode(document.blank, start)
    return int(end) - 1


def _inserted(document: _Text, start: int, key: str, value: Any) -> str:
    """Add a member behind the last one, and behind comments that follow it."""
    text, close = document.text, _end(document, start)
    members = _members(document, start)
    end = len(text[:close].rstrip())
    name = json.dumps(key, ensure_ascii=False)
    if members and "\n" not in text[start:close]:
        added = f" {name}: {json.dumps(value, ensure_ascii=False)}"
        rest = text[end:]
    else:
        indent = _inner_indent(text, start, members)
        added = f"{_newline(text)}{indent}{name}: {_rendered(text, value, indent)}"
        space = text[end:close]
        rest = space if "\n" in space else _newline(text) + _indent(text, start)
        rest += text[close:]
    if members and "," not in document.bare[members[-1].end : close]:
        comma = members[-1].end
        return f"{text[:comma]},{text[comma:end]}{added}{rest}"
    return text[:end] + added + rest


def _inner_indent(text: str, start: int, members: Sequence[_Member]) -> str:
    if members:
        last = members[-1].start
        if not text[_line(text, last) : last].strip(" \t"):
            return _indent(text, last)
    return _indent(text, start) + _unit(text)


def _replaced(document: _Text, member: _Member, value: Any) -> str:
    text = document.text
    indent = _indent(text, member.start)
    written = _rendered(text, value, indent)
    return text[: member.value_start] + written + text[member.end :]


def _without(document: _Text, start: int, key: str) -> str:
    text, members = document.text, _members(document, start)
    index = [member.key for member in members].index(key)
    member, close = members[index], _end(document, start)
    if index + 1 < len(members):
        end = document.bare.index(",", member.end) + 1
        return _cut_line(text, member.start, end)
    end = member.end
    if "," in document.bare[end:close]:
        end = document.bare.index(",", end) + 1
    begin = len(text[: member.start].rstrip())
    if index:
        comma = document.bare.index(",", members[index - 1].end)
        head = text[:comma] + text[comma + 1 : begin]
        return head + text[end:]
    inside = text[start + 1 : begin] + text[end:close]
    return text[: start + 1] + (inside if inside.strip() else "") + text[close:]


def _cut_line(text: str, begin: int, end: int) -> str:
    """Cut out a part, and its line if nothing else is on it."""
    line = _line(text, begin)
    rest = text[end:].lstrip(" \t")
    if text[line:begin].strip(" \t") or not rest.startswith(("\n", "\r\n")):
        return text[:begin] + rest
    return text[:line] + rest[rest.index("\n") + 1 :]


def _rendered(text: str, value: Any, indent: str) -> str:
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return f"{_newline(text)}{indent}".join(lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str) -> str:
    found = _FIRST_INDENT.search(text)
    return found[1] if found else "  "


def _line(text: str, position: int) -> int:
    return text.rfind("\n", 0, position) + 1


def _indent(text: str, position: int) -> str:
    line = text[_line(text, position) : position]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _with(value: Any, path: Sequence[str], wanted: Any) -> Any:
    """Return the parsed value with one change; None takes it out."""
    if not path:
        return wanted
    pairs = value if isinstance(value, tuple) else ()
    inner = _with(dict(pairs).get(path[0], ()), path[1:], wanted)
    if path[0] not in dict(pairs):
        return (*pairs, (path[0], inner))
    changed = [(k, inner if k == path[0] else v) for k, v in pairs]
    return tuple(pair for pair in changed if pair != (path[0], None))


def _checked(edited: str, expected: Any, *, comments: bool) -> str:
    try:
        right = _decoded(_read(edited, comments=comments).blank) == expected
    except InvalidInputError:
        right = False
    if not right:
        msg = "cannot be edited without changing something else in it."
        raise ConflictError(msg)
    return edited
