"""Filters over documents that no index holds: the same tree, evaluated here. Pure.

A document is given as the index would hold it: payload keys and the values in them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcp_hybrid_search.filter_values import (
    METADATA_KEY,
    filterable,
    may_be_within,
)
from mcp_hybrid_search.filters import (
    KEYWORDS_KEY,
    AllOf,
    AnyOf,
    Exists,
    Filter,
    InRange,
    Not,
    OneOf,
)

_INSIDE = f"{METADATA_KEY}."

Payload = Mapping[str, Sequence[Any]]
"""Values by payload key, spelled as in `Filter`; a key without any may be missing."""

KNOWN_KEYS = 1_000

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


def metadata_names(filter_: Filter) -> frozenset[str]:
    """Return the metadata that is asked for, as `payload_name` calls it."""
    match filter_:
        case AllOf(parts) | AnyOf(parts):
            return frozenset[str]().union(*map(metadata_names, parts))
        case Not(part):
            return metadata_names(part)
        case OneOf(key, values) if key == KEYWORDS_KEY:
            # Every value is spelled name=value, or is the name alone; no name has a =.
            return frozenset(value.partition("=")[0] for value in values)
        case InRange(key) if key.startswith(_INSIDE):
            return frozenset([key.removeprefix(_INSIDE).partition("_")[2]])
        case _:
            return frozenset()


class MetadataReader:
    """Reads what a filter asks of many documents' metadata, and nothing else."""

    def __init__(self, filter_: Filter) -> None:
        """Find out what is asked for."""
        self.names = metadata_names(filter_)
        self._wanted: dict[str, bool] = {}
        """Whether anything below a key of metadata is asked for."""

    def payload(self, metadata: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        """Return what the filter sees of metadata."""
        wanted = {key: value for key, value in metadata.items() if self._is_wanted(key)}
        found = filterable(wanted, self.names)
        return {f"{_INSIDE}{key}": values for key, values in found.items()}

    def _is_wanted(self, key: str) -> bool:
        known = self._wanted.get(key)
        if known is None:
            if len(self._wanted) >= KNOWN_KEYS:
                self._wanted.clear()
            known = self._wanted[key] = any(
                may_be_within(name, key) for name in self.names
            )
        return known


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
