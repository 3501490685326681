"""Chunks fit the model and lay the document out again, character by character."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mcp_hybrid_search.chunking import (
    Chunking,
    encoded_text,
    joined,
    searchable,
    split,
    title_for,
)
from mcp_hybrid_search.documents import Chunk
from tests.conftest import SharedEncoders

SMALL = Chunking(chunk_tokens=40, overlap_tokens=6)


@pytest.fixture(scope="module")
def tokenizer(encoders: SharedEncoders) -> Tokenizer:
    assert encoders.tokenizer is not None
    return encoders.tokenizer


def tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


texts = st.text(min_size=1, max_size=600) | st.lists(
    st.sampled_from(["# A\n\n", "word ", "Ein Satz. ", "\n\n", "é", "- x\n", "\0"]),
    min_size=1,
    max_size=200,
).map("".join)


@settings(deadline=None, max_examples=50)
@given(texts, st.none() | st.text(max_size=60))
def test_chunks_concatenate_back_to_the_document(
    tokenizer: Tokenizer, text: str, title: str | None
) -> None:
    title = title_for(title, tokenizer, SMALL)
    chunks = split(text, title=title, tokenizer=tokenizer, chunking=SMALL)
    assert joined(chunks) == text
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(text[c.start : c.end] == c.text for c in chunks)
    assert all(a.start < b.start <= a.end for a, b in pairwise(chunks))


@settings(deadline=None, max_examples=50)
@given(texts, st.none() | st.text(max_size=60))
def test_no_chunk_is_longer_than_the_model_takes(
    tokenizer: Tokenizer, text: str, title: str | None
) -> None:
    title = title_for(title, tokenizer, SMALL)
    for chunk in split(text, title=title, tokenizer=tokenizer, chunking=SMALL):
        encoded = encoded_text(title, chunk.text)
        assert tokens(tokenizer, encoded) <= SMALL.chunk_tokens


def test_chunks_end_at_sentences_where_they_can(tokenizer: Tokenizer) -> None:
    text = "The first sentence has a handful of words in it. " * 8
    chunks = split(text, title=None, tokenizer=tokenizer, chunking=SMALL)
    assert all(chunk.text.rstrip().endswith(".") for chunk in chunks)


def test_markdown_is_cut_before_its_headings(tokenizer: Tokenizer) -> None:
    section = "## Heading\n\n" + "Some prose about the topic at hand. " * 3 + "\n\n"
    chunks = split(section * 3, title=None, tokenizer=tokenizer, chunking=SMALL)
    assert sum("## Heading" in chunk.text for chunk in chunks) == 3
    assert all(c.text.lstrip().startswith("##") for c in chunks if "##" in c.text)


def test_a_single_enormous_word_does_not_become_a_single_chunk(
    tokenizer: Tokenizer,
) -> None:
    text = "x" * 100_000
    chunks = split(text, title=None, tokenizer=tokenizer, chunking=SMALL)
    assert joined(chunks) == text
    assert max(len(chunk.text) for chunk in chunks) <= 1_000


def test_a_long_title_leaves_room_for_the_text(tokenizer: Tokenizer) -> None:
    title = title_for("many words " * 50, tokenizer, SMALL)
    assert title is not None
    assert tokens(tokenizer, title) <= SMALL.chunk_tokens // 4


def test_neighbouring_chunks_join_to_running_text() -> None:
    chunks = [Chunk(0, 0, "one two "), Chunk(1, 4, "two three "), Chunk(2, 14, "four")]
    assert joined(chunks) == "one two three four"
    assert joined(chunks[1:]) == "two three four"
    assert joined([]) == ""


def test_both_normal_forms_and_zero_width_characters_are_searched_alike() -> None:
    assert searchable("cafe\u0301 zero\u200bwidth") == searchable("café zerowidth")
