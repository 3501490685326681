"""Schemas of the tools' results, as clients check them quickly. Pure."""

from typing import Any

from pydantic import BaseModel


def output_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a result's schema without references and alternatives.

    Clients check every result against it: as pydantic writes it, the check of ten
    hits takes the SDK's client longer than the search.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    flat: dict[str, Any] = _inlined(schema, definitions)
    return flat


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return _inlined({**definitions[name], **_without(schema, "$ref")}, definitions)
    match schema.get("anyOf"):
        case [{"$ref": _} as reference, {"type": "null"}]:
            inner = _inlined(reference, definitions)
            nullable = {**inner, "type": ["object", "null"]}
            return {**nullable, **_without(schema, "anyOf")}
        case [{"type": str(kind)} as first, {"type": "null"}]:
            return {**first, **_without(schema, "anyOf"), "type": [kind, "null"]}
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}
