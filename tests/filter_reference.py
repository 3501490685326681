"""What a filter means, slowly: one document, one condition, one value at a time.

It reads the JSON of the language itself and the metadata itself. Only the reading of
dates is shared with the package; `test_filters` states that by literal values.
"""

from collections.abc import Iterator
from typing import Any

from mcp_hybrid_search.filter_values import epoch_seconds

BUILT_INS = ("source", "title", "created_at", "updated_at")
# An object below a key: equal to nothing, in no range, but there.
OBJECT = object()


class Moment(float):
    """A time the server set: numbers and dates both compare with it."""

    __slots__ = ()


def matches(value: dict[str, Any], document: dict[str, Any]) -> bool:
    """Tell whether `document` (metadata and built-in fields) passes the filter."""
    return all(_holds(key, inner, document) for key, inner in value.items())


def _holds(key: str, inner: Any, document: dict[str, Any]) -> bool:
    if key == "and":
        return all(matches(part, document) for part in inner)
    if key == "or":
        return any(matches(part, document) for part in inner)
    if key == "not":
        return not matches(inner, document)
    values = list(_values_of(key, document))
    if isinstance(inner, dict):
        return _satisfies(inner, values)
    if inner is None:
        return not values
    return _has(inner if isinstance(inner, list) else [inner], values)


def _values_of(key: str, document: dict[str, Any]) -> Iterator[Any]:
    if key in BUILT_INS:
        if document[key] is not None:
            timed = key.endswith("_at")
            yield Moment(document[key]) if timed else document[key]
        return
    wanted = key.removeprefix("metadata.")
    for path, value in _walk(document["metadata"], []):
        if ".".join(path) == wanted and value is not None:
            yield value


def _walk(value: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    if isinstance(value, dict):
        yield path, OBJECT
        for key, inner in value.items():
            yield from _walk(inner, [*path, key])
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, path)
    else:
        yield path, value


def _satisfies(operators: dict[str, Any], values: list[Any]) -> bool:
    bounds = {}
    for name, operand in operators.items():
        if name in {"gt", "gte", "lt", "lte"}:
            bounds[name] = operand
        elif name == "exists":
            if operand != bool(values):
                return False
        elif name in {"eq", "ne"} and operand is None:
            if (name == "eq") == bool(values):
                return False
        else:
            operands = operand if isinstance(operand, list) else [operand]
            if _has(operands, values) != (name in {"eq", "any"}):
                return False
    return not bounds or any(_within(bounds, value) for value in values)


def _has(operands: list[Any], values: list[Any]) -> bool:
    return any(_equal(one, other) for one in operands for other in values)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _within(bounds: dict[str, Any], value: Any) -> bool:
    for name, operand in bounds.items():
        dates = isinstance(operand, str)
        one, other = _number(value, dates=dates), _number(operand, dates=dates)
        if one is None or other is None:
            return False
        if not {
            "gt": one > other,
            "gte": one >= other,
            "lt": one < other,
            "lte": one <= other,
        }[name]:
            return False
    return True


def _number(value: Any, *, dates: bool) -> float | None:
    """Give the number that ranges compare: the documented limit is here, too."""
    if isinstance(value, str):
        value = epoch_seconds(value) if dates else None
    elif not isinstance(value, Moment) and (
        dates or isinstance(value, bool) or not isinstance(value, int | float)
    ):
        return None
    if value is None:
        return None
    if 1e15 <= abs(float(value)) < 2**63:
        return float(round(float(value)))
    if abs(value) < 1e-290:
        return 0.0
    if abs(value) > 1e290:
        return 1e290 if value > 0 else -1e290
    return float(f"{float(value):.14e}")
