"""The limits of what may be stored and asked. Pure; every error says what to do."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from mcp_hybrid_search.documents import (
    ListRequest,
    NewDocument,
    OrderBy,
    SearchRequest,
)
from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.filters import EVERYTHING, parse_filter
from mcp_hybrid_search.listing import place_of
from mcp_hybrid_search.settings import NAME_PATTERN, Settings

MAX_ID_BYTES = 512
MAX_TITLE_BYTES = 2_000
MAX_SOURCE_BYTES = 8_000
MAX_METADATA_DEPTH = 16
MAX_METADATA_KEYS = 256
MAX_LIMIT = 100
MAX_PAGE = 1_000
MAX_AUDIT = 10_000
_INT64 = 2**63

_NAME = re.compile(NAME_PATTERN)
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_name(kind: str, name: str) -> None:
    """Refuse a collection's or namespace's name that is not portable."""
    if not _NAME.fullmatch(name):
        msg = f"{kind} must match {NAME_PATTERN}; got {_shown(name)}."
        raise InvalidInputError(msg)
    if _WINDOWS_DEVICES.fullmatch(name) or name.endswith("."):
        msg = f"{kind} {name!r} is reserved on Windows. Choose another name."
        raise InvalidInputError(msg)


def check_id(document_id: str) -> None:
    """Refuse an id that is empty, too long or not printable."""
    _check_unicode("id", document_id)
    _check_size("id", document_id, MAX_ID_BYTES)
    if not document_id.strip() or not document_id.isprintable():
        msg = "id must be printable text that is not empty."
        raise InvalidInputError(msg)


def check_place(collection: str, namespace: str, document_id: str) -> None:
    """Refuse names and an id that no document can have."""
    check_name("collection", collection)
    check_name("namespace", namespace)
    check_id(document_id)


def check_document(document: NewDocument, settings: Settings) -> None:
    """Refuse a document that is over a limit or could not come back as it is.

    Raises:
        InvalidInputError: Naming the limit and the actual size.
    """
    if document.times is None:  # Copies go to a draft, whose name users cannot take.
        check_name("collection", document.collection)
    check_name("namespace", document.namespace)
    if document.document_id is not None:
        check_id(document.document_id)
    _check_unicode("text", document.text)
    if not document.text.strip():
        msg = "text is empty or only white space. Nothing was stored."
        raise InvalidInputError(msg)
    _check_size("text", document.text, settings.max_text_bytes, _SPLIT)
    for name, value, limit in (
        ("title", document.title, MAX_TITLE_BYTES),
        ("source", document.source, MAX_SOURCE_BYTES),
    ):
        if value is not None:
            _check_unicode(name, value)
            _check_size(name, value, limit)
    if document.metadata is not None:
        check_metadata(document.metadata, settings.max_metadata_bytes)


_SPLIT = (
    " Split it, or add it as a file with `mcp-hybrid-search add FILE`, which splits."
)


def check_search(request: SearchRequest, settings: Settings) -> None:
    """Refuse a search that cannot have an answer."""
    check_name("collection", request.collection)
    check_name("namespace", request.namespace)
    _check_unicode("query", request.query)
    if not request.query.strip():
        msg = "query is empty or only white space. Ask with words or a question."
        raise InvalidInputError(msg)
    _check_size("query", request.query, settings.max_query_bytes)
    _check_range("limit", request.limit, MAX_LIMIT)


def check_list(request: ListRequest) -> None:
    """Refuse a list that cannot be, or a cursor that leads nowhere."""
    check_names(request.collection, request.namespace)
    _check_range("limit", request.limit, MAX_PAGE)
    orders = get_args(OrderBy)
    if request.order_by not in orders:
        msg = f"order_by must be one of {', '.join(orders)}."
        raise InvalidInputError(msg)
    if request.filter is not None:
        parse_filter(request.filter)
    place_of(request)


def check_deletion(
    collection: str,
    namespace: str,
    filter_: Mapping[str, Any],
    expected_count: int | None,
) -> None:
    """Refuse a deletion that names nothing, for it would be of everything."""
    check_names(collection, namespace)
    if parse_filter(filter_) == EVERYTHING:
        msg = (
            "filter is empty and would match every document. Name what to delete, such"
            ' as {"source": "notes.md"}.'
        )
        raise InvalidInputError(msg)
    if expected_count is not None and expected_count < 0:
        msg = f"The expected count must be 0 or more; got {expected_count}."
        raise InvalidInputError(msg)


def check_names(collection: str, namespace: str) -> None:
    """Refuse names that no collection and no namespace can have."""
    check_name("collection", collection)
    check_name("namespace", namespace)


def check_completion(
    collection: str, namespace: str | None, prefix: str, limit: int
) -> None:
    """Refuse to list names that begin with no text."""
    check_name("collection", collection)
    if namespace is not None:
        check_name("namespace", namespace)
    _check_unicode("prefix", prefix)
    _check_range("limit", limit, MAX_PAGE)


def check_audit(limit: int, namespace: str | None) -> None:
    """Refuse to list more of the audit than there is memory for."""
    if namespace is not None:
        check_name("namespace", namespace)
    _check_range("limit", limit, MAX_AUDIT)


def _check_range(name: str, value: int, largest: int) -> None:
    if not 1 <= value <= largest:
        msg = f"{name} must be from 1 to {largest}; got {value}."
        raise InvalidInputError(msg)


def check_metadata(metadata: Mapping[str, Any], max_bytes: int) -> None:
    """Refuse metadata that JSON, the index or a filter could not hold exactly."""
    keys = 0
    for path, depth, value in _walk(metadata):
        if depth > MAX_METADATA_DEPTH and isinstance(value, Mapping | list):
            msg = f"metadata is nested deeper than {MAX_METADATA_DEPTH} at {path}."
            raise InvalidInputError(msg)
        if isinstance(value, Mapping):
            keys += len(value)
            _check_keys(path, value)
        _check_value(path, value)
    if keys > MAX_METADATA_KEYS:
        msg = f"metadata has {keys} keys; the limit is {MAX_METADATA_KEYS}."
        raise InvalidInputError(msg)
    _check_size("metadata", json.dumps(metadata, ensure_ascii=False), max_bytes)


def _walk(metadata: Any) -> Iterator[tuple[str, int, Any]]:
    """Yield (path, depth, value), stopping one level below the limit."""
    pending: list[tuple[str, int, Any]] = [("metadata", 1, metadata)]
    while pending:
        path, depth, value = pending.pop()
        yield path, depth, value
        if isinstance(value, Mapping):
            pending += [(f"{path}.{k}"[:200], depth + 1, v) for k, v in value.items()]
        elif isinstance(value, list):
            pending += [(f"{path}[{i}]", depth + 1, v) for i, v in enumerate(value)]


def _check_keys(path: str, value: Mapping[Any, Any]) -> None:
    for key in value:
        if not isinstance(key, str) or not key:
            msg = f"{path} has an empty key. Give every key a name."
            raise InvalidInputError(msg)
        _check_unicode(f"a key of {path}", key)


def _check_value(path: str, value: Any) -> None:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, str):
        _check_unicode(path, value)
    elif isinstance(value, float) and not math.isfinite(value):
        msg = f"{path} is {value}, which JSON does not have. Leave it out, or use null."
        raise InvalidInputError(msg)
    elif isinstance(value, int) and not -_INT64 <= value < _INT64:
        msg = f"{path} is beyond 64 bit. Give it as a string."
        raise InvalidInputError(msg)


def _check_unicode(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        msg = (
            f"{name} holds a lone surrogate at character {exc.start}, which is no"
            " text in UTF-8. Remove it or send the whole character."
        )
        raise InvalidInputError(msg) from None


def _check_size(name: str, value: str, limit: int, hint: str = "") -> None:
    size = len(value.encode())
    if size > limit:
        msg = f"{name} is {size:,} bytes; the limit is {limit:,} bytes.{hint}"
        raise InvalidInputError(msg)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "…")  # noqa: PLR2004
