"""What must be true of a store after any crash, and the proof by its own tools."""

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.real_server import FailedError, RealServer

REBUILD_SECONDS = 600.0
RETIRED_CHECKED = 25
"""Markers of versions gone long ago that are searched again after each crash."""
HIT_LIMIT = 8

_WORDS = (  # noqa: SIM905 - a list has one word a line
    "harbour morning ledger window garden winter copper engine letter river market"
    " paper silver bridge village doctor kitchen summer orange travel music station"
    " planet coffee forest history animal number question mountain island weather"
).split()


@dataclass(frozen=True, slots=True)
class Version:
    """One text that was handed in under some id; every paragraph has its marker."""

    text: str
    markers: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Under `tag` what no other version has, where there is any."""

    def seen(self) -> str:
        """Return what reading shows of it, and of no other version."""
        return _seen(self.text, self.metadata)


def _seen(text: str, metadata: Mapping[str, Any]) -> str:
    return json.dumps([text, dict(metadata)], sort_keys=True)


def new_metadata(rng: random.Random) -> dict[str, Any]:
    """Make metadata that no other version has."""
    return {"tag": _marker(rng), "number": rng.randint(0, 9)}


@dataclass(slots=True)
class Verdict:
    """What was found wrong, each with enough words to look into it."""

    lost: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    resurrected: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    searched: int = 0
    """Searches for a word that one document alone has."""
    not_first: int = 0
    """Documents found by their own word, but not as the first hit."""


def new_version(rng: random.Random) -> Version:
    """Write a text of one to three paragraphs of about 150 tokens."""
    paragraphs = rng.choices([1, 2, 3], [6, 2, 2])[0]
    markers = tuple(_marker(rng) for _ in range(paragraphs))
    return Version("\n\n".join(_paragraph(rng, m) for m in markers), markers)


def _marker(rng: random.Random) -> str:
    return "zq" + "".join(rng.choices("bcdfghjklmnpqrtvwxz", k=10))


def _paragraph(rng: random.Random, marker: str) -> str:
    words = [*rng.choices(_WORDS, k=rng.randint(20, 140)), marker]
    rng.shuffle(words)
    return " ".join(words).capitalize() + "."


class Oracle:
    """The last acknowledged state of every id, and what may be either way."""

    def __init__(self, rng: random.Random, others: tuple[int, int] = (0, 0)) -> None:
        """Know nothing yet.

        Args:
            rng: Chooses what is checked again.
            others: Documents and chunks that are stored and not looked after here.
        """
        self._rng = rng
        self._others = others
        self.living: dict[str, Version] = {}
        self.chunks: dict[str, int] = {}
        """Chunks as acknowledged, by document id."""
        self.retired: dict[str, str] = {}
        """Document ids by the markers of versions that are no more."""
        self.in_flight: dict[str, Version | None] = {}
        """What was asked for and never answered, by document id; None: deletion."""
        self.together: list[list[str]] = []
        """Ids whose deletion was asked for by one filter and never answered."""
        self.retired_tags: list[str] = []
        """Tags of versions that are no more."""
        self.acknowledged = 0

    def changed(self, document_id: str, version: Version) -> None:
        """Take note that the server acknowledged new metadata."""
        chunks = self.chunks.get(document_id)
        self._adopt(document_id, version)
        if chunks is not None:
            self.chunks[document_id] = chunks
        self.acknowledged += 1

    def stored(self, document_id: str, version: Version, chunks: int) -> None:
        """Take note that the server acknowledged a version."""
        self._adopt(document_id, version)
        self.chunks[document_id] = chunks
        self.acknowledged += 1

    def deleted(self, document_id: str) -> None:
        """Take note that the server acknowledged a deletion."""
        self._adopt(document_id, None)
        self.acknowledged += 1

    def _adopt(self, document_id: str, version: Version | None) -> None:
        old = self.living.pop(document_id, None)
        self.chunks.pop(document_id, None)
        if old is not None:
            living = version.markers if version else ()
            gone = [marker for marker in old.markers if marker not in living]
            self.retired.update(dict.fromkeys(gone, document_id))
            self._retire_tag(old, version)
        if version is not None:
            self.living[document_id] = version

    def _retire_tag(self, old: Version, new: Version | None) -> None:
        tag = old.metadata.get("tag")
        if tag is not None and (new is None or new.metadata.get("tag") != tag):
            self.retired_tags.append(tag)

    def verified(self, server: RealServer) -> Verdict:
        """Compare everything the server's tools tell with what must be true."""
        verdict = Verdict()
        self._settle(server, verdict)
        self._read_all(server, verdict)
        self._count(server, verdict)
        self._search_all(server, verdict)
        self._filter_all(server, verdict)
        return verdict

    def _settle(self, server: RealServer, verdict: Verdict) -> None:
        for ids in self.together:
            there = [name for name in ids if read(server, name) is not None]
            if there and there != ids:
                verdict.half.append(f"of {ids} only {there} are left")
        self.together.clear()
        for document_id, wanted in self.in_flight.items():
            old = self.living.get(document_id)
            found = read(server, document_id)
            seen = found and _seen(found["text"], found["metadata"])
            states = {v and v.seen(): v for v in (old, wanted)}
            if seen not in states:
                verdict.half.append(f"{document_id}: neither version, {seen!r:.80}")
            elif (state := states[seen]) is not old:
                self._adopt(document_id, state)
            elif wanted is not None:
                # What was asked for never came to be: it must not be found either.
                living = old.markers if old else ()
                never = [marker for marker in wanted.markers if marker not in living]
                self.retired.update(dict.fromkeys(never, document_id))
                self._retire_tag(wanted, old)
        self.in_flight.clear()

    def _read_all(self, server: RealServer, verdict: Verdict) -> None:
        for document_id, version in self.living.items():
            found = read(server, document_id)
            if found is None:
                verdict.lost.append(f"{document_id}: not found")
                continue
            if _seen(found["text"], found["metadata"]) != version.seen():
                shown = f"{found['text']!r:.80}, {found['metadata']}"
                verdict.half.append(f"{document_id}: {shown}")
            chunks = found["chunks_in_document"]
            if found["chunks"] != chunks or self.chunks.get(document_id) not in (
                None,
                chunks,
            ):
                verdict.half.append(f"{document_id}: {found['chunks']} chunks")
            self.chunks[document_id] = chunks
        gone = set(self.retired.values()) - self.living.keys()
        for document_id in self._some(gone):
            if read(server, document_id) is not None:
                verdict.resurrected.append(f"{document_id}: can be read")

    def _count(self, server: RealServer, verdict: Verdict) -> None:
        collections = server.call("list-collections")["collections"]
        documents = sum(c["documents"] for c in collections)
        chunks = sum(c["chunks"] for c in collections)
        expected = (
            len(self.living) + self._others[0],
            sum(self.chunks.values()) + self._others[1],
        )
        if (documents, chunks) > expected:
            verdict.duplicates.append(f"{documents, chunks} counted, not {expected}")
        if (documents, chunks) < expected:
            verdict.lost.append(f"{documents, chunks} counted, not {expected}")

    def _search_all(self, server: RealServer, verdict: Verdict) -> None:
        for document_id, version in self.living.items():
            for marker in version.markers:
                hits = self._hits(server, marker, verdict)
                verdict.searched += 1
                own = [h for h in hits if marker in h["text"].lower()]
                if not own or min(h["ranks"]["bm25"] or 99 for h in own) > 1:
                    verdict.lost.append(f"{document_id}: {marker} is not found")
                elif hits[0] not in own:
                    verdict.not_first += 1
        for marker in self._some(self.retired):
            for hit in self._hits(server, marker, verdict):
                if marker in hit["text"].lower():
                    verdict.resurrected.append(f"{hit['document_id']}: {marker}")

    def _filter_all(self, server: RealServer, verdict: Verdict) -> None:
        """See that filters find the metadata that is read, and no older one."""
        for document_id, version in self.living.items():
            tag = version.metadata.get("tag")
            if tag is not None and _tagged(server, tag) != [document_id]:
                verdict.lost.append(f"{document_id}: a filter does not find {tag}")
        for tag in self._some(self.retired_tags):
            if found := _tagged(server, tag):
                verdict.resurrected.append(f"{found}: a filter finds {tag}")

    def _hits(
        self, server: RealServer, marker: str, verdict: Verdict
    ) -> list[dict[str, Any]]:
        """Search, and see that every hit is a part of something that is stored."""
        answer = server.call(
            "hybrid-search", query=marker, limit=HIT_LIMIT, per_document=False
        )
        hits: list[dict[str, Any]] = answer["hits"]
        places = [(h["document_id"], h["chunk_index"]) for h in hits]
        if len(set(places)) < len(places):
            verdict.duplicates.append(f"{marker}: {places}")
        for hit in hits:
            version = self.living.get(hit["document_id"])
            if version is None or hit["text"] not in version.text:
                verdict.resurrected.append(f"{hit['document_id']}: {hit['text']:.80}")
        return hits

    def _some(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the newest names and a sample of the older ones."""
        ordered = list(names)
        yield from ordered[-RETIRED_CHECKED:]
        older = ordered[:-RETIRED_CHECKED]
        yield from self._rng.sample(older, min(RETIRED_CHECKED, len(older)))


def _tagged(server: RealServer, tag: str) -> list[str]:
    """Return the ids that a search with a filter finds, if a list finds the same."""
    filter_ = {"tag": tag}
    hits = server.call("hybrid-search", query="tag", filter=filter_)["hits"]
    found = [hit["document_id"] for hit in hits]
    listed = server.call("list-documents", filter=filter_)["documents"]
    same = found == [document["id"] for document in listed]
    return found if same else [*found, "and a list finds others"]


def read(server: RealServer, document_id: str) -> dict[str, Any] | None:
    """Read a document by its tool; None if it is not found."""
    try:
        return server.call("get-document", id=document_id)
    except FailedError as exc:
        if "There is no" in str(exc):
            return None
        raise


def wait_until_complete(server: RealServer) -> float:
    """Search until nothing is being indexed again; returns the seconds it took.

    Raises:
        TimeoutError: If it takes longer than any rebuild of this size may.
    """
    started = time.monotonic()
    while time.monotonic() - started < REBUILD_SECONDS:
        notices = server.call("hybrid-search", query="complete", limit=1)["notices"]
        if not any("indexed again" in notice for notice in notices):
            return time.monotonic() - started
    msg = f"The index is not complete after {REBUILD_SECONDS} s."
    raise TimeoutError(msg)
