"""Filters over documents that no index holds: the same tree, evaluated here. Pure.

A document is given as the index would hold it: payload keys and the values in them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcp_hybrid_search.filter_values import METADATA_KEY, filterable
from mcp_hybrid_search.filters import (
    AllOf,
    AnyOf,
    Exists,
    Filter,
    InRange,
    Not,
    OneOf,
)

Payload = Mapping[str, Sequence[Any]]
"""Values by payload key, spelled as in `Filter`; a key without any may be missing."""

Matcher = Callable[[Payload], bool]


def matcher(filter_: Filter) -> Matcher:
    """Return a function that tells whether a payload passes the filter."""
    match filter_:
        case AllOf(parts):
            tests = [matcher(part) for part in parts]
            return lambda payload: all(test(payload) for test in tests)
        case AnyOf(parts):
            tests = [matcher(part) for part in parts]
            return lambda payload: any(test(payload) for test in tests)
        case Not(part):
            test = matcher(part)
            return lambda payload: not test(payload)
        case OneOf(key, values):
            wanted = frozenset(values)
            return lambda payload: not wanted.isdisjoint(payload.get(key, ()))
        case Exists(key):
            return lambda payload: bool(payload.get(key))
        case InRange():
            return _range_matcher(filter_)


def _range_matcher(condition: InRange) -> Matcher:
    bounds = condition

    def within(value: float) -> bool:
        return (
            (bounds.gt is None or value > bounds.gt)
            and (bounds.gte is None or value >= bounds.gte)
            and (bounds.lt is None or value < bounds.lt)
            and (bounds.lte is None or value <= bounds.lte)
        )

    return lambda payload: any(map(within, payload.get(bounds.key, ())))


def reads_metadata(filter_: Filter) -> bool:
    """Return whether anything but a document's own fields is asked for."""
    match filter_:
        case AllOf(parts) | AnyOf(parts):
            return any(reads_metadata(part) for part in parts)
        case Not(part):
            return reads_metadata(part)
        case _:
            return filter_.key.startswith(f"{METADATA_KEY}.")


def metadata_payload(metadata: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Return what filters see of metadata."""
    return {
        f"{METADATA_KEY}.{key}": values for key, values in filterable(metadata).items()
    }


def field_payload(
    *, title: str | None, source: str | None, created_at: float, updated_at: float
) -> dict[str, Sequence[Any]]:
    """Return what filters see of a document's own fields."""
    return {
        "title": () if title is None else (title,),
        "source": () if source is None else (source,),
        "created_at": (created_at,),
        "updated_at": (updated_at,),
    }
