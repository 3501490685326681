"""Filters as Qdrant Edge takes them."""

import qdrant_edge as edge

from mcp_hybrid_search.filters import (
    AllOf,
    AnyOf,
    Exists,
    Filter,
    InRange,
    Not,
    OneOf,
)


def to_edge(condition: Filter) -> edge.Filter:
    """Copy a filter into the engine's form.

    Not for a tree of unlimited depth: `parse_filter` bounds it, while the engine
    crashes on a thousand levels.
    """
    match condition:
        case AllOf(parts):
            return edge.Filter(must=[_condition(part) for part in parts])
        case AnyOf(parts):
            return edge.Filter(should=[_condition(part) for part in parts])
        case Not(part):
            return edge.Filter(must_not=[_condition(part)])
        case Exists(key):
            return edge.Filter(must_not=[edge.IsEmptyCondition(key)])
        case _:
            return edge.Filter(must=[_condition(condition)])


def _condition(condition: Filter) -> edge.FieldCondition | edge.Filter:
    match condition:
        case OneOf(key, values):
            return edge.FieldCondition(key, match=edge.MatchAny(list(values)))
        case InRange(key, gt=gt, gte=gte, lt=lt, lte=lte):
            bounds = edge.RangeFloat(gt=gt, gte=gte, lt=lt, lte=lte)
            return edge.FieldCondition(key, range=bounds)
        case _:
            return to_edge(condition)
