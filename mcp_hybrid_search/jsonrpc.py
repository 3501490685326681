"""JSON-RPC by the line: what a line may be, and the answer to one that is not.

Pure: bytes in, messages or answers out. No answer repeats what was sent.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mcp.types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from pydantic import ValidationError
from pydantic_core import from_json

HEAD_BYTES = 4096
TAIL_BYTES = 1024

_ID = rb'"id"\s*:\s*(?:(-?\d{1,18})|"([ !#-\[\]-~]{1,256})")\s*'
_ID_BEFORE_PARAMS = re.compile(_ID + rb"[,}]")
# The TypeScript SDK writes {"method":…,"params":…,"jsonrpc":"2.0","id":…}.
_ID_AT_END = re.compile(rb'"jsonrpc"\s*:\s*"2\.0"\s*,\s*' + _ID + rb"\}\s*$")

_REASONS = {
    "recursion limit": "It is nested too deep; send a flatter value.",
    "number out of range": "A number has too many digits; send it as a string.",
    "hex escape": "It has half a surrogate pair; send whole characters.",
    "control character": r"It has a raw control character; escape it as \u00XX.",
}
_ANY_REASON = "Send one complete JSON object per line, without NaN or Infinity."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its newline; of one over the limit, only both ends."""

    data: bytes
    size_bytes: int
    limit_bytes: int


class Lines:
    """Cuts chunks into lines and never holds much more than the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that `chunk` ends; blank ones are dropped."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._add(end)
            line = Line(bytes(self._data), self._size_bytes, self._limit_bytes)
            self._data.clear()
            self._size_bytes = 0
            if line.data.strip():
                yield line
        self._add(rest)

    def _add(self, part: bytes) -> None:
        self._data += part
        self._size_bytes += len(part)
        if self._size_bytes > self._limit_bytes:
            del self._data[HEAD_BYTES:-TAIL_BYTES]


class RefusedError(Exception):
    """A line that is not a message; `answer` tells the client."""

    def __init__(self, code: int, message: str, request_id: RequestId | None) -> None:
        super().__init__(message)
        error = ErrorData(code=code, message=message)
        self.answer = JSONRPCError(jsonrpc="2.0", id=request_id, error=error)


def parsed(line: Line) -> JSONRPCMessage:
    """Read a message.

    Raises:
        RefusedError: If the line is none, with the answer for the client.
    """
    if line.size_bytes > line.limit_bytes:
        reason = (
            f"The message has {line.size_bytes} bytes; the limit is {line.limit_bytes}."
            " Send less in one message."
        )
        raise RefusedError(INVALID_REQUEST, reason, skimmed_id(line.data))
    try:
        line.data.decode()
        # Unlike json.loads, it refuses lone surrogates and any depth over 200.
        return _message(from_json(line.data, allow_inf_nan=False))
    except UnicodeDecodeError:
        reason = "The message is not UTF-8. Send JSON encoded as UTF-8."
    except ValueError as error:
        details = (text for key, text in _REASONS.items() if key in str(error))
        reason = f"The message cannot be parsed. {next(details, _ANY_REASON)}"
    raise RefusedError(PARSE_ERROR, reason, skimmed_id(line.data))


def skimmed_id(data: bytes) -> RequestId | None:
    """Read a request's id off a line that cannot be parsed."""
    envelope = data[:HEAD_BYTES].partition(b'"params"')[0]
    # A response carries an id of ours, which must not fail a request of theirs.
    if b'"result"' in envelope or b'"error"' in envelope:
        return None
    found = _ID_BEFORE_PARAMS.search(envelope) or _ID_AT_END.search(data[-TAIL_BYTES:])
    if found is None:
        return None
    number, text = found.groups()
    return int(number) if number else text.decode()


def _message(value: Any) -> JSONRPCMessage:
    if not isinstance(value, dict):
        reason = "A message must be one JSON object; batches are not supported."
        raise RefusedError(INVALID_REQUEST, reason, None)
    try:
        return _kind(value).model_validate(value, by_name=False)
    except ValidationError as error:
        field = error.errors(include_input=False, include_url=False)[0]["loc"][0]
    reason = f'Not a JSON-RPC 2.0 message: "{field}" is missing or not as specified.'
    raise RefusedError(INVALID_REQUEST, reason, _request_id(value))


def _kind(
    value: dict[str, Any],
) -> type[JSONRPCRequest | JSONRPCNotification | JSONRPCResponse | JSONRPCError]:
    if "result" in value and "method" not in value:
        return JSONRPCResponse
    if "error" in value and "method" not in value:
        return JSONRPCError
    return JSONRPCRequest if "id" in value else JSONRPCNotification


def _request_id(value: dict[str, Any]) -> RequestId | None:
    request_id = value.get("id")
    asks = _kind(value) is JSONRPCRequest
    known = isinstance(request_id, int | str) and not isinstance(request_id, bool)
    return request_id if asks and known else None


def encoded(message: JSONRPCMessage) -> bytes:
    """Return a message as its line; an error where it has no JSON."""
    try:
        return (
            f"{message.model_dump_json(by_alias=True, exclude_unset=True)}\n".encode()
        )
    except ValueError:
        log.warning("a %s cannot be encoded as JSON", type(message).__name__)
    if not isinstance(message, JSONRPCResponse | JSONRPCError):
        return b""
    reason = "The answer has text that is not valid Unicode, so it cannot be sent."
    return encoded(RefusedError(INTERNAL_ERROR, reason, message.id).answer)
