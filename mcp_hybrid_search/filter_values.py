"""Metadata as the index holds it, so that filters can find it. Pure.

Payload ``m`` holds under ``v`` a keyword for every value, ``<path>=<value>``, and one
for every path that has a value, ``<path>``: a single keyword index answers equality and
existence for any key, exactly and for any type. Numbers are also under ``n_<path>``,
dates, as epoch seconds, under ``t_<path>``: an order is a range over numbers. No
payload key holds two types: Qdrant Edge takes a boolean to match for an integer.
"""

import math
import re
from collections.abc import Container, Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, TypeAlias

Scalar: TypeAlias = str | bool | int | float

METADATA_KEY = "m"
KEYWORDS = "v"
NAME_LIMIT = 64
TEXT_LIMIT = 128
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[T ](\d\d:\d\d)(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?)?",
    re.ASCII,
)
_LARGEST, _SMALLEST = 1e290, 1e-290
_INTEGER_LIMIT = 2.0**63
_OBJECT = object()
_DOT = "-2e"


def filterable(
    metadata: Mapping[str, object], names: Container[str] | None = None
) -> dict[str, list[Any]]:
    """Flatten metadata to what the index holds under `METADATA_KEY`.

    Keys of nested objects are joined by ``.``; lists contribute each element.

    Args:
        metadata: Valid JSON, at most 16 deep.
        names: What `payload_name` calls the paths that are wanted; None for all.
    """
    values_by_path: dict[str, list[Any]] = {}
    for path, value in _leaves(metadata, ""):
        values_by_path.setdefault(path, []).append(value)
    payload: dict[str, dict[Any, None]] = {}
    for path, values in values_by_path.items():
        name = payload_name(path)
        if names is not None and name not in names:
            continue
        for key, entry in _entries(name, values):
            payload.setdefault(key, {})[entry] = None
    return {key: list(entries) for key, entries in payload.items()}


def payload_name(path: str) -> str:
    """Spell a path in letters, digits, ``-`` and ``_``, differently for each path.

    A long path becomes a digest: stores name files after payload keys, and a long key
    around many short ones would be repeated for each of them.
    """
    if len(path) <= NAME_LIMIT:
        name = _escaped(path)
        if len(name) <= NAME_LIMIT:
            return name
    return f"--{_digest(path)}"


def may_be_within(name: str, key: str) -> bool:
    """Return whether what `payload_name` calls so can be `key`, or inside of it."""
    start = payload_name(key)
    digest = name.startswith("--") or start.startswith("--")
    return digest or name == start or name.startswith(f"{start}{_DOT}")


@lru_cache(maxsize=4096)
def _escaped(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", _escape, path)


def keyword(name: str, value: Scalar) -> str:
    """Spell a value of a path: equal values, and no others, are spelled alike."""
    if isinstance(value, bool):
        return f"{name}=b:{value}"
    if isinstance(value, str):
        short = len(value) <= TEXT_LIMIT
        return f"{name}=s:{value}" if short else f"{name}=h:{_digest(value)}"
    whole = isinstance(value, int) or value.is_integer()
    return f"{name}=n:{int(value)}" if whole else f"{name}=n:{value!r}"


def comparable(number: float) -> int | float:
    """Round a number to what ranges compare.

    To 15 significant digits below 10^15, to a whole double above; sizes under 1e-290
    count as 0, over 1e290 as that. Qdrant reads one fraction in five back with an error
    of an ulp, so a finer order would depend on chance; it reads whole numbers exactly.
    """
    value = float(number)
    if 10**15 <= abs(value) < _INTEGER_LIMIT:
        value = float(round(value))
    else:
        size = min(abs(value), _LARGEST) if abs(value) > _SMALLEST else 0.0
        value = math.copysign(float(f"{size:.15g}"), value)
    return int(value) if _is_read_exactly(value) else value


def range_bound(operator: str, number: float) -> float:
    """Round a bound like the numbers it meets, with room for their reading error.

    Args:
        operator: ``gt``, ``gte``, ``lt`` or ``lte``.
        number: Finite.
    """
    bound = float(comparable(number))
    if _is_read_exactly(bound):
        return bound
    # Neighbours of 15 digits are 4 ulp apart or more; the error is at most 2.
    towards = -math.inf if operator in {"gte", "lt"} else math.inf
    return math.nextafter(math.nextafter(bound, towards), towards)


def epoch_seconds(text: str) -> float | None:
    """Seconds since 1970 of an ISO 8601 date or date-time, None of any other text.

    A date is its midnight; without an offset it is UTC.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    date, minutes, seconds, fraction, offset = match.groups()
    clock = f"{minutes or '00:00'}{(seconds or ':00')[:3]}"
    try:
        # +00:00 first: subtracting the offset itself may leave the years 1 to 9999.
        moment = datetime.fromisoformat(f"{date}T{clock}+00:00").timestamp()
        away = datetime.strptime(offset or "Z", "%z").utcoffset()
    except ValueError:
        return None
    return moment - (away or timedelta()).total_seconds() + float(fraction or 0)


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        if path:
            yield path, _OBJECT
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif value is not None:
        yield path, value


def _entries(name: str, values: list[Any]) -> Iterator[tuple[str, str | float]]:
    yield KEYWORDS, name
    for value in values:
        if value is _OBJECT:
            continue
        yield KEYWORDS, keyword(name, value)
        if isinstance(value, str):
            seconds = epoch_seconds(value)
            if seconds is not None:
                yield f"t_{name}", comparable(seconds)
        elif not isinstance(value, bool):
            yield f"n_{name}", comparable(value)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _escape(match: re.Match[str]) -> str:
    return "".join(f"-{byte:02x}" for byte in match[0].encode())


def _is_read_exactly(value: float) -> bool:
    return value.is_integer() and abs(value) < _INTEGER_LIMIT
