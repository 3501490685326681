"""The filter language of the tools: JSON in, a small tree out. Pure.

`parse_filter` reads a filter; `filter_values` prepares metadata for it. The tree names
payload keys and the values in them, so a store only copies it into its own form.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mcp_hybrid_search.filter_operators import (
    invalid,
    key_place,
    not_a_date,
    read_operators,
)
from mcp_hybrid_search.filter_values import (
    KEYWORDS,
    METADATA_KEY,
    Scalar,
    epoch_seconds,
    keyword,
    payload_name,
    range_bound,
)

KEYWORDS_KEY = f"{METADATA_KEY}.{KEYWORDS}"
DEPTH_LIMIT = 8
CONDITION_LIMIT = 256
_BOUNDS = ("gt", "gte", "lt", "lte")

FILTER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": (
        "Conditions on metadata keys (nested: a.b) and source, title, created_at, "
        "updated_at; all must hold. A value or list equals; or operators eq, ne, gt, "
        "gte, lt, lte (number or ISO 8601 date), any, none (list), exists (boolean). "
        "Combine with and, or (lists of filters) and not (a filter)."
    ),
    "examples": [
        {
            "topic": "physics",
            "year": {"gte": 1960, "lt": 1970},
            "tags": {"any": ["a", "b"]},
            "or": [{"lang": "en"}, {"not": {"draft": True}}],
        }
    ],
}


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; without parts, everything matches."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; there is at least one."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Filter"


@dataclass(frozen=True, slots=True)
class OneOf:
    """The payload key holds one of these strings."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InRange:
    """The payload key holds a number within every bound."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """The payload key holds anything but null."""

    key: str


Filter: TypeAlias = AllOf | AnyOf | Not | OneOf | InRange | Exists
EVERYTHING = AllOf(())


def parse_filter(value: object) -> Filter:
    """Read a filter as a model wrote it.

    Args:
        value: Decoded JSON of any type, size and depth.

    Returns:
        `EVERYTHING` if, and only if, `value` is the empty object.

    Raises:
        InvalidInputError: If it is not a filter.
    """
    return EVERYTHING if value == {} else _Reader().filter(value, "filter", depth=1)


class _Reader:
    """Reads one filter and counts its conditions."""

    def __init__(self) -> None:
        self._condition_count = 0

    def filter(self, value: object, place: str, *, depth: int) -> Filter:
        if not isinstance(value, dict):
            raise invalid(place, 'must be a JSON object such as {"topic": "physics"}.')
        if not value:
            raise invalid(place, "is empty and would match everything. Leave it out.")
        _require_depth(place, depth)
        parts: list[Filter] = []
        for key, inner in value.items():
            parts += self._entry(key, inner, key_place(key, place), depth=depth)
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _entry(
        self, key: str, value: object, place: str, *, depth: int
    ) -> Iterator[Filter]:
        if key == "and":
            yield AllOf(self._parts(value, place, depth=depth))
        elif key == "or":
            yield AnyOf(self._parts(value, place, depth=depth))
        elif key == "not":
            yield Not(self.filter(value, place, depth=depth + 1))
        else:
            yield from self._conditions(key, value, place, depth=depth)

    def _parts(self, value: object, place: str, *, depth: int) -> tuple[Filter, ...]:
        if not isinstance(value, list) or not value:
            raise invalid(place, 'must be a list of filters: [{"a": 1}, {"b": 2}].')
        return tuple(
            self.filter(inner, f"{place}[{index}]", depth=depth + 1)
            for index, inner in enumerate(value)
        )

    def _conditions(
        self, key: str, value: object, place: str, *, depth: int
    ) -> Iterator[Filter]:
        if isinstance(value, dict):
            _require_depth(place, depth + 1)
        self._condition_count += len(value) if isinstance(value, dict) else 1
        if self._condition_count > CONDITION_LIMIT:
            raise invalid(place, f"is over the limit of {CONDITION_LIMIT} conditions.")
        field = _field(key)
        operators = read_operators(value, place)
        yield from _matches(field, operators, place)
        yield from _ranges(field, operators, place)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: Literal["metadata", "text", "moment"]

    def one_of(self, values: tuple[Scalar, ...]) -> Filter:
        if self.kind == "text":
            return OneOf(self.name, tuple(str(value) for value in values))
        name = payload_name(self.name)
        return OneOf(KEYWORDS_KEY, tuple(keyword(name, value) for value in values))

    def exists(self) -> Filter:
        if self.kind == "metadata":
            return OneOf(KEYWORDS_KEY, (payload_name(self.name),))
        return Exists(self.name)

    def range_key(self, *, dated: bool) -> str:
        if self.kind == "metadata":
            prefix = "t" if dated else "n"
            return f"{METADATA_KEY}.{prefix}_{payload_name(self.name)}"
        return self.name


def _field(key: str) -> _Field:
    if key in {"source", "title"}:
        return _Field(key, "text")
    if key in {"created_at", "updated_at"}:
        return _Field(key, "moment")
    return _Field(key.removeprefix("metadata."), "metadata")


def _matches(
    field: _Field, operators: Mapping[str, Any], place: str
) -> Iterator[Filter]:
    for name, operand in operators.items():
        if name in _BOUNDS:
            continue
        if name == "exists" or operand is None:
            condition = field.exists()
            wanted = operand if name == "exists" else name == "ne"
        else:
            values = operand if isinstance(operand, list) else [operand]
            _require_equality(field, values, place)
            condition = field.one_of(tuple(values))
            wanted = name in {"eq", "any"}
        yield condition if wanted else Not(condition)


def _require_equality(field: _Field, values: list[Scalar], place: str) -> None:
    if field.kind == "moment":
        raise invalid(
            place,
            "is a moment, and hardly two are equal. Write a range such as "
            '{"gte": "2024-05-01", "lt": "2024-05-02"}.',
        )
    if field.kind == "text" and not all(isinstance(value, str) for value in values):
        raise invalid(place, f"can only equal text: {field.name} holds nothing else.")


def _ranges(
    field: _Field, operators: Mapping[str, Any], place: str
) -> Iterator[Filter]:
    operands = {name: operators[name] for name in _BOUNDS if name in operators}
    if not operands:
        return
    if field.kind == "text":
        raise invalid(place, "has no order. Write eq, ne, any, none or exists.")
    dated = {isinstance(operand, str) for operand in operands.values()}
    if len(dated) > 1:
        raise invalid(place, "mixes a number and a date. Write two of a kind.")
    bounds = {}
    for name, operand in operands.items():
        number = epoch_seconds(operand) if isinstance(operand, str) else operand
        if number is None:
            raise not_a_date(place, name)
        bounds[name] = range_bound(name, number)
    yield InRange(field.range_key(dated=True in dated), **_tightest(bounds))


def _tightest(bounds: dict[str, float]) -> dict[str, float]:
    """Keep one bound per side: an indexed key of Qdrant heeds only one."""
    if {"gt", "gte"} <= bounds.keys():
        del bounds["gte" if bounds["gt"] >= bounds["gte"] else "gt"]
    if {"lt", "lte"} <= bounds.keys():
        del bounds["lte" if bounds["lt"] <= bounds["lte"] else "lt"]
    return bounds


def _require_depth(place: str, depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise invalid(
            place,
            f"is more than {DEPTH_LIMIT} objects deep. Several keys of one object "
            "already mean and: write fewer levels.",
        )
