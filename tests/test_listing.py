"""Documents are listed in order, page by page, whatever is written in between."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_hybrid_search.documents import (
    NOBODY,
    Document,
    DocumentPage,
    ListRequest,
    NewDocument,
    OrderBy,
    SearchRequest,
    Stored,
)
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import InvalidInputError, NotFoundError
from mcp_hybrid_search.filter_matching import (
    MetadataReader,
    field_payload,
    matcher,
)
from mcp_hybrid_search.filter_values import may_be_within, payload_name
from mcp_hybrid_search.filters import parse_filter
from mcp_hybrid_search.listing import cursor, place_of
from mcp_hybrid_search.paging import Pager
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.stores import lists
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from tests.conftest import SharedEncoders
from tests.fabricated import fabricated_store, put
from tests.filter_reference import matches
from tests.recovery import new
from tests.test_filters import KEYS, SCALARS, SHADOWED, corpora, filters

pytestmark = pytest.mark.anyio

ORDERS = get_args(OrderBy)
REQUEST = ListRequest("documents", "default")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("listing")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with fabricated_store(tmp_path / "data") as store:
        yield store


@pytest.fixture(scope="module")
def shared(root: Path) -> Iterator[EmbeddedStore]:
    """A store that examples share; each empties it first."""
    with fabricated_store(root / "shared") as store:
        yield store


def pages(pager: Pager, request: ListRequest) -> Iterator[DocumentPage]:
    while True:
        page = pager.page(request)
        yield page
        if page.next_cursor is None:
            return
        request = replace(request, cursor=page.next_cursor)


def listed(pager: Pager, request: ListRequest) -> list[str]:
    return [d.document_id for page in pages(pager, request) for d in page.documents]


# Filters


def fields(document: dict[str, Any]) -> dict[str, Any]:
    """The fields of a document as the ledger has them: times are never missing."""
    return {**document, "updated_at": document["updated_at"] or 0.0}


def passes(value: dict[str, Any], document: dict[str, Any]) -> bool:
    condition = parse_filter(value)
    own = {key: document[key] for key in document if key != "metadata"}
    payload = field_payload(**own)
    payload |= MetadataReader(condition).payload(document["metadata"])
    return matcher(condition)(payload)


@settings(deadline=None, max_examples=150)
@given(corpora(filter_count=3))
def test_a_filter_passes_what_its_definition_passes(
    case: tuple[list[Any], ...],
) -> None:
    corpus, values = case
    for document in map(fields, corpus):
        for value in values:
            assert passes(value, document) == matches(value, document)


@given(
    keys=st.lists(st.sampled_from([*KEYS, *SHADOWED, "-", "--", "é" * 40]), min_size=1)
)
def test_what_is_below_a_key_is_never_left_out(keys: list[str]) -> None:
    assert may_be_within(payload_name(".".join(keys)), keys[0])


def test_what_is_not_asked_for_is_not_read() -> None:
    reader = MetadataReader(parse_filter({"a.b": 1, "year": {"gt": 1}}))
    assert reader.payload({"year": 5, "a": {"b": [1], "c": 2}, "ab": 3}) == {
        "m.v": ["year", "year=n:5", "a-2eb", "a-2eb=n:1"],
        "m.n_year": [5],
        "m.n_a-2eb": [1],
    }


METADATA: list[dict[str, Any]] = [
    {"k": 1, "a": {"b": "x" * 200}, "K": [True, "a"]},
    {"k": 1.5, "k.k": 0.1, "a": [0.3, "1960-01-01"]},
    {"k": 2**53 + 1, "😀": None, "b": "A"},
    {"a.b": 2**63 - 1, "k": "1", "gte": False},
    {"metadata": {"k": 5e-324}, "or": [1.7e308], "a[0]": {}},
    {"source": "a", "k": ["1960-01-01T00:00:00Z", {"k": 0.3}], "a_b": []},
    {},
]


@pytest.fixture(scope="module")
def filled(root: Path, encoders: SharedEncoders) -> Iterator[Engine]:
    engine = Engine(load_settings(data_dir=root / "data", min_free_bytes=0), encoders)
    documents = [
        new(
            f"Note {number} on the sea.",
            f"d{number}",
            metadata=metadata,
            title=[None, "a", "A"][number % 3],
            source=[None, "a"][number % 2],
        )
        for number, metadata in enumerate(METADATA)
    ]
    outcomes = anyio.run(engine.store_many, documents)
    assert [type(outcome) for outcome in outcomes] == [Stored] * len(METADATA)
    yield engine
    engine.close()


@settings(deadline=None, max_examples=60)
@given(value=filters(st.sampled_from(SCALARS)))
def test_a_list_holds_what_a_search_with_its_filter_finds(
    filled: Engine, value: dict[str, Any]
) -> None:
    async def both() -> tuple[list[str], list[str]]:
        request = replace(REQUEST, filter=value, order_by="id")
        search = SearchRequest("sea", "documents", "default", 100, filter=value)
        listed = (await filled.documents(request)).documents
        found = (await filled.search(search)).hits
        return (
            [document.document_id for document in listed],
            sorted(hit.document.document_id for hit in found),
        )

    by_list, by_search = anyio.run(both)
    assert by_list == by_search


# Orders and pages


def sorted_by(order_by: str, documents: list[Document]) -> list[str]:
    """Order documents slowly: titles that are missing last, equal ones by id."""
    name = order_by.lstrip("-")

    def value(document: Document) -> Any:
        return (
            (document.document_id,)
            if name == "id"
            else (getattr(document, name), document.document_id)
        )

    there = [d for d in documents if name == "id" or value(d)[0] is not None]
    missing = [d for d in documents if d not in there]
    descending = order_by.startswith("-")
    ordered = sorted(there, key=value, reverse=descending)
    ordered += sorted(missing, key=lambda d: d.document_id, reverse=descending)
    return [document.document_id for document in ordered]


titles = st.sampled_from([None, "", "a", "A", "é", "\U0001f600", "\uffff", "a\x00b"])
times = st.sampled_from([0.0, 1.5, 1.7e9, 1.7e9 + 0.001])
changes = st.tuples(
    st.sampled_from(["put", "delete", "none"]),
    st.integers(0, 19),
    st.fixed_dictionaries(
        {
            "title": titles,
            "created_at": times,
            "updated_at": times,
            "metadata": st.sampled_from([{}, {"k": 1}, {"k": 2}]),
        }
    ),
)


@settings(deadline=None, max_examples=80)
@given(
    first=st.lists(changes, max_size=25),
    between=st.lists(st.lists(changes, max_size=4), max_size=12),
    request=st.builds(
        ListRequest,
        st.just("documents"),
        st.just("default"),
        st.sampled_from([None, {"k": 1}, {"k": {"gte": 1}}, {"title": "a"}]),
        st.sampled_from(ORDERS),
        st.integers(1, 5),
        st.none(),
    ),
)
def test_what_is_not_touched_comes_exactly_once_and_in_order(
    shared: EmbeddedStore,
    first: list[Any],
    between: list[list[Any]],
    request: ListRequest,
) -> None:
    for document in everything(shared):
        remove(shared, document.document_id)
    for change in first:
        apply(shared, change)
    untouched = {d.document_id: d for d in everything(shared)}
    seen: list[str] = []
    rest = iter(between)
    for page in pages(Pager(shared), request):
        assert len(page.documents) <= request.limit
        matching = [d for d in everything(shared) if wanted(request, d)]
        assert page.total == len(matching)
        seen += [document.document_id for document in page.documents]
        for change in next(rest, []):
            apply(shared, change)
            untouched.pop(f"d{change[1]}", None)
    expected = [d for d in untouched.values() if wanted(request, d)]
    assert [name for name in seen if name in untouched] == sorted_by(
        request.order_by, expected
    )


def everything(store: EmbeddedStore) -> list[Document]:
    found = store.named("documents")
    if found is None:
        return []
    keys = store._ledger.document_keys(found)
    rows = [store._ledger.document(key) for key in keys]
    return [row.document for row in rows if row is not None]


def remove(store: EmbeddedStore, document_id: str) -> None:
    found = store.named("documents")
    if found is not None:
        store.delete(found, "default", [document_id], origin=NOBODY)


def apply(store: EmbeddedStore, change: tuple[str, int, dict[str, Any]]) -> None:
    kind, number, values = change
    if kind == "put":
        put(store, f"d{number}", **values)
    elif kind == "delete":
        remove(store, f"d{number}")


def wanted(request: ListRequest, document: Document) -> bool:
    return request.filter is None or matches(
        dict(request.filter),
        {
            "metadata": document.metadata,
            "title": document.title,
            "source": document.source,
            "created_at": document.created_at,
            "updated_at": document.updated_at,
        },
    )


@pytest.mark.parametrize("value", [None, {"k": {"gte": 0}}])
def test_a_filter_is_read_in_parts_and_loses_nothing_between_them(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, value: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(lists, "SCAN_ROWS", 3)
    for number in range(20):
        put(store, f"d{number:02}", metadata={"k": number}, title=str(number % 4))
    for order_by in ORDERS:
        request = replace(REQUEST, order_by=order_by, limit=7, filter=value)
        expected = sorted_by(order_by, everything(store))
        assert listed(Pager(store), request) == expected


def test_a_document_is_listed_as_it_is_read(store: EmbeddedStore) -> None:
    put(store, "a", title="T", source="S", metadata={"k": [1]}, created_at=1.5)
    page = Pager(store).page(REQUEST)
    assert page.documents == (everything(store)[0],)
    assert (page.total, page.collection, page.next_cursor) == (1, "documents", None)


# Cursors


def first_cursor(store: EmbeddedStore, request: ListRequest = REQUEST) -> str:
    for name in ("a", "b", "c"):
        put(store, name, metadata={"k": 1}, title=name)
    made = Pager(store).page(replace(request, limit=1)).next_cursor
    assert made is not None
    return made


CHANGED: list[dict[str, Any]] = [
    {"collection": "other"},
    {"namespace": "other"},
    {"order_by": "updated_at"},
    {"order_by": "title"},
    {"filter": {"k": 1}},
]


@pytest.mark.parametrize("change", CHANGED, ids=str)
def test_a_cursor_of_another_question_is_refused(
    store: EmbeddedStore, change: dict[str, Any]
) -> None:
    put(store, "a", collection="other")
    put(store, "a", namespace="other")
    request = replace(REQUEST, cursor=first_cursor(store), **change)
    with pytest.raises(InvalidInputError, match="Start again without cursor"):
        Pager(store).page(request)


def test_a_page_may_have_another_size_than_the_one_before(store: EmbeddedStore) -> None:
    request = replace(REQUEST, cursor=first_cursor(store), limit=10)
    assert len(Pager(store).page(request).documents) == 2


def forged(*content: Any) -> str:
    text = json.dumps(content[0] if len(content) == 1 else content)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


DIGEST = json.loads(base64.urlsafe_b64decode(cursor(REQUEST, (1.0, "a")) + "=="))[0]

BROKEN = [
    "",
    "x",
    "====",
    "né",
    "\ud800",
    "A" * 100_000,
    forged({}),
    forged(None),
    forged([]),
    forged(DIGEST, 1.0),
    forged(DIGEST, 1.0, None),
    forged(DIGEST, 1.0, "a", "b"),
    forged(DIGEST, None, "a"),
    forged(DIGEST, "x", "a"),
    forged(DIGEST, bool(1), "a"),
    forged(DIGEST, 10**400, "a"),
    forged(DIGEST, float("nan"), "a"),
    forged(DIGEST, float("inf"), "a"),
    forged(DIGEST, 1.0, "\ud800"),
    forged("0" * 16, 1.0, "a"),
    base64.urlsafe_b64encode(b"[" * 6_000).decode(),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda text: ascii(text)[:30])
def test_a_broken_cursor_is_refused(store: EmbeddedStore, broken: str) -> None:
    put(store, "a")
    with pytest.raises(InvalidInputError, match="Start again without cursor"):
        Pager(store).page(replace(REQUEST, cursor=broken))


@given(st.text(max_size=40))
def test_whatever_a_cursor_is_it_is_refused_in_our_words(text: str) -> None:
    with pytest.raises(InvalidInputError, match="Start again without cursor"):
        place_of(replace(REQUEST, cursor=text))


@given(
    title=st.text(st.characters(exclude_categories=["Cs"])) | st.none(),
    name=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_cursor_leads_where_it_was_made(title: str | None, name: str) -> None:
    request = replace(REQUEST, order_by="title")
    made = cursor(request, (title, name))
    assert place_of(replace(request, cursor=made)) == (title, name)


def test_a_cursor_to_the_longest_document_there_can_be_is_taken() -> None:
    request = replace(REQUEST, order_by="title")
    place = ("\0" * 2_000, '"' * 512)
    assert place_of(replace(request, cursor=cursor(request, place))) == place


# Questions that cannot be asked, and names


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"limit": 0}, "limit must be from 1 to 1000"),
        ({"limit": 1001}, "limit must be from 1 to 1000"),
        ({"order_by": "size"}, "order_by must be one of created_at, -created_at"),
        ({"collection": "../x"}, "collection must match"),
        ({"namespace": "a b"}, "namespace must match"),
        ({"filter": {"year": {"between": 1}}}, "between is not an operator"),
    ],
)
async def test_a_list_that_cannot_be_is_refused(
    engine: Engine, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInputError, match=told):
        await engine.documents(replace(REQUEST, **change))


async def test_before_anything_is_stored_a_list_is_empty_and_says_so(
    engine: Engine,
) -> None:
    page = await engine.documents(REQUEST)
    assert (page.documents, page.total, page.next_cursor) == ((), 0, None)
    assert "Nothing is stored yet in namespace 'default'" in page.notices[0]
    await engine.store(new("one", "a"))
    with pytest.raises(NotFoundError, match=r"'nope'\. There are: 'documents'"):
        await engine.documents(replace(REQUEST, collection="nope"))


def test_names_are_listed_by_how_they_begin(store: EmbeddedStore) -> None:
    pager = Pager(store)
    for namespace in ("alice", "al", "bob", "alicia"):
        for name in ("a", "a%b", "a_b", "ab", "é", "éa"):
            put(store, name, namespace=namespace)
    assert pager.namespaces("documents", "", 100) == ["al", "alice", "alicia", "bob"]
    assert pager.namespaces("documents", "ali", 100) == ["alice", "alicia"]
    assert pager.namespaces("documents", "al", 2) == ["al", "alice"]
    assert pager.namespaces("documents", "z", 100) == []
    assert pager.document_ids("documents", "bob", "a", 100) == ["a", "a%b", "a_b", "ab"]
    assert pager.document_ids("documents", "bob", "é", 1) == ["é"]
    assert pager.document_ids("documents", "bob", "%", 100) == []
    assert pager.document_ids("documents", "nobody", "", 100) == []
    assert pager.namespaces("nope", "", 100) == []
    assert pager.document_ids("nope", "bob", "", 100) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda pager: pager.namespaces("../x", "", 10),
        lambda pager: pager.namespaces("documents", "\ud800", 10),
        lambda pager: pager.namespaces("documents", "", 0),
        lambda pager: pager.document_ids("documents", "a b", "", 10),
        lambda pager: pager.document_ids("documents", "default", "", 1001),
    ],
)
def test_names_that_cannot_be_listed_are_refused(
    store: EmbeddedStore, ask: Callable[[Pager], Any]
) -> None:
    with pytest.raises(InvalidInputError):
        ask(Pager(store))


async def test_the_engine_lists_names_too(engine: Engine) -> None:
    await engine.store(new("one", "a"))
    await engine.store(NewDocument("one", "documents", "bob", document_id="b"))
    assert await engine.namespaces("documents") == ["bob", "default"]
    assert await engine.document_ids("documents", "bob", "b") == ["b"]
