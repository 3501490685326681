"""The filter language against its definition, in a real engine."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.filter_values import (
    METADATA_KEY,
    comparable,
    epoch_seconds,
    filterable,
    keyword,
    payload_name,
    range_bound,
)
from mcp_hybrid_search.filters import (
    EVERYTHING,
    FILTER_SCHEMA,
    AllOf,
    Exists,
    InRange,
    Not,
    OneOf,
    parse_filter,
)
from mcp_hybrid_search.stores.edge_filters import to_edge
from tests.filter_reference import matches

DOCS = Path(__file__).parent.parent / "docs" / "filters.md"
DOCUMENT_COUNT = 4
KEYS = ["k", "k.k", "a", "b", "a.b", "a[0]", '"q"', "😀", "x" * 200, "gte", "K", "a_b"]
SHADOWED = ["source", "created_at", "metadata", "or", "not", "metadata.k"]
DATES = [
    "1960-01-01",
    "1960-01-01T00:00:00Z",
    "1960-01-01 01:00:00.25+01:00",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
]
SCALARS = [
    *[True, False, 0, 1, 1.0, -0.0, 1.5, 0.1, 0.1 + 0.2, 0.3, 1960, 1960.0],
    *[2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), 9.3e18, 5e-324, 1.7e308],
    *[
        "",
        "1",
        "true",
        "True",
        "a",
        "A",
        "s:a",
        "n:1",
        "=s:a",
        "x" * 128,
        "x" * 129,
        "\x00",
        "é",
        "e\u0301",
    ],
    *DATES,
]
NUMBERS = [value for value in SCALARS if not isinstance(value, str | bool)]
BOUNDS = ["gt", "gte", "lt", "lte"]


def documents(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    keys = st.sampled_from(KEYS + SHADOWED)
    values = st.recursive(
        scalars | st.none(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2)
        ),
        max_leaves=4,
    )
    return st.fixed_dictionaries(
        {
            "metadata": st.dictionaries(keys, values, max_size=4),
            "source": st.sampled_from([None, "", "a", "1960-01-01"]),
            "title": st.sampled_from([None, "a", "A", "\x00"]),
            "created_at": st.sampled_from([-315619200.0, 0.0, 1.7e9, 1.7e9 + 0.125]),
            "updated_at": st.sampled_from([None, 0.0, 1.0]),
        }
    )


def filters(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    numbers = scalars.filter(lambda value: not isinstance(value, str | bool))
    dates = st.sampled_from(DATES)
    some = st.lists(scalars, min_size=1, max_size=3)
    operators = st.fixed_dictionaries(
        {},
        optional={
            "eq": scalars | st.none(),
            "ne": scalars | st.none(),
            "any": some,
            "none": some,
            "exists": st.booleans(),
        },
    ).filter(bool)
    ranges = st.one_of(
        [
            st.dictionaries(st.sampled_from(BOUNDS), bounds, min_size=1, max_size=3)
            for bounds in (numbers, dates)
        ]
    )
    names = st.sampled_from(KEYS + [f"metadata.{key}" for key in KEYS + SHADOWED])
    times = st.sampled_from(["created_at", "updated_at"])
    texts = st.sampled_from(["source", "title"])
    leaves = st.one_of(
        st.dictionaries(
            names, scalars | st.none() | some | operators | ranges, min_size=1
        ),
        st.dictionaries(times, ranges | st.none(), min_size=1),
        st.dictionaries(texts, st.sampled_from(["", "a", "A", None]), min_size=1),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"not": inner}),
            st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        ),
        max_leaves=5,
    ).filter(lambda value: depth_of(value) <= 8)


@st.composite
def corpora(draw: st.DrawFn, filter_count: int = 1) -> tuple[list[Any], ...]:
    more = draw(
        st.lists(
            st.floats(allow_nan=False, allow_infinity=False)
            | st.integers(-(2**63), 2**63 - 1)
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
            max_size=4,
        )
    )
    scalars = st.sampled_from(more * 4 + SCALARS)
    return (
        draw(
            st.lists(
                documents(scalars), min_size=DOCUMENT_COUNT, max_size=DOCUMENT_COUNT
            )
        ),
        [draw(filters(scalars)) for _ in range(filter_count)],
    )


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    below = max((depth_of(x) for x in inner if isinstance(x, dict | list)), default=0)
    return below + isinstance(value, dict)


def new_shard(path: Path) -> edge.EdgeShard:
    vectors = {"dense": edge.EdgeVectorParams(size=2, distance=edge.Distance.Cosine)}
    return edge.EdgeShard.create(
        str(path), edge.EdgeConfig(vectors=vectors, wal_enabled=False)
    )


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edge.EdgeShard]:
    shard = new_shard(tmp_path_factory.mktemp("plain"))
    yield shard
    shard.close()


@pytest.fixture(scope="module")
def indexed_shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edge.EdgeShard]:
    shard = new_shard(tmp_path_factory.mktemp("indexed"))
    for key in ("m.v", "source", "title"):
        index(shard, key, edge.KeywordIndexParams())
    for key in ("m.n_k", "m.t_k", "created_at"):
        index(shard, key, edge.FloatIndexParams())
    yield shard
    shard.close()


def index(
    shard: edge.EdgeShard,
    key: str,
    schema: edge.KeywordIndexParams | edge.FloatIndexParams,
) -> None:
    shard.update(edge.UpdateOperation.create_field_index(key, schema))


def fill(shard: edge.EdgeShard, corpus: list[dict[str, Any]]) -> None:
    points = []
    for number, document in enumerate(corpus):
        payload = {**document, METADATA_KEY: filterable(document["metadata"])}
        points.append(edge.Point(number, {"dense": [1.0, number]}, payload))
    shard.update(edge.UpdateOperation.upsert_points(points))


def found(shard: edge.EdgeShard, value: dict[str, Any]) -> set[Any]:
    request = edge.ScrollRequest(limit=100, filter=to_edge(parse_filter(value)))
    return {record.id for record in shard.scroll(request)[0]}


def expected(corpus: list[dict[str, Any]], value: dict[str, Any]) -> set[Any]:
    return {number for number, one in enumerate(corpus) if matches(value, one)}


def with_metadata(*metadata: Any) -> list[dict[str, Any]]:
    rest = {"source": None, "title": None, "created_at": 0.0, "updated_at": None}
    return [{"metadata": one, **rest} for one in metadata]


@pytest.mark.parametrize("kind", ["shard", "indexed_shard"])
def test_the_engine_finds_what_the_definition_finds(
    kind: str, request: pytest.FixtureRequest
) -> None:
    shard: edge.EdgeShard = request.getfixturevalue(kind)

    @settings(deadline=None, max_examples=60)
    @given(corpora(filter_count=3))
    def check(case: tuple[list[Any], ...]) -> None:
        corpus, values = case
        fill(shard, corpus)
        for value in values:
            assert found(shard, value) == expected(corpus, value)

    check()


@settings(deadline=None, max_examples=30)
@given(corpora(filter_count=2))
def test_and_intersects_or_unites_and_not_complements(
    shard: edge.EdgeShard, case: tuple[list[Any], ...]
) -> None:
    corpus, (one, other) = case
    fill(shard, corpus)
    everything = found(shard, {})
    some, others = found(shard, one), found(shard, other)
    assert everything == set(range(DOCUMENT_COUNT))
    assert found(shard, {"and": [one, other]}) == some & others
    assert found(shard, {"or": [one, other]}) == some | others
    if depth_of(one) < 8:
        assert found(shard, {"not": one}) == everything - some


@settings(deadline=None, max_examples=25)
@given(corpora())
def test_a_filter_keeps_the_order_of_a_search_and_adds_no_hit(
    shard: edge.EdgeShard, case: tuple[list[Any], ...]
) -> None:
    corpus, (value,) = case
    fill(shard, corpus)

    def hits(condition: edge.Filter | None) -> list[Any]:
        nearest = edge.Query.Nearest([1.0, 0.0], using="dense")
        request = edge.QueryRequest(limit=100, query=nearest, filter=condition)
        return [point.id for point in shard.query(request)]

    kept = hits(to_edge(parse_filter(value)))
    assert kept == [one for one in hits(None) if one in expected(corpus, value)]


@pytest.mark.parametrize("key", ["m.v", "m.n_k", "m.t_k"])
def test_any_index_on_a_key_of_mixed_types_changes_nothing(
    key: str, tmp_path: Path
) -> None:
    corpus = with_metadata(*[{"k": value} for value in [*SCALARS, None, [], SCALARS]])
    conditions: list[Any] = [*SCALARS, None, *({"ne": one} for one in SCALARS)]
    conditions += [{bound: one} for bound in BOUNDS for one in NUMBERS + DATES]
    shard = new_shard(tmp_path)
    fill(shard, corpus)
    answers = [expected(corpus, {"k": one}) for one in conditions]
    assert [found(shard, {"k": one}) for one in conditions] == answers
    for schema in (edge.KeywordIndexParams(), edge.FloatIndexParams()):
        index(shard, key, schema)
        assert [found(shard, {"k": one}) for one in conditions] == answers
    shard.flush()
    shard.optimize()
    assert [found(shard, {"k": one}) for one in conditions] == answers
    shard.close()


def test_metadata_never_reaches_a_built_in_or_the_namespace(
    shard: edge.EdgeShard,
) -> None:
    corpus = with_metadata({"namespace": "b", "source": "b", "m": "b"}, {})
    fill(shard, [{**one, "namespace": "a"} for one in corpus] * 2)
    assert found(shard, {"namespace": "a"}) == set()
    assert found(shard, {"namespace": "b"}) == {0, 2}
    assert found(shard, {"source": "b"}) == set()
    assert found(shard, {"metadata.source": "b"}) == {0, 2}
    keys = [*KEYS, *SHADOWED, "namespace", "m.v_k", "../m", ""]
    for key in keys[:-1]:
        parsed = parse_filter({f"metadata.{key}": 1})
        assert isinstance(parsed, OneOf)
        assert parsed.key == "m.v"
        ordered = parse_filter({f"metadata.{key}": {"gt": 1}})
        assert isinstance(ordered, InRange)
        assert re.fullmatch(r"m\.n_[A-Za-z0-9_-]{1,66}", ordered.key)


NESTED = {
    "author": {"name": "Ada", "born": 1815},
    "tags": ["a", ["b", {"deep": True}]],
    "price": [5, 50],
    "on": "1969-07-20T20:17:40Z",
    "gone": None,
    "void": {},
    "none": [],
}


@pytest.mark.parametrize(
    ("value", "found_it"),
    [
        ({"author.name": "Ada"}, True),
        ({"author.name": "ada"}, False),
        ({"tags": "b"}, True),
        ({"tags": {"none": ["b", "z"]}}, False),
        ({"tags.deep": True}, True),
        ({"tags.deep": 1}, False),
        ({"price": {"gt": 5}}, True),
        ({"price": {"gt": 5, "lt": 50}}, False),  # one value within both
        ({"price": {"eq": 5, "ne": 6}}, True),
        ({"on": {"gte": "1969-07-20", "lt": "1969-07-21"}}, True),
        ({"on": {"gt": 0}}, False),
        ({"on": "1969-07-20T20:17:40+00:00"}, False),  # equality is of text
        ({"gone": None}, True),
        ({"gone": {"ne": None}}, False),
        ({"gone": {"ne": 1}}, True),
        ({"author": {"exists": True}}, True),
        ({"void": {"exists": True}}, True),
        ({"none": {"exists": True}}, False),
        ({"missing": {"none": [1]}}, True),
        ({"missing": {"lt": 1}}, False),
    ],
)
def test_conditions_hold_as_documented(
    value: dict[str, Any], *, found_it: bool, shard: edge.EdgeShard
) -> None:
    corpus = with_metadata(*[NESTED] * DOCUMENT_COUNT)
    fill(shard, corpus)
    assert bool(found(shard, value)) is found_it
    assert bool(expected(corpus, value)) is found_it


def test_a_filter_becomes_a_tree_of_payload_keys() -> None:
    assert parse_filter({}) == EVERYTHING
    assert parse_filter({"topic": "physics", "n": {"gte": 1, "lt": 2}}) == AllOf(
        (OneOf("m.v", ("topic=s:physics",)), InRange("m.n_n", gte=1.0, lt=2.0))
    )
    assert parse_filter({"a.b": {"none": [1, True]}}) == Not(
        OneOf("m.v", ("a-2eb=n:1", "a-2eb=b:True"))
    )
    assert parse_filter({"n": {"gt": 1, "gte": 2, "lt": 4, "lte": 4}}) == InRange(
        "m.n_n", gte=2.0, lt=4.0
    )
    assert parse_filter({"n": {"gt": 2, "gte": 2, "lt": 4, "lte": 3}}) == InRange(
        "m.n_n", gt=2.0, lte=3.0
    )
    assert parse_filter({"source": "s"}) == OneOf("source", ("s",))
    assert parse_filter({"updated_at": None}) == Not(Exists("updated_at"))
    assert parse_filter({"created_at": {"gt": "1970-01-02"}}) == InRange(
        "created_at", gt=86400.0
    )


def test_metadata_is_flattened_by_type() -> None:
    metadata = {"a": {"b": 1.0}, "a.b": [2, 1, True, None], "d": "1970-01-02"}
    keywords = ["a", "a-2eb", "a-2eb=n:1", "a-2eb=n:2", "a-2eb=b:True"]
    assert filterable(metadata) == {
        "v": [*keywords, "d", "d=s:1970-01-02"],
        "n_a-2eb": [1, 2],
        "t_d": [86400],
    }
    assert filterable({"gone": None, "none": [[], [None]]}) == {}


def nested(wrap: str, depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    for _ in range(depth - 1):
        value = {wrap: value if wrap == "not" else [value]}
    return value


def nested_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("wrap", ["and", "or", "not"])
def test_eight_levels_are_read_and_nine_refused(wrap: str) -> None:
    parse_filter(nested(wrap, 8))
    with pytest.raises(InvalidInputError, match="more than 8 objects deep"):
        parse_filter(nested(wrap, 9))


@pytest.mark.parametrize("wrap", ["and", "or", "not", "k", "eq"])
def test_a_hundred_thousand_levels_are_refused_calmly(wrap: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_filter(nested(wrap, 100_000))
    with pytest.raises(InvalidInputError):
        parse_filter({"k": {wrap: nested_list(100_000)}})
    with pytest.raises(InvalidInputError):
        parse_filter({wrap: nested_list(100_000)})


def test_an_operator_object_counts_as_a_level() -> None:
    parse_filter({"and": [nested("not", 6), {"a": {"eq": 1}}]})
    value: dict[str, Any] = {"a": {"eq": 1}}
    for _ in range(7):
        value = {"not": value}
    with pytest.raises(InvalidInputError, match="more than 8 objects deep"):
        parse_filter(value)


def test_the_largest_filter_is_read_and_searched(shard: edge.EdgeShard) -> None:
    fill(shard, with_metadata(*[{"k0": 1}] * DOCUMENT_COUNT))
    value = {f"k{number}": list(range(1000)) for number in range(256)}
    assert found(shard, {"or": [value, {}][:1]}) == set()
    with pytest.raises(InvalidInputError, match="over the limit of 256 conditions"):
        parse_filter({"or": [value, {"a": 1}]})
    with pytest.raises(InvalidInputError, match="over the limit of 256 conditions"):
        parse_filter({"k": {f"operator{number}": 1 for number in range(257)}})


HALF = "\ud83d"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "filter must be a JSON object"),
        ('{"a": 1}', "filter must be a JSON object"),
        ({"a": {}}, "filter.a has no operator"),
        ({"a": []}, "filter.a is an empty list"),
        ({"a": [1, None]}, "filter.a[1] must be text, a number, true or false"),
        ({"a": {"any": "x"}}, "filter.a.any must be text, a number, true or false,"),
        ({"a": {"any": list(range(1001))}}, "filter.a.any has more than 1000 values"),
        ({"a": {"gte": [1]}}, "filter.a.gte must be a number or an ISO 8601 date"),
        ({"a": {"gte": True}}, "filter.a.gte must be a number or an ISO 8601 date"),
        ({"a": {"gte": "noon"}}, "filter.a.gte must be a number or an ISO 8601 date"),
        ({"a": {"gte": 1, "lt": "1970-01-01"}}, "filter.a mixes a number and a date"),
        ({"a": {"gte": math.nan}}, "filter.a.gte is not a finite number"),
        ({"a": -math.inf}, "filter.a is not a finite number"),
        ({"a": 2**63}, "filter.a is beyond 64 bit"),
        ({"a": [-(2**63) - 1]}, "filter.a[0] is beyond 64 bit"),
        ({"a": {"lt": 10**5000}}, "filter.a.lt is beyond 64 bit"),
        ({"a": {"exists": 1}}, "filter.a.exists must be true or false"),
        ({"a": {"exsts": True}}, 'filter.a.exsts is not an operator. Write "exists"'),
        ({"a": {"$gte": 1}}, 'filter.a.$gte is not an operator. Write "gte"'),
        ({"a": {"$in": [1]}}, 'filter.a.$in is not an operator. Write "any"'),
        ({"a": {"name": "x"}}, "filter.a.name is not an operator. A key inside an obj"),
        ({"a": {1: 2}}, "filter.a.1 is not an operator"),
        ({"a": {HALF: 2}}, "filter.a"),
        ({"a": b"x"}, "filter.a must be text, a number, true or false"),
        ({"or": []}, "filter.or must be a list of filters"),
        ({"and": {"a": 1}}, "filter.and must be a list of filters"),
        ({"or": [{"a": 1}, {}]}, "filter.or[1] is empty and would match everything"),
        ({"not": {}}, "filter.not is empty"),
        ({"not": [{"a": 1}]}, "filter.not must be a JSON object"),
        ({"$or": [{"a": 1}]}, "filter.$or[0] must be text"),
        ({"": 1}, "filter has a key that is empty or no text"),
        ({"metadata.": 1}, "filter has a key that is empty or no text"),
        ({1: 1}, "filter has a key that is empty or no text"),
        ({f"a{HALF}": 1}, 'filter["a\\ud83d"] holds half of a surrogate pair'),
        ({"a": f"b{HALF}"}, "filter.a holds half of a surrogate pair"),
        ({"x" * 50_000: {"gt": None}}, f"filter.{'x' * 40}….gt must be a number"),
        ({"a\nb": {"gt": None}}, 'filter["a\\nb"].gt must be a number'),
        ({"source": 1}, "filter.source can only equal text"),
        ({"title": {"gt": "1970-01-01"}}, "filter.title has no order"),
        ({"created_at": "1970-01-01"}, "filter.created_at is a moment"),
    ],
)
def test_a_mistake_is_named_with_its_place(value: object, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_filter(value)
    text = str(caught.value)
    assert text.startswith(message)
    assert "pydantic" not in text
    assert len(text.encode()) < 400
    assert caught.value.__cause__ is caught.value.__context__ is None


@settings(deadline=None, max_examples=100)
@given(st.recursive(st.sampled_from([*SCALARS, None, HALF, math.nan, 2**64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["and", "or", "not", "any", "gte", "exists", "source", "k"]),
        inner, max_size=3), max_leaves=12))  # fmt: skip
def test_any_json_is_read_or_refused(value: Any) -> None:
    with suppress(InvalidInputError):
        to_edge(parse_filter(value))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0),
        ("1969-12-31T23:59:59.75Z", -0.25),
        ("1970-01-01 00:00", 0),
        ("1970-01-01T00:00:00.123456789", 0.123456789),
        ("2024-02-29T12:00:00+05:30", 1709188200),
        ("0001-01-01T00:00:00+23:59", -62135683140),
        ("9999-12-31T23:59:59-23:59", 253402387139),
        ("2023-02-29", None),
        ("0000-01-01", None),
        ("2024-05-01T24:00:00", None),
        ("2024-05-01T00:00:60Z", None),
        ("2024-05-01T00:00:00+24:00", None),
        ("2024-05-01Z", None),
        ("2024-5-1", None),
        ("20240501", None),
        ("2024-05-01T00:00:00.Z", None),
        ("2024-05-01\n", None),
        ("٢٠٢٤-05-01", None),
        ("2024", None),
        ("", None),
    ],
)
def test_dates_are_read_as_epoch_seconds(text: str, seconds: float | None) -> None:
    assert epoch_seconds(text) == seconds


@settings(deadline=None, max_examples=60)
@given(
    st.datetimes(
        min_value=datetime(1, 1, 2),  # noqa: DTZ001
        max_value=datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=st.builds(
            timezone,
            st.integers(-1439, 1439).map(lambda count: timedelta(minutes=count)),
        ),
    )
)
def test_what_python_writes_is_read_back(moment: datetime) -> None:
    seconds = epoch_seconds(moment.isoformat())
    assert seconds == pytest.approx(moment.timestamp(), abs=1e-4)
    assert epoch_seconds(moment.isoformat(" ", "minutes")) == (
        moment.replace(second=0, microsecond=0).timestamp()
    )


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=3))
@example("a.b", "a-2eb")
@example("\x012", "\x12")
@example("😀", "-f0-9f-98-80")
@example("--" + "0" * 64, "x" * 65)
@example("x" * 64, "x" * 65)
def test_two_paths_never_share_a_name(one: str, other: str) -> None:
    other = other.encode(errors="ignore").decode()
    assert (payload_name(one) == payload_name(other)) is (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_-]{0,66}", payload_name(one))


NUMERIC = st.floats(allow_nan=False, allow_infinity=False) | st.integers(
    -(2**63), 2**63 - 1
)


@pytest.mark.parametrize(
    ("number", "rounded"),
    [
        (0.1 + 0.2, 0.3),
        (1.5, 1.5),
        (10**15 + 1, 10**15 + 1),
        (1e15 + 0.625, 10**15 + 1),
        (2**53 + 1, 2**53),
        (2**63 - 1, 9.22337203685478e18),
        (-5e-324, 0),
        (-1.7e308, -1e290),
    ],
)
def test_ranges_compare_fifteen_digits_or_whole_numbers(
    number: float, rounded: float
) -> None:
    assert comparable(number) == rounded
    assert type(comparable(number)) is type(rounded)


@settings(deadline=None, max_examples=60)
@given(NUMERIC, NUMERIC)
def test_numbers_keep_their_order_and_their_equality(one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert comparable(low) <= comparable(high)
    assert (keyword("k", one) == keyword("k", other)) is (one == other)


@settings(deadline=None, max_examples=60)
@given(NUMERIC)
def test_bounds_leave_room_for_two_ulp_and_no_more_than_a_digit(number: float) -> None:
    bound = float(comparable(number))
    room = 0.0 if isinstance(comparable(number), int) else 2 * math.ulp(bound)
    assert range_bound("gte", number) == range_bound("lt", number)
    assert range_bound("lte", number) == range_bound("gt", number)
    assert range_bound("lte", number) - bound <= room
    assert bound - range_bound("gte", number) <= room
    assert (range_bound("gte", number) < bound) is bool(room)


def test_a_long_key_around_short_ones_is_not_repeated() -> None:
    flat = filterable({"x" * 30_000: {f"k{number}": 1.5 for number in range(255)}})
    assert len(json.dumps(flat)) < 64_000


def test_a_long_text_is_told_from_its_digest() -> None:
    text = "x" * 5000
    digest = keyword("k", text).removeprefix("k=h:")
    assert len(digest) == 64
    assert len({keyword("k", one) for one in (text, f"{text}x", digest)}) == 3


def test_the_schema_is_short_and_its_example_is_a_filter() -> None:
    assert len(json.dumps(FILTER_SCHEMA)) < 600
    for value in FILTER_SCHEMA["examples"]:
        parse_filter(value)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)


def test_the_examples_of_the_documentation_do_what_they_say(
    tmp_path: Path,
) -> None:
    corpus = [json.loads(line) for line in blocks("jsonl")[0].splitlines()]
    for document in corpus:
        for key in ("created_at", "updated_at"):
            document[key] = epoch_seconds(document[key])
    shard = new_shard(tmp_path)
    fill(shard, corpus)
    lines = [line for block in blocks("text") for line in block.splitlines()]
    examples = [line.split(" → ") for line in lines]
    assert len(examples) > 20
    for value, titles in examples:
        numbers = found(shard, json.loads(value))
        assert numbers == expected(corpus, json.loads(value))
        assert " ".join(str(corpus[one]["title"]) for one in sorted(numbers)) == titles
    shard.close()


def test_the_mistakes_of_the_documentation_are_answered_as_it_says() -> None:
    pairs = [block.strip().split("\n") for block in blocks("console")]
    assert len(pairs) > 2
    for value, answer in pairs:
        with pytest.raises(InvalidInputError) as caught:
            parse_filter(json.loads(value))
        assert str(caught.value) == answer
