"""The values that pass between modules. No I/O, no third-party imports."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mcp_hybrid_search.errors import HybridSearchError

IfExists = Literal["replace", "skip", "error"]
Status = Literal["created", "replaced", "unchanged", "skipped"]
OrderBy = Literal[
    "created_at",
    "-created_at",
    "updated_at",
    "-updated_at",
    "id",
    "-id",
    "title",
    "-title",
]
"""What documents are listed by; `-` for descending."""

ORIGIN_CHARACTERS = 100

DENSE = "dense"
BM25 = "bm25"
COLBERT = "colbert"
STAGES = (DENSE, BM25, COLBERT)

Json = Any
"""A JSON value: str, int, float, bool, None, list or dict of these."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks for a change; kept in the audit. Shortened to what is printable."""

    client: str = ""
    """Name of the client or of the token."""
    tool: str = ""
    """Such as `store-document`, or `command add`."""
    call: str = ""
    """Unique for one call; a call that is repeated after the engine died carries
    the same one."""

    def __post_init__(self) -> None:
        """Make every part fit to be kept and shown."""
        object.__setattr__(self, "client", _printable(self.client))
        object.__setattr__(self, "tool", _printable(self.tool))
        if _printable(self.call) != self.call:
            # Cut short, two calls could be one.
            digest = hashlib.sha256(self.call.encode("utf-8", "surrogatepass"))
            object.__setattr__(self, "call", digest.hexdigest())


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in text[:ORIGIN_CHARACTERS]
    )


NOBODY = Origin()
"""A change for which nobody in particular asks."""


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document as a caller hands it in; `None` means "not given"."""

    text: str
    collection: str
    namespace: str
    document_id: str | None = None
    title: str | None = None
    source: str | None = None
    metadata: Mapping[str, Json] | None = None
    if_exists: IfExists = "replace"
    times: tuple[float, float] | None = None
    """Only for copies: the (created_at, updated_at) to keep."""


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document without its text."""

    document_id: str
    collection: str
    namespace: str
    title: str | None
    source: str | None
    metadata: Mapping[str, Json]
    created_at: float
    """Seconds since 1970, UTC."""
    updated_at: float
    chunk_count: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A retrievable slice of a document's text, exactly as it was stored."""

    index: int
    start: int
    """Position of the first character in the document's text."""
    text: str

    @property
    def end(self) -> int:
        """Position after the last character in the document's text."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class DocumentText:
    """A document and a window of its chunks, joined to running text."""

    document: Document
    text: str
    first_chunk: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one document that was handed in."""

    document_id: str
    collection: str
    status: Status
    chunks: int
    notices: tuple[str, ...] = ()


Outcome = Stored | HybridSearchError
"""What became of one document of several; an error stands for it alone."""


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """The document token that one query token matched best."""

    query_token: str
    document_token: str
    similarity: float
    """Cosine, -1 to 1."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage of one document and the score that put it there.

    `score` orders the hits of one response; it does not compare across
    responses. `ranks` are 1-based places of the best chunk in each ranking
    that holds it.
    """

    document: Document
    chunk_index: int
    text: str
    score: float
    ranks: Mapping[str, int]
    stage_scores: Mapping[str, float]
    token_matches: tuple[TokenMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A question to one namespace of one collection."""

    query: str
    collection: str
    namespace: str
    limit: int = 10
    filter: Mapping[str, Json] | None = None
    per_document: bool = True
    explain: bool = False


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and what the reader must know about them."""

    hits: tuple[Hit, ...]
    collection: str
    notices: tuple[str, ...] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Time spent by stage: `encode`, `index`, `read`; and `total`."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A page of the documents of one namespace of one collection."""

    collection: str
    namespace: str
    filter: Mapping[str, Json] | None = None
    order_by: OrderBy = "-updated_at"
    limit: int = 50
    cursor: str | None = None
    """The `next_cursor` of the page before; None for the first page."""


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Documents in order, and how to ask for those that follow."""

    documents: tuple[Document, ...]
    total: int
    """How many match now, on all pages."""
    collection: str
    next_cursor: str | None = None
    """None on the last page."""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion by filter did, or would do."""

    count: int
    first_ids: tuple[str, ...]
    """At most 10, in order of id."""
    deleted: bool


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change of one document; of a whole collection if it was reindexed."""

    time: float
    """Seconds since 1970, UTC."""
    client: str
    tool: str
    action: str
    """`created`, `replaced`, `metadata`, `deleted` or `reindexed`."""
    collection: str
    namespace: str
    document_id: str


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """One collection as `list-collections` shows it."""

    name: str
    model_set: str
    documents: int
    chunks: int
    size_bytes: int
    """Share of the ledger's text plus the index on disk."""
    created_at: float


def derived_id(namespace: str, text: str) -> str:
    """Name a document by its content, so that storing it twice leaves one."""
    digest = hashlib.sha256(f"{namespace}\0{text}".encode()).hexdigest()
    return f"text-{digest[:32]}"
