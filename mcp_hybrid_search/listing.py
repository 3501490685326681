"""Orders of documents, and cursors that lead from one page to the next. Pure.

A cursor holds the place of the last document of a page, not a number of pages: what
is written or deleted between two pages moves nothing. It is bound to its question,
and says nothing about whose documents are listed: the request alone does.
"""

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from mcp_hybrid_search.documents import ListRequest
from mcp_hybrid_search.errors import InvalidInputError

CURSOR_CHARACTERS = 20_000
"""More than one of ours has, whatever the title and the id it leads to."""

_WRONG = (
    "The cursor is broken, or belongs to another collection, namespace, filter or"
    " order. Start again without cursor."
)

Place = tuple[str | float | None, str]
"""What a document is ordered by, and its id."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order of documents; equal values are ordered by id, missing ones are last."""

    field: str
    """`created_at`, `updated_at`, `id` or `title`."""
    descending: bool

    def is_after(self, place: Place, other: Place) -> bool:
        """Return whether `place` comes after `other`."""
        if (place[0] is None) != (other[0] is None):
            return place[0] is None
        one, two = _comparable(place), _comparable(other)
        return one < two if self.descending else one > two


def _comparable(place: Place) -> tuple[Any, str]:
    value, document_id = place
    return ("" if value is None else value), document_id


def order(request: ListRequest) -> Order:
    """Return the order that a request names."""
    return Order(request.order_by.lstrip("-"), request.order_by.startswith("-"))


def cursor(request: ListRequest, place: Place) -> str:
    """Return the cursor to what comes after `place`."""
    content = json.dumps([_digest(request), *place], ensure_ascii=False)
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def place_of(request: ListRequest) -> Place | None:
    """Return the place that a request's cursor names; None for the first page.

    Raises:
        InvalidInputError: If the cursor is broken or was made for another question.
    """
    if request.cursor is None:
        return None
    try:
        digest, value, document_id = _decoded(request.cursor)
    except (ValueError, RecursionError):
        raise InvalidInputError(_WRONG) from None
    if digest != _digest(request) or not isinstance(document_id, str):
        raise InvalidInputError(_WRONG)
    return _checked_value(request, value), document_id


def _decoded(text: str) -> list[Any]:
    if len(text) > CURSOR_CHARACTERS:
        raise ValueError
    padded = text.encode("ascii") + b"=" * (-len(text) % 4)
    content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    # Whatever is half of a surrogate pair was never in a cursor of ours.
    json.dumps(content, ensure_ascii=False).encode()
    if not isinstance(content, list):
        raise ValueError  # noqa: TRY004 - the caller knows one kind
    return content


def _checked_value(request: ListRequest, value: object) -> str | float | None:
    field = order(request).field
    if field in {"created_at", "updated_at"}:
        fits = isinstance(value, float) and math.isfinite(value)
    elif field == "title":
        fits = value is None or isinstance(value, str)
    else:
        fits = value is None
    if not fits:
        raise InvalidInputError(_WRONG)
    return value  # type: ignore[return-value]


def _digest(request: ListRequest) -> str:
    asked = [
        request.collection,
        request.namespace,
        None if not request.filter else dict(request.filter),
        request.order_by,
    ]
    text = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
