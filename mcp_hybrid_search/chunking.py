"""Text into chunks that no encoder cuts. Pure: the tokenizer is given.

The chunks of a document, laid over one another by their `start`, are exactly
the document: nothing is trimmed, normalised or left out. What the encoders see
is `encoded_text`: the title before the chunk, in one Unicode form.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from mcp_hybrid_search.documents import Chunk

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TITLE_SHARE = 4
"""A title may take one part in this many of a chunk's tokens."""

WIDEST_TOKEN = 16
"""Characters a token has at most, on the average of a chunk: a tokenizer takes any
word over a hundred characters for one unknown token."""

INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)
_MARKDOWN = re.compile(r"^(#{1,6} |```|\|.+\||[-*] |\d+\. )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are cut; part of a collection's fingerprint."""

    chunk_tokens: int
    overlap_tokens: int


def searchable(text: str) -> str:
    """Return the form of a text that is encoded: NFC, invisible characters gone.

    Queries and documents pass through here, so that either normal form finds
    the other and a zero-width space inside a word does not hide it.
    """
    return INVISIBLE.sub("", unicodedata.normalize("NFC", text))


def encoded_text(title: str | None, text: str) -> str:
    """Return what the encoders see of a chunk."""
    return searchable(f"{title}\n{text}" if title else text)


def title_for(
    title: str | None, tokenizer: "Tokenizer", chunking: Chunking
) -> str | None:
    """Return as much of the title as is carried into every chunk."""
    if title is None:
        return None
    allowed = chunking.chunk_tokens // TITLE_SHARE
    offsets = tokenizer.encode(title, add_special_tokens=False).offsets
    return title if len(offsets) <= allowed else title[: offsets[allowed - 1][1]]


@lru_cache(maxsize=6)
def _splitter(
    tokenizer: "Tokenizer",
    capacity: int,
    overlap: int,
    markdown: bool,  # noqa: FBT001 - the cache's key
) -> Callable[[str], list[tuple[int, str]]]:
    """Make a splitter, which copies the tokenizer and takes 50 ms."""
    splitter = MarkdownSplitter if markdown else TextSplitter
    return splitter.from_huggingface_tokenizer(
        tokenizer, capacity, overlap=min(overlap, capacity // 4), trim=False
    ).chunk_indices


def split(
    text: str, *, title: str | None, tokenizer: "Tokenizer", chunking: Chunking
) -> list[Chunk]:
    """Cut a text at the best borders that fit, with overlap.

    Args:
        text: Not empty.
        title: As `title_for` gives it; its tokens count for every chunk.
        tokenizer: The one that cuts first, without truncation or padding.
        chunking: Sizes in tokens of `tokenizer`, special tokens excluded.
    """
    count = len(tokenizer.encode(text, add_special_tokens=False).ids)
    taken = len(tokenizer.encode(title, add_special_tokens=False).ids) if title else 0
    if count + taken <= chunking.chunk_tokens and len(text) <= count * WIDEST_TOKEN:
        return [Chunk(0, 0, text)]
    # In steps of an eighth, so that three splitters serve all titles.
    step = max(1, chunking.chunk_tokens // 8)
    capacity = chunking.chunk_tokens - math.ceil(taken / step) * step
    markdown = _MARKDOWN.search(text) is not None
    cut = _splitter(tokenizer, capacity, chunking.overlap_tokens, markdown)
    widest = capacity * WIDEST_TOKEN
    pieces = []
    for start, piece in cut(text):
        if len(piece) <= widest:
            pieces.append((start, piece))
            continue
        for first in range(0, len(piece), widest):
            for offset, part in cut(piece[first : first + widest]):
                pieces.append((start + first + offset, part))
    return [Chunk(index, start, piece) for index, (start, piece) in enumerate(pieces)]


def joined(chunks: Sequence[Chunk]) -> str:
    """Return the running text of neighbouring chunks, overlaps told once."""
    if not chunks:
        return ""
    rest = (
        after.text[before.end - after.start :] for before, after in pairwise(chunks)
    )
    return chunks[0].text + "".join(rest)
