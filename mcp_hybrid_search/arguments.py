"""Bad tool arguments, told in our own words. Pure."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

_EXPECTED = {
    "string_type": "must be a string",
    "string_unicode": "must be text without lone surrogates",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of ordinary size",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "missing": "is required",
}


def without_nulls(
    arguments: Mapping[str, Any], required: Iterable[str]
) -> dict[str, Any]:
    """Drop arguments that are null, which means "not given" unless required."""
    kept = set(required)
    return {k: v for k, v in arguments.items() if v is not None or k in kept}


def unknown_arguments(arguments: Iterable[str], known: Iterable[str]) -> str | None:
    """Name the arguments that do not exist, and the nearest that do."""
    names = list(known)
    unknown = [name for name in arguments if name not in names]
    if not unknown:
        return None
    told = " ".join(_unknown(name, names) for name in unknown[:5])
    return f"{told} Known arguments: {', '.join(names)}."


def explained(error: ValidationError, models: Mapping[str, Iterable[str]]) -> str:
    """Say what is wrong with each argument, without echoing what was sent.

    Args:
        error: As pydantic raises it.
        models: Known fields by the name of an argument that holds objects.
    """
    items = error.errors(include_url=False, include_input=False, include_context=True)
    return " ".join(dict.fromkeys(_line(item, models) for item in items[:5]))


def _line(item: Mapping[str, Any], models: Mapping[str, Iterable[str]]) -> str:
    name = _path(item["loc"])
    if item["type"] == "extra_forbidden":
        known = list(models.get(str(item["loc"][0]), ()))
        return f"{_path(item['loc'][:-1])}: {_unknown(str(item['loc'][-1]), known)}"
    context = item.get("ctx", {})
    if item["type"] == "greater_than_equal":
        return f"{name} must be at least {context['ge']}."
    if item["type"] == "less_than_equal":
        return f"{name} must be at most {context['le']}."
    if item["type"] == "literal_error":
        return f"{name} must be {context['expected']}."
    expected = _EXPECTED.get(item["type"])
    return f"{name} {expected}." if expected else f"{name}: {item['msg']}."


def _path(location: Iterable[Any]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    shown = name[:64].encode("ascii", "backslashreplace").decode()
    return f"There is no argument {shown!r}.{hint}"
