"""Documents page by page, from the ledger. Blocks."""

from mcp_hybrid_search.documents import Document, DocumentPage, ListRequest
from mcp_hybrid_search.filters import Filter, parse_filter
from mcp_hybrid_search.listing import Order, Place, cursor, order, place_of
from mcp_hybrid_search.searching import EMPTIED, NOTHING_STORED
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from mcp_hybrid_search.stores.rows import Collection, document_row
from mcp_hybrid_search.validation import check_completion, check_list


class Pager:
    """Lists the documents of one store."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._lists = store.lists
        self._store = store

    def page(self, request: ListRequest) -> DocumentPage:
        """Return a page of documents; see `Engine.documents`."""
        check_list(request)
        after = place_of(request)
        found = self._store.collection(request.collection, request.namespace)
        if found is None:
            notice = NOTHING_STORED.format(namespace=request.namespace)
            return DocumentPage((), 0, request.collection, notices=(notice,))
        if request.filter:
            filter_ = parse_filter(request.filter)
            documents, total = self._filtered(found, request, filter_, after)
        else:
            documents, total = self._all(found, request, after)
        more = len(documents) > request.limit
        documents = documents[: request.limit]
        following = None
        if more:
            following = cursor(request, _place(documents[-1], order(request)))
        notices: tuple[str, ...] = ()
        if not total and not self._lists.holds(found, request.namespace):
            notices = (EMPTIED.format(collection=found.name),)
        return DocumentPage(tuple(documents), total, found.name, following, notices)

    def namespaces(self, collection: str, prefix: str, limit: int) -> list[str]:
        """Return names of namespaces; see `Engine.namespaces`."""
        check_completion(collection, None, prefix, limit)
        found = self._store.named(collection)
        return self._lists.namespaces(found, prefix, limit) if found else []

    def document_ids(
        self, collection: str, namespace: str, prefix: str, limit: int
    ) -> list[str]:
        """Return ids of documents; see `Engine.document_ids`."""
        check_completion(collection, namespace, prefix, limit)
        found = self._store.named(collection)
        if found is None:
            return []
        return self._lists.document_ids(found, namespace, prefix, limit)

    def _all(
        self, collection: Collection, request: ListRequest, after: Place | None
    ) -> tuple[list[Document], int]:
        rows = self._lists.page(
            collection,
            request.namespace,
            order(request),
            after=after,
            limit=request.limit + 1,
        )
        total = self._lists.count(collection, request.namespace)
        return [row.document for row in rows], total

    def _filtered(
        self,
        collection: Collection,
        request: ListRequest,
        filter_: Filter,
        after: Place | None,
    ) -> tuple[list[Document], int]:
        wanted = order(request)
        documents: list[Document] = []
        total = 0
        for place, row in self._lists.matching(
            collection, request.namespace, wanted, filter_
        ):
            total += 1
            is_next = after is None or wanted.is_after(place, after)
            if is_next and len(documents) <= request.limit:
                documents.append(document_row(row).document)
        return documents, total


def _place(document: Document, wanted: Order) -> Place:
    values = {
        "title": document.title,
        "created_at": document.created_at,
        "updated_at": document.updated_at,
    }
    return values.get(wanted.field), document.document_id
