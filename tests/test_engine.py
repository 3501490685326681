"""What is stored is found, replaced, kept apart and deleted, with the real models."""

import random
import unicodedata
from dataclasses import replace
from typing import Literal

import anyio
import numpy as np
import pytest

from mcp_hybrid_search import searching
from mcp_hybrid_search.chunking import encoded_text
from mcp_hybrid_search.documents import (
    BM25,
    COLBERT,
    DENSE,
    NewDocument,
    SearchRequest,
    SearchResult,
    Stored,
)
from mcp_hybrid_search.engine import Engine
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    InvalidInputError,
    NotFoundError,
)
from mcp_hybrid_search.searching import NOT_COMPLETE
from tests.conftest import OpenEngine, SharedEncoders
from tests.reference import bm25, maxsim

pytestmark = pytest.mark.anyio

NOTES = (
    ("whale", "Moby Dick is the white whale that took the captain's leg.", "sea"),
    ("soup", "Leek soup wants butter, leeks, potatoes and a little patience.", "food"),
    ("rust", "The borrow checker refuses two mutable references at a time.", "code"),
    ("scale", "Standardise each feature to zero mean and unit variance.", "ml"),
    ("boat", "The Pequod was lost with all hands but one.", "sea"),
)


def new(text: str, **given: object) -> NewDocument:
    values = {"collection": "documents", "namespace": "default", **given}
    return NewDocument(text, **values)  # type: ignore[arg-type]


async def fill(engine: Engine) -> None:
    documents = [
        new(text, document_id=name, metadata={"topic": topic})
        for name, text, topic in NOTES
    ]
    outcomes = await engine.store_many(documents)
    assert [o.status for o in outcomes if isinstance(o, Stored)] == ["created"] * 5


async def search(engine: Engine, query: str, **given: object) -> SearchResult:
    request = SearchRequest(query, "documents", "default")
    return await engine.search(replace(request, **given))  # type: ignore[arg-type]


def ids(result: SearchResult) -> list[str]:
    return [hit.document.document_id for hit in result.hits]


async def test_a_question_in_other_words_finds_the_document(engine: Engine) -> None:
    await fill(engine)
    assert ids(await search(engine, "normalising inputs before training"))[0] == "scale"
    assert ids(await search(engine, "borrow checker"))[0] == "rust"


@pytest.mark.parametrize("word", ["ERR_4711", "xqzwv", "SKU-90210-b", "patience"])
async def test_a_text_that_alone_holds_the_word_asked_for_is_first(
    engine: Engine, word: str
) -> None:
    await fill(engine)
    words = [f"Note {i}: quarterly figures, meetings and plans." for i in range(15)]
    await engine.store_many([new(text) for text in words])
    if word != "patience":
        await engine.store(new(f"Leave by the back door, {word}.", document_id="it"))
    result = await search(engine, word)
    assert ids(result)[0] == ("soup" if word == "patience" else "it")


async def test_stage_scores_equal_their_definitions(
    engine: Engine, encoders: SharedEncoders
) -> None:
    await fill(engine)
    query = encoders.encode_query("the white whale")
    result = await search(engine, "the white whale")
    texts = {name: text for name, text, _ in NOTES}
    words = {
        name: set(
            encoders.encode_documents([text], advance=lambda: None)[0].bm25.indices
        )
        for name, text in texts.items()
    }
    for hit in result.hits:
        name = hit.document.document_id
        (encoded,) = encoders.encode_documents([texts[name]], advance=lambda: None)
        assert query.dense is not None
        assert query.colbert is not None
        assert encoded.dense is not None
        assert encoded.colbert is not None
        assert hit.stage_scores[DENSE] == pytest.approx(
            float(query.dense @ encoded.dense), abs=0.03
        )
        tokens = np.asarray(encoded.colbert, np.float32)
        assert hit.stage_scores[COLBERT] == pytest.approx(
            maxsim(query.colbert, tokens), rel=0.05
        )
        assert (BM25 in hit.ranks) == bool(words[name] & set(query.bm25.indices))


async def test_bm25_scores_equal_their_definition(engine: Engine) -> None:
    # Words that neither the stop list nor the stemmer changes.
    texts = ["blue blue moon", "moon rock", "rock salt salt salt water", "red"]
    await engine.store_many([new(t, document_id=str(i)) for i, t in enumerate(texts)])
    result = await search(engine, "blue salt moon")
    expected = bm25(
        {"blue", "salt", "moon"}, [t.split() for t in texts], k1=1.2, b=0.75, avg=100
    )
    actual = {
        hit.document.document_id: hit.stage_scores.get(BM25, 0.0) for hit in result.hits
    }
    assert actual == pytest.approx(
        {str(i): score for i, score in enumerate(expected)}, rel=1e-3
    )


async def test_the_last_sentence_of_a_long_document_is_found_by_each_ranking(
    engine: Engine,
) -> None:
    rng = random.Random(7)  # noqa: S311 - not for secrets
    filler = ("model", "data", "train", "table", "value", "column", "mean", "test")
    sentences = [" ".join(rng.choices(filler, k=10)) + "." for _ in range(2000)]
    last = "The lighthouse keeper of Skerryvore adopted an orphaned otter."
    await engine.store(new(" ".join([*sentences, last]), document_id="long"))
    result = await search(engine, "Which animal did the lighthouse keeper adopt?")
    (hit,) = result.hits
    assert last in hit.text
    assert hit.chunk_index >= hit.document.chunk_count - 2
    assert hit.ranks == {DENSE: 1, BM25: 1, COLBERT: 1}


async def test_storing_the_same_text_again_is_unchanged(engine: Engine) -> None:
    first = await engine.store(new("Tea at four."))
    again = await engine.store(new("Tea at four."))
    assert (first.status, again.status) == ("created", "unchanged")
    assert first.document_id == again.document_id
    assert len((await search(engine, "tea")).hits) == 1


async def test_what_is_not_given_again_stays_when_the_id_is_derived(
    engine: Engine,
) -> None:
    stored = await engine.store(new("Tea at four.", metadata={"a": 1}, title="Tea"))
    assert (await engine.store(new("Tea at four."))).status == "unchanged"
    replaced = await engine.store(new("Tea at four.", metadata={"a": 2}))
    assert replaced.status == "replaced"
    found = await engine.document("documents", "default", stored.document_id)
    assert (found.document.title, found.document.metadata) == ("Tea", {"a": 2})


async def test_replacing_leaves_no_stale_chunk(engine: Engine) -> None:
    long = " ".join(f"Sentence number {i} about walruses." for i in range(320))
    before = await engine.store(new(long, document_id="a"))
    after = await engine.store(new("Only parrots now.", document_id="a"))
    assert (before.chunks > 1, after.status, after.chunks) == (True, "replaced", 1)
    result = await search(engine, "walruses", per_document=False)
    assert [hit.text for hit in result.hits] == ["Only parrots now."]


async def test_replacing_keeps_the_time_of_creation(engine: Engine) -> None:
    await engine.store(new("one", document_id="a"))
    first = (await engine.document("documents", "default", "a")).document
    await engine.store(new("two", document_id="a"))
    second = (await engine.document("documents", "default", "a")).document
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


@pytest.mark.parametrize(
    ("if_exists", "status", "text"),
    [("replace", "replaced", "two"), ("skip", "skipped", "one")],
)
async def test_if_exists_decides_what_happens_to_the_old_document(
    engine: Engine, if_exists: str, status: str, text: str
) -> None:
    await engine.store(new("one", document_id="a"))
    outcome = await engine.store(new("two", document_id="a", if_exists=if_exists))
    assert outcome.status == status
    assert (await engine.document("documents", "default", "a")).text == text


async def test_if_exists_error_refuses_and_keeps_the_old_document(
    engine: Engine,
) -> None:
    await engine.store(new("one", document_id="a"))
    with pytest.raises(ConflictError, match="There is a document 'a' already"):
        await engine.store(new("two", document_id="a", if_exists="error"))
    assert (await engine.document("documents", "default", "a")).text == "one"


async def test_one_bad_document_never_loses_the_others(engine: Engine) -> None:
    outcomes = await engine.store_many([new("good"), new("  "), new("fine")])
    assert isinstance(outcomes[1], InvalidInputError)
    assert [isinstance(o, Stored) for o in outcomes] == [True, False, True]


async def test_the_last_of_two_documents_with_one_id_in_one_call_wins(
    engine: Engine,
) -> None:
    outcomes = await engine.store_many(
        [new("one", document_id="a"), new("two", document_id="a")]
    )
    statuses = [o.status for o in outcomes if isinstance(o, Stored)]
    assert statuses == ["created", "replaced"]
    assert (await engine.document("documents", "default", "a")).text == "two"


async def test_a_deleted_document_is_gone_from_every_answer(engine: Engine) -> None:
    await fill(engine)
    assert await engine.delete("documents", "default", "whale")
    assert not await engine.delete("documents", "default", "whale")
    assert "whale" not in ids(await search(engine, "white whale"))
    with pytest.raises(NotFoundError, match="whale"):
        await engine.document("documents", "default", "whale")


async def test_namespaces_do_not_see_each_other(engine: Engine) -> None:
    await engine.store(new("The code word is swordfish.", namespace="alice"))
    await engine.store(new("The code word is marlin.", namespace="bob"))
    result = await search(engine, "code word swordfish", namespace="bob")
    assert [hit.text for hit in result.hits] == ["The code word is marlin."]


async def test_a_filter_narrows_the_hits_before_they_are_ranked(engine: Engine) -> None:
    await fill(engine)
    result = await search(engine, "mutable references", filter={"topic": "sea"})
    assert sorted(ids(result)) == ["boat", "whale"]


async def test_a_smaller_limit_is_a_prefix_of_a_larger_one(engine: Engine) -> None:
    await fill(engine)
    everything = ids(await search(engine, "the sea and the whale"))
    for limit in range(1, len(everything)):
        assert (
            ids(await search(engine, "the sea and the whale", limit=limit))
            == (everything[:limit])
        )


async def test_the_limit_is_filled_with_documents_even_if_one_has_many_chunks(
    open_engine: OpenEngine,
) -> None:
    engine = open_engine(prefetch_limit=10, chunk_tokens=40)
    crowd = " ".join(f"The whale number {i} swims in the sea today." for i in range(60))
    await engine.store_many(
        [new(crowd, document_id="crowd"), new("A shoe.", document_id="shoe")]
    )
    assert ids(await search(engine, "whale in the sea")) == ["crowd", "shoe"]


async def test_fewer_hits_than_asked_for_are_said_if_there_may_be_more(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "WIDENINGS", 1)
    engine = open_engine(prefetch_limit=10, chunk_tokens=40)
    crowd = " ".join(f"The whale number {i} swims in the sea today." for i in range(60))
    await engine.store(new(crowd, document_id="crowd"))
    assert NOT_COMPLETE in (await search(engine, "whale in the sea")).notices
    assert (await search(engine, "whale in the sea", limit=1)).notices == ()


async def test_searching_before_anything_is_stored_says_so(engine: Engine) -> None:
    result = await search(engine, "anything")
    assert result.hits == ()
    assert "Nothing is stored yet" in result.notices[0]
    await engine.store(new("x"))
    result = await search(engine, "anything", namespace="empty")
    assert "Nothing is stored yet in namespace 'empty'" in result.notices[0]


async def test_an_unknown_collection_is_named_with_those_that_exist(
    engine: Engine,
) -> None:
    await engine.store(new("x"))
    with pytest.raises(NotFoundError, match=r"'nope'\. There are: 'documents'"):
        await search(engine, "x", collection="nope")


async def test_names_that_differ_in_case_cannot_be_two_collections(
    engine: Engine,
) -> None:
    await engine.store(new("x"))
    outcome = (await engine.store_many([new("y", collection="Documents")]))[0]
    assert isinstance(outcome, ConflictError)
    assert "Use 'documents'" in str(outcome)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("nul \0 inside", id="nul"),
        pytest.param("\u202eright to left\u202c and \u200bzero width", id="bidi"),
        pytest.param("emoji 👩‍👩‍👧 and flags 🇫🇷", id="emoji"),
        pytest.param(unicodedata.normalize("NFD", "Überraschung café"), id="nfd"),
        pytest.param("line\r\nends\rof\nall\u2028kinds\u0085", id="lines"),
        pytest.param("  spaces kept  \n\n\t", id="white space"),
    ],
)
async def test_text_comes_back_exactly_as_it_was_stored(
    engine: Engine, text: str
) -> None:
    await engine.store(new(text, document_id="a", title=text, source=text))
    found = await engine.document("documents", "default", "a")
    assert found.text == text
    assert (found.document.title, found.document.source) == (text, text)
    (hit,) = (await search(engine, "anything")).hits
    assert hit.text == text


async def test_text_is_found_in_either_normal_form(engine: Engine) -> None:
    await fill(engine)
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
    for form in forms:
        text = unicodedata.normalize(form, "Ein Café in Zürich öffnet früh.")
        await engine.store(new(text, document_id=form))
    for form in forms:
        query = unicodedata.normalize(form, "Café Zürich")
        hits = (await search(engine, query)).hits
        assert {hit.document.document_id for hit in hits if BM25 in hit.ranks} == {
            "NFC",
            "NFD",
        }


async def test_a_long_query_says_what_was_not_used(engine: Engine) -> None:
    await fill(engine)
    result = await search(engine, "whale " * 700)
    assert any("tokens of the query were used for keyword" in n for n in result.notices)
    assert ids(result)[0] == "whale"


async def test_a_window_of_chunks_is_read(engine: Engine) -> None:
    text = " ".join(f"Sentence number {i} of the long story." for i in range(320))
    stored = await engine.store(new(text, document_id="a"))
    assert stored.chunks > 3
    whole = await engine.document("documents", "default", "a")
    part = await engine.document(
        "documents", "default", "a", first_chunk=1, chunk_limit=2
    )
    assert whole.text == text
    assert (part.first_chunk, part.chunk_count) == (1, 2)
    assert part.text in text
    with pytest.raises(InvalidInputError, match=f"below {stored.chunks}"):
        await engine.document("documents", "default", "a", first_chunk=stored.chunks)


async def test_a_title_finds_its_document_and_is_not_in_the_text(
    engine: Engine,
) -> None:
    await fill(engine)
    await engine.store(new("It opens at nine.", document_id="zoo", title="Aquarium"))
    hit = (await search(engine, "aquarium")).hits[0]
    assert (hit.document.document_id, hit.text) == ("zoo", "It opens at nine.")


async def test_a_long_title_is_kept_whole_and_said_to_be_cut_for_search(
    engine: Engine,
) -> None:
    title = "word " * 200
    stored = await engine.store(new("text", document_id="a", title=title))
    assert "only its beginning helps" in stored.notices[0]
    found = await engine.document("documents", "default", "a")
    assert found.document.title == title


async def test_explaining_names_the_matching_words(engine: Engine) -> None:
    await fill(engine)
    hit = (await search(engine, "white whale", explain=True)).hits[0]
    best = {m.query_token: m.document_token for m in hit.token_matches}
    assert best == {"white": "white", "whale": "whale"}


async def test_collections_are_described(engine: Engine) -> None:
    await fill(engine)
    await engine.store(new("x", collection="other"))
    documents, other = await engine.collections()
    assert (documents.name, documents.documents, documents.chunks) == (
        "documents",
        5,
        5,
    )
    assert (other.name, other.documents) == ("other", 1)
    assert documents.model_set.startswith("bundled (BAAI/bge-small-en-v1.5")
    assert documents.size_bytes > 0


async def test_searches_are_answered_while_a_long_document_is_stored(
    engine: Engine,
) -> None:
    await fill(engine)
    text = " ".join(f"Sentence number {i} of the story." for i in range(800))
    stored: list[Stored] = []

    async def store() -> None:
        stored.append(await engine.store(new(text, document_id="story")))

    seen = 0
    async with anyio.create_task_group() as group:
        group.start_soon(store)
        while not stored:
            found = ids(await search(engine, "white whale"))
            assert "whale" in found
            seen += "story" not in found
    assert seen > 0


async def test_progress_is_told_while_encoding(engine: Engine) -> None:
    text = " ".join(f"Sentence number {i} of the story." for i in range(800))
    told: list[tuple[float, float]] = []

    async def progress(done: float, total: float, message: str) -> None:
        assert message == "chunks encoded"
        told.append((done, total))

    stored = await engine.store(new(text), progress=progress)
    assert told
    assert all(0 <= done <= total == stored.chunks for done, total in told)
    assert told == sorted(told)


async def test_everything_is_there_after_closing_and_opening(
    open_engine: OpenEngine,
) -> None:
    engine = open_engine()
    await fill(engine)
    before = await search(engine, "white whale at sea")
    engine.close()
    after = await search(open_engine(), "white whale at sea")
    assert [(h.document, h.text, h.score) for h in before.hits] == [
        (h.document, h.text, h.score) for h in after.hits
    ]
    assert after.notices == ()


async def test_another_chunking_is_refused_with_the_command_that_reindexes(
    open_engine: OpenEngine,
) -> None:
    engine = open_engine()
    await fill(engine)
    engine.close()
    other = open_engine(chunk_tokens=100)
    with pytest.raises(ConflictError, match="mcp-hybrid-search reindex documents"):
        await search(other, "whale")
    (outcome,) = await other.store_many([new("x")])
    assert isinstance(outcome, HybridSearchError)
    assert await other.reindex("documents") == len(NOTES)
    assert ids(await search(other, "white whale"))[0] == "whale"
    assert [c.name for c in await other.collections()] == ["documents"]


async def test_encoded_text_carries_the_title_before_the_chunk() -> None:
    assert encoded_text("T", "x") == "T\nx"
    assert encoded_text(None, "x") == "x"


async def test_ranges_find_numbers_dates_and_times_of_any_key(engine: Engine) -> None:
    for year in (1950, 1960, 1970):
        metadata = {"year": year, "day": f"{year}-07-01", "mixed": [year, "x"]}
        await engine.store(new(f"In {year}.", document_id=str(year), metadata=metadata))
    for key, bound in (("year", 1960), ("day", "1960-01-01"), ("mixed", 1960)):
        result = await search(engine, "In", filter={key: {"gte": bound}})
        assert sorted(ids(result)) == ["1960", "1970"], key
    everything = await search(
        engine, "In", filter={"created_at": {"gte": "2020-01-01"}}
    )
    assert len(everything.hits) == 3
    nothing = await search(engine, "In", filter={"created_at": {"lt": "2020-01-01"}})
    assert nothing.hits == ()
