"""What an engine and its clients say to each other. No sockets, no models.

A call is an HTTP POST of its arguments as JSON. The answer is lines, each a word
and, but for `alive` and `started`, a space and JSON; the last one is `result` or
`failed`:

    alive                        once a second, so that silence means trouble
    started                      a call of which engines died has left its queue
    progress [done, total, what]
    result ...
    failed {"kind": ..., "message": ...}
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mcp_hybrid_search import __version__
from mcp_hybrid_search.documents import (
    AuditEntry,
    CollectionInfo,
    Deletion,
    Document,
    DocumentPage,
    DocumentText,
    Json,
    ListRequest,
    NewDocument,
    Origin,
    SearchRequest,
    SearchResult,
    Stored,
)
from mcp_hybrid_search.errors import (
    ConflictError,
    HybridSearchError,
    InvalidInputError,
    ModelUnavailableError,
    NotFoundError,
    StoreUnavailableError,
)
from mcp_hybrid_search.settings import Settings

PROTOCOL = 2
"""Raised with every change that an older client or engine would not understand."""

READY, TAKEN = "ready", "taken"
"""What a new engine tells whoever started it; anything else is why it failed."""

ALIVE, STARTED, PROGRESS = "alive", "started", "progress"
RESULT, FAILED = "result", "failed"

ALIVE_SECONDS = 1.0
SILENCE_SECONDS = 60.0
"""After this long without a line the engine is taken for stuck."""

INSTANCE_HEADER = "x-engine-instance"
CLIENT_HEADER = "x-client"
ATTEMPT_HEADER = "x-attempt"

SUSPECT_ATTEMPTS = 2
"""A call of which the engine died so often runs while no other such call does, so
that a third death is certainly its own."""

BUG = "bug"
"""The kind of a failure that nobody foresaw; the engine's log has it."""

_ERRORS = {
    error.__name__: error
    for error in (
        HybridSearchError,
        InvalidInputError,
        NotFoundError,
        ConflictError,
        ModelUnavailableError,
        StoreUnavailableError,
    )
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a client and an engine must agree on before they talk."""

    protocol: int
    version: str
    """Of the program."""
    settings: dict[str, Any]
    """As `Settings.engine_values` gives them."""


@dataclass(frozen=True, slots=True)
class Hello:
    """How an engine introduces itself."""

    pid: int
    instance: str
    """Another one for every start, so that a client notices a new engine."""
    terms: Terms
    clients: int
    """Other processes that are connected."""


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """How a client introduces itself."""

    pid: int
    key: str
    """Tells clients apart; process ids repeat in containers."""
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What `mcp-hybrid-search status` shows."""

    pid: int
    version: str
    state: str
    """`ready`, `loading`, or why the engine cannot be used."""
    uptime_seconds: float
    memory_bytes: int
    documents: int
    chunks: int
    clients: list[ClientInfo] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way to the client."""

    kind: str
    message: str


class StoreMany(TypedDict):
    """Arguments of `Engine.store_many`."""

    documents: list[NewDocument]
    origin: Origin


class Search(TypedDict):
    """Arguments of `Engine.search`."""

    request: SearchRequest


class ReadDocument(TypedDict):
    """Arguments of `Engine.document`."""

    collection: str
    namespace: str
    document_id: str
    first_chunk: int
    chunk_limit: int | None


class ListDocuments(TypedDict):
    """Arguments of `Engine.documents`."""

    request: ListRequest


class UpdateMetadata(TypedDict):
    """Arguments of `Engine.update_metadata`."""

    collection: str
    namespace: str
    document_id: str
    patch: dict[str, Json]
    origin: Origin


class Delete(TypedDict):
    """Arguments of `Engine.delete`."""

    collection: str
    namespace: str
    document_id: str
    origin: Origin


class DeleteMatching(TypedDict):
    """Arguments of `Engine.delete_matching`."""

    collection: str
    namespace: str
    filter_: dict[str, Json]
    expected_count: int | None
    origin: Origin


class Collections(TypedDict):
    """Arguments of `Engine.collections`."""

    namespace: str | None


class Namespaces(TypedDict):
    """Arguments of `Engine.namespaces`."""

    collection: str
    prefix: str
    limit: int


class DocumentIds(TypedDict):
    """Arguments of `Engine.document_ids`."""

    collection: str
    namespace: str
    prefix: str
    limit: int


class Audit(TypedDict):
    """Arguments of `Engine.audit`."""

    limit: int
    namespace: str | None


class Reindex(TypedDict):
    """Arguments of `Engine.reindex`."""

    name: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of `Engine`, and how its arguments and its result travel."""

    name: str
    arguments: TypeAdapter[Any]
    result: TypeAdapter[Any]
    tells_progress: bool = False


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            "store_many",
            TypeAdapter(StoreMany),
            TypeAdapter(list[Stored | Failure]),
            tells_progress=True,
        ),
        Operation("search", TypeAdapter(Search), TypeAdapter(SearchResult)),
        Operation("document", TypeAdapter(ReadDocument), TypeAdapter(DocumentText)),
        Operation("documents", TypeAdapter(ListDocuments), TypeAdapter(DocumentPage)),
        Operation(
            "update_metadata", TypeAdapter(UpdateMetadata), TypeAdapter(Document)
        ),
        Operation("delete", TypeAdapter(Delete), TypeAdapter(bool)),
        Operation(
            "delete_matching", TypeAdapter(DeleteMatching), TypeAdapter(Deletion)
        ),
        Operation("namespaces", TypeAdapter(Namespaces), TypeAdapter(list[str])),
        Operation("document_ids", TypeAdapter(DocumentIds), TypeAdapter(list[str])),
        Operation("audit", TypeAdapter(Audit), TypeAdapter(list[AuditEntry])),
        Operation(
            "collections", TypeAdapter(Collections), TypeAdapter(list[CollectionInfo])
        ),
        Operation(
            "reindex", TypeAdapter(Reindex), TypeAdapter(int), tells_progress=True
        ),
    )
}

HELLO = TypeAdapter(Hello)
STATUS = TypeAdapter(EngineStatus)
CLIENT = TypeAdapter(ClientInfo)
FAILURE = TypeAdapter(Failure)
TOLD = TypeAdapter(tuple[float, float, str])
"""What follows `progress`."""


def terms(settings: Settings) -> Terms:
    """Return the terms of this program with these settings."""
    return Terms(PROTOCOL, __version__, settings.engine_values())


def failure(error: Exception) -> Failure:
    """Return an error as it travels; what nobody foresaw tells nothing."""
    if isinstance(error, HybridSearchError):
        return Failure(type(error).__name__, str(error))
    return Failure(BUG, "")


def error(failed: Failure) -> Exception:
    """Return the error that `failed` stands for."""
    if failed.kind == BUG:
        return RuntimeError("The engine met a bug; its log has it.")
    return _ERRORS.get(failed.kind, HybridSearchError)(failed.message)


def digest(operation: Operation, body: bytes) -> bytes:
    """Name a call by what it asks for."""
    return hashlib.sha256(operation.name.encode() + b"\0" + body).digest()


def line(word: str, value: Any = None) -> bytes:
    """Return one line of an answer; None for a word alone."""
    text = word if value is None else f"{word} {json.dumps(value)}"
    return f"{text}\n".encode()


def result_line(operation: Operation, result: Any) -> bytes:
    """Return the last line of a call that was done; errors in lists travel too."""
    if isinstance(result, list):
        result = [failure(r) if isinstance(r, Exception) else r for r in result]
    return b"%s %s\n" % (RESULT.encode(), operation.result.dump_json(result))


def parsed_result(operation: Operation, value: str) -> Any:
    """Return what the engine's method returned; see `result_line`."""
    result = operation.result.validate_json(value)
    if isinstance(result, list):
        return [error(r) if isinstance(r, Failure) else r for r in result]
    return result
