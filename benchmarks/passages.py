"""Real English text, cut into documents whose chunks have a known size."""

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Tokenizer

from benchmarks.beir import read_documents, read_queries
from mcp_hybrid_search.chunking import Chunking, encoded_text, split
from mcp_hybrid_search.embeddings import Encoders
from mcp_hybrid_search.settings import Settings

PASSAGE_TOKENS = 180
PASSAGES_PER_DOCUMENT = 5


def read_texts(data: Path | None) -> list[str]:
    """Read a BEIR corpus, or else the Python language reference in `pydoc`."""
    if data is None:
        return [" ".join(text.split()) for text in topics.values()]
    return [" ".join(document.text.split()) for document in read_documents(data)]


def some_queries(data: Path | None, count: int) -> list[str]:
    """Return distinct queries: a BEIR collection's, or runs of 12 words of ours."""
    if data is not None:
        return list(islice(read_queries(data).values(), count))
    words = " ".join(read_texts(None)).split()
    starts = random.Random(0).sample(range(len(words) - 12), count)  # noqa: S311
    return [" ".join(words[start : start + 12]) for start in starts]


def passage_documents(
    texts: Sequence[str], tokenizer: Tokenizer, *, passages: int
) -> list[str]:
    """Recombine texts into documents of a few paragraphs, one chunk each.

    Args:
        texts: Without line breaks.
        tokenizer: Counts the tokens.
        passages: Paragraphs wanted; fewer come back when the texts run out.
    """
    pieces = list(islice(_passages(texts, tokenizer), passages))
    size = PASSAGES_PER_DOCUMENT
    return [
        "\n\n".join(pieces[first : first + size])
        for first in range(0, len(pieces), size)
    ]


def _passages(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[str]:
    left = ""
    for text in texts:
        left = f"{left} {text}".strip()
        offsets = tokenizer.encode(left, add_special_tokens=False).offsets
        cut = 0
        for place in range(PASSAGE_TOKENS, len(offsets), PASSAGE_TOKENS):
            end = left.rfind(" ", cut, offsets[place][0] + 1)
            if end > cut:
                yield left[cut:end]
                cut = end + 1
        left = left[cut:]


def chunk_texts(document: str, encoders: Encoders, settings: Settings) -> list[str]:
    """Return what the encoders see of an untitled document's chunks."""
    if encoders.tokenizer is None:
        raise RuntimeError(encoders.problem)
    chunking = Chunking(
        min(settings.chunk_tokens, encoders.token_limit),
        settings.chunk_overlap_tokens,
    )
    chunks = split(
        document, title=None, tokenizer=encoders.tokenizer, chunking=chunking
    )
    return [encoded_text(None, chunk.text) for chunk in chunks]


def text_of_size(texts: Sequence[str], size_bytes: int) -> str:
    """Return so many bytes of running text, repeated if there are fewer."""
    once = "\n\n".join(texts)
    often = once * (1 + size_bytes // len(once))
    return often.encode()[:size_bytes].decode(errors="ignore")
