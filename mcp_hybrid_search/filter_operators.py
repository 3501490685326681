"""What may stand after a key of a filter, and how to say so. Pure.

Pydantic checks the forms; its own words stay here.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from json import dumps
from typing import Annotated, Any

import pydantic
from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    FiniteFloat,
    Tag,
    TypeAdapter,
)
from typing_extensions import TypedDict

from mcp_hybrid_search.errors import InvalidInputError

VALUE_LIMIT = 1000
_NO_TEXT = "holds half of a surrogate pair, which is no text. Remove it."
_SHOWN_LIMIT = 40
_SURROGATE = re.compile("[\ud800-\udfff]")

_SCALAR = "must be text, a number, true or false"
_LIST = (
    f'{_SCALAR}, each in a list such as ["a", "b"]. Filters are combined with "and", '
    '"or" (lists of filters) and "not" (a filter).'
)
_NUMBER_OR_DATE = (
    'must be a number or an ISO 8601 date such as "2024-05-01" or '
    '"2024-05-01T09:30:00Z".'
)
_EXPECTED = {
    "eq": f"{_SCALAR}.",
    "ne": f"{_SCALAR}.",
    "gt": _NUMBER_OR_DATE,
    "gte": _NUMBER_OR_DATE,
    "lt": _NUMBER_OR_DATE,
    "lte": _NUMBER_OR_DATE,
    "any": _LIST,
    "none": _LIST,
    "exists": "must be true or false.",
}
_REASONS = {
    "less_than_equal": "is beyond 64 bit. Write it as text if it is an identifier.",
    "greater_than_equal": "is beyond 64 bit. Write it as text if it is an identifier.",
    "finite_number": "is not a finite number. Write one.",
    "value_error": _NO_TEXT,
    "too_short": "is an empty list. Write at least one value.",
    "too_long": f"has more than {VALUE_LIMIT} values. Write fewer.",
}
_SYNONYMS = {
    "in": "any",
    "nin": "none",
    "not_in": "none",
    "not": "ne",
    "contains": "any",
    "equals": "eq",
    "greater": "gt",
    "less": "lt",
    "=": "eq",
    "==": "eq",
    "!=": "ne",
    ">": "gt",
    ">=": "gte",
    "<": "lt",
    "<=": "lte",
    "after": "gt",
    "since": "gte",
    "from": "gte",
    "min": "gte",
    "before": "lt",
    "until": "lte",
    "max": "lte",
}


def _encodable(text: str) -> str:
    if _SURROGATE.search(text):
        raise ValueError
    return text


_Text = Annotated[str, AfterValidator(_encodable), Tag("str")]
_Boolean = Annotated[bool, Tag("bool")]
_Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), Tag("int")]
_Float = Annotated[FiniteFloat, Tag("float")]
_Null = Annotated[None, Tag("NoneType")]
# By type, since a union tried in order takes a large integer for a float.
_by_type = Discriminator(lambda value: type(value).__name__)
_Scalar = Annotated[_Text | _Boolean | _Integer | _Float, _by_type]
_ScalarOrNull = Annotated[_Text | _Boolean | _Integer | _Float | _Null, _by_type]
_Bound = Annotated[_Text | _Integer | _Float, _by_type]
_Scalars = Annotated[
    list[_Scalar], Field(min_length=1, max_length=VALUE_LIMIT), FailFast()
]


@pydantic.with_config(ConfigDict(extra="forbid", strict=True))
class _Operators(TypedDict, total=False):
    """Operators and operands, all of which a key has to satisfy."""

    eq: _ScalarOrNull
    ne: _ScalarOrNull
    gt: _Bound
    gte: _Bound
    lt: _Bound
    lte: _Bound
    any: _Scalars
    none: _Scalars
    exists: bool


_ADAPTER = TypeAdapter(_Operators)


def read_operators(value: object, place: str) -> Mapping[str, Any]:
    """Check what stands after a key; a bare value means eq, any or exists.

    Raises:
        InvalidInputError: If it is no operand and no object of operators.
    """
    bare = not isinstance(value, dict)
    operators = _spelled_out(value) if bare else value
    if not operators:
        raise invalid(place, f"has no operator. {_known_operators()}")
    try:
        return _ADAPTER.validate_python(operators)
    except pydantic.ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
    # Outside the handler: a chained error would carry pydantic's text and the input.
    name, *steps = error["loc"] or ("",)
    if name not in _EXPECTED:
        raise _unknown_operator(str(name), place)
    where = place if bare else f"{place}.{name}"
    where += "".join(f"[{step}]" for step in steps if isinstance(step, int))
    raise invalid(where, _REASONS.get(error["type"], _EXPECTED[str(name)]))


def not_a_date(place: str, operator: str) -> InvalidInputError:
    """Say that a bound is text, but not a date."""
    return invalid(f"{place}.{operator}", _NUMBER_OR_DATE)


def invalid(place: str, problem: str) -> InvalidInputError:
    """Say what is wrong at a place in the filter."""
    return InvalidInputError(f"{place} {problem}")


def key_place(key: object, place: str) -> str:
    """Name the place of a key.

    Raises:
        InvalidInputError: If there is no such key in any metadata.
    """
    if not isinstance(key, str) or not key.removeprefix("metadata."):
        raise invalid(place, "has a key that is empty or no text. Write a key's name.")
    if _SURROGATE.search(key):
        raise invalid(_inside(place, key), _NO_TEXT)
    return _inside(place, key)


def _inside(place: str, key: str) -> str:
    if len(key) > _SHOWN_LIMIT:
        key = f"{key[:_SHOWN_LIMIT]}…"
    simple = re.fullmatch(r"[\w.$-]+…?", key, re.ASCII)
    return f"{place}.{key}" if simple else f"{place}[{dumps(key)}]"


def _spelled_out(value: object) -> Mapping[str, object]:
    if value is None:
        return {"exists": False}
    return {"any" if isinstance(value, list) else "eq": value}


def _unknown_operator(name: str, place: str) -> InvalidInputError:
    word = name[:_SHOWN_LIMIT].lower().removeprefix("$")
    close: Iterable[str] = get_close_matches(word, _EXPECTED, n=1, cutoff=0.7)
    nearest = _SYNONYMS.get(word) or next(iter(close), None)
    hint = (
        f'Write "{nearest}".'
        if nearest
        else 'A key inside an object is written with a dot: {"author.name": "Ada"}.'
    )
    return invalid(
        _inside(place, name), f"is not an operator. {hint} {_known_operators()}"
    )


def _known_operators() -> str:
    return f"The operators are {', '.join(_EXPECTED)}."
