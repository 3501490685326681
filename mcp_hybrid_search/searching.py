"""A question on its way to hits: encoded, ranked, fused, grouped. Blocks."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mcp_hybrid_search.chunking import encoded_text, joined
from mcp_hybrid_search.documents import Hit, SearchRequest, SearchResult
from mcp_hybrid_search.embeddings import Encoded, Encoders
from mcp_hybrid_search.filters import Filter, parse_filter
from mcp_hybrid_search.ranking import Fused, fuse, grouped, weights_for
from mcp_hybrid_search.settings import Settings
from mcp_hybrid_search.stores.embedded import EmbeddedStore
from mcp_hybrid_search.stores.rows import Collection
from mcp_hybrid_search.validation import check_search

WIDENINGS = 4
"""How often a search doubles its candidates to fill its limit."""

NOT_COMPLETE = (
    "A few long documents fill the rankings, so that there are fewer hits than asked"
    " for. Other words, a filter, or a larger HYBRID_SEARCH_PREFETCH_LIMIT find more."
)
NOTHING_STORED = (
    "Nothing is stored yet in namespace {namespace!r}. Store documents with"
    " store-document, or from files with `mcp-hybrid-search add FILE`."
)

EMPTIED = "Nothing is stored in collection {collection!r} any more."


class Searcher:
    """Answers searches over one store."""

    def __init__(
        self,
        store: EmbeddedStore,
        encoders: Encoders,
        settings: Settings,
        *,
        first_notices: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._encoders = encoders
        self._settings = settings
        self._first_notices = first_notices

    def search(self, request: SearchRequest) -> SearchResult:
        """Find passages by meaning, words and tokens; best first.

        Raises:
            InvalidInputError: If the request is out of its limits.
            NotFoundError: If the namespace has documents, but not in this collection.
        """
        check_search(request, self._settings)
        filter_ = None if request.filter is None else parse_filter(request.filter)
        started = time.perf_counter()
        collection = self._store.collection(request.collection, request.namespace)
        if collection is None:
            notice = NOTHING_STORED.format(namespace=request.namespace)
            return SearchResult((), request.collection, (notice,))
        query = self._encoders.encode_query(request.query)
        encoded_at = time.perf_counter()
        # Before the rankings: what is indexed between the two is then told as
        # missing though it was found, and never missed without a word.
        missing = self._store.missing(collection, request.namespace)
        hits, index_seconds, complete = self._hits(collection, request, query, filter_)
        if request.explain:
            hits = [self._explained(hit, request.query) for hit in hits]
        first, self._first_notices = self._first_notices, ()
        notices = (
            *first,
            *missing,
            *self._notices(request),
        )
        if not hits and not self._store.lists.holds(collection, request.namespace):
            notices = (*notices, EMPTIED.format(collection=collection.name))
        if not complete:
            notices = (*notices, NOT_COMPLETE)
        ended = time.perf_counter()
        seconds = {
            "encode": encoded_at - started,
            "index": index_seconds,
            "read": ended - encoded_at - index_seconds,
            "total": ended - started,
        }
        milliseconds = {name: value * 1000 for name, value in seconds.items()}
        return SearchResult(tuple(hits), collection.name, notices, milliseconds)

    def _hits(
        self,
        collection: Collection,
        request: SearchRequest,
        query: Encoded,
        filter_: Filter | None,
    ) -> tuple[list[Hit], float, bool]:
        """Search, and wider until the limit is filled or the rankings end.

        Returns:
            The hits, the seconds in the index, and whether one of the two happened.
        """
        limit = max(self._settings.prefetch_limit, request.limit)
        index_seconds = 0.0
        weights = weights_for(len(query.bm25.indices))
        for _ in range(WIDENINGS):
            started = time.perf_counter()
            rankings = self._store.rankings(
                collection,
                query,
                namespace=request.namespace,
                filter_=filter_,
                limit=limit,
            )
            index_seconds += time.perf_counter() - started
            hits = self._assembled(request, fuse(rankings, weights=weights))
            exhausted = all(len(ranking) < limit for ranking in rankings.values())
            if len(hits) >= request.limit or exhausted:
                return hits, index_seconds, True
            limit *= 2
        return hits, index_seconds, False

    def _assembled(self, request: SearchRequest, points: Sequence[Fused]) -> list[Hit]:
        ids = [point.point_id for point in points]
        groups = grouped(
            points,
            self._store.places(request.namespace, ids),
            per_document=request.per_document,
            join_first=request.limit,
        )[: request.limit]
        # Only what is shown is read: a candidate's text is a page of the file.
        found = self._store.hits(
            [point.point_id for _, run in groups for _, point in run]
        )
        return [
            Hit(
                document=found[best.point_id][0],
                chunk_index=found[best.point_id][1].index,
                text=joined([found[point.point_id][1] for _, point in run]),
                score=best.score,
                ranks=best.ranks,
                stage_scores=best.scores,
            )
            for best, run in groups
            # A document may have been replaced since its place was read.
            if all(point.point_id in found for _, point in run)
        ]

    def _explained(self, hit: Hit, query: str) -> Hit:
        text = encoded_text(None, hit.text)
        return replace(hit, token_matches=self._encoders.token_matches(query, text))

    def _notices(self, request: SearchRequest) -> Iterator[str]:
        if self._encoders.problem is not None:
            yield f"Only keyword search (BM25) ran. {self._encoders.problem}"
        excess = self._encoders.query_excess(request.query)
        if excess:
            yield (
                f"The last {excess} tokens of the query were used for keyword search"
                " only; ask shorter."
            )
