"""The benchmarks measure what they say, on collections small enough to check."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("ir_measures", reason="no wheel of it on this platform")

from benchmarks import http, sharing
from benchmarks import quality as quality_benchmark
from benchmarks.beir import read_beir
from benchmarks.encoding_cache import EncodingCache
from benchmarks.http_burst import became
from benchmarks.measures import quality
from benchmarks.replay import NoisyEncoders, ReplayEncoders
from benchmarks.report import Section, as_json, figure, show, write
from mcp_hybrid_search.documents import TokenMatch
from mcp_hybrid_search.embeddings import Encoded, SparseVector
from mcp_hybrid_search.settings import load_settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DOCUMENTS = {
    "whale": ("Whales", "The blue whale is the largest animal that ever lived."),
    "bread": ("Bread", "Sourdough bread rises by wild yeast and takes a day."),
    "train": ("Trains", "The night train from Vienna to Rome leaves at seven."),
    "moon": ("The Moon", "Astronauts walked on the Moon for the first time in 1969."),
    "tea": ("Tea", "Green tea is brewed with water well below boiling."),
    "tax": ("", "The income tax return is due at the end of July."),
    "bees": ("Bees", "Honey bees tell one another about flowers by dancing."),
    "title-only": ("A list of volcanoes in Iceland", ""),
}
QUERIES = {
    "q1": "which creature is the biggest of all",
    "q2": "first people on the Moon",
    "q3": "Icelandic volcanoes",
}
QRELS = [("q1", "whale", 2), ("q1", "bees", 0), ("q2", "moon", 1)]
QRELS += [("q3", "title-only", 1), ("q-unknown", "tea", 1)]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A collection in the BEIR format."""
    directory = tmp_path / "beir"
    (directory / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": key, "title": title, "text": text}
        for key, (title, text) in DOCUMENTS.items()
    ]
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / f"{name}.jsonl").write_text(text, "utf-8")
    judgements = "".join("{}\t{}\t{}\n".format(*row) for row in QRELS)
    header = "query-id\tcorpus-id\tscore\n"
    (directory / "qrels" / "test.tsv").write_text(header + judgements, "utf-8")
    return directory


def test_ndcg_counts_grades_with_a_logarithmic_discount() -> None:
    found = quality(
        {"q": ["none", "good", "best"]}, {"q": {"best": 3, "good": 1, "none": 0}}
    )

    gained = 1 / math.log2(3) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    assert found.ndcg_at_10 == pytest.approx(gained / ideal)
    assert found.ndcg_at_10 == pytest.approx(0.5869, abs=1e-4)


def test_the_eleventh_place_counts_for_mrr_only() -> None:
    ranking = [f"other-{place}" for place in range(10)] + ["relevant"]

    found = quality({"q": ranking}, {"q": {"relevant": 1}})

    assert (found.ndcg_at_10, found.recall_at_10) == (0, 0)
    assert found.mrr == pytest.approx(1 / 11)


def test_measures_are_means_over_queries_and_no_ranking_counts_zero() -> None:
    qrels = {"a": {"x": 1, "y": 1}, "b": {"z": 1}}

    found = quality({"a": ["o", "x"]}, qrels)

    assert found.recall_at_10 == pytest.approx((0.5 + 0) / 2)
    assert found.mrr == pytest.approx((0.5 + 0) / 2)


def test_beir_directory_is_read_with_its_judged_queries(beir: Path) -> None:
    collection = read_beir(beir)

    assert [document.document_id for document in collection.documents] == [*DOCUMENTS]
    assert collection.documents[0].title == "Whales"
    assert collection.queries == QUERIES
    assert collection.qrels["q1"] == {"whale": 2, "bees": 0}
    assert "q-unknown" not in collection.qrels


def test_fewer_documents_leave_queries_with_a_relevant_one(beir: Path) -> None:
    collection = read_beir(beir, limit_documents=4)

    assert len(collection.documents) == 4
    assert [*collection.queries] == ["q1", "q2"]


def test_qrels_are_also_found_beside_the_corpus(beir: Path) -> None:
    (beir / "qrels" / "test.tsv").rename(beir / "qrels.tsv")

    assert read_beir(beir).qrels["q2"] == {"moon": 1}


def test_a_figure_is_a_percentile_with_its_repetitions() -> None:
    assert figure("time", [3.0, 1.0, 2.0], "ms", target="<= 5") == {
        "what": "time",
        "value": 2.0,
        "unit": "ms",
        "repetitions": 3,
        "target": "<= 5",
    }
    assert figure("nothing", [], "ms")["value"] is None


def test_sections_become_tables_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = [
        Section("Speed", [figure("search", [1234.5], "ms")], "a note"),
        Section("Empty", [], "not measured"),
    ]
    settings = load_settings(data_dir=tmp_path)

    show(sections)
    contents = as_json("speed", sections, settings)
    path = write(tmp_path / "new" / "figures.json", contents)

    printed = capsys.readouterr().out
    assert all(text in printed for text in ("Speed", "1,234", "a note", "not measured"))
    read = json.loads(path.read_text("utf-8"))
    assert read["benchmark"] == "speed"
    assert {"cpu", "cores", "memory_bytes"} <= read["machine"].keys()
    assert {"python", "numpy"} <= read["versions"].keys()
    assert {"date", "commit", "arguments"} <= read.keys()
    assert read["settings"]["token_pooling"] == settings.token_pooling
    assert read["sections"][0]["rows"][0]["value"] == 1234.5


class FakeEncoders:
    """Encode a text by its length, and remember what they were asked."""

    def __init__(self) -> None:
        self.dims = {"dense": 4, "colbert": 4}
        self.tokenizer: Tokenizer | None = None
        self.token_limit = 100
        self.problem: str | None = None
        self.asked: list[str] = []

    def encode_documents(
        self, texts: Sequence[str], *, advance: Callable[[], None]
    ) -> list[Encoded]:
        self.asked += texts
        for _ in range(2 * len(texts)):
            advance()
        return [self.encode_query(text) for text in texts]

    def encode_query(self, text: str) -> Encoded:
        rows = np.eye(4, dtype=np.float32)[: 1 + len(text) % 4]
        return Encoded(SparseVector([len(text)], [1.5]), rows[0], rows)

    def query_excess(self, text: str) -> int:
        return len(text)

    def token_matches(self, query: str, text: str) -> tuple[TokenMatch, ...]:
        return (TokenMatch(query, text, 1.0),)

    def close(self) -> None:
        pytest.fail("borrowed encoders were closed")


def test_a_text_is_encoded_once_for_every_pooling(tmp_path: Path) -> None:
    inner = FakeEncoders()
    advanced: list[None] = []
    cache = EncodingCache(tmp_path / "encodings.sqlite3", identity="fake")
    plain = ReplayEncoders(inner, cache, pooling=1)
    by_two = ReplayEncoders(inner, cache, pooling=2)

    plain.encode_documents(["abc", "d"], advance=lambda: advanced.append(None))
    (again,) = plain.encode_documents(["abc"], advance=lambda: advanced.append(None))
    (halved,) = by_two.encode_documents(["abc"], advance=lambda: advanced.append(None))
    plain.close()
    cache.close()

    assert inner.asked == ["abc", "d"]
    assert len(advanced) == 2 * 4
    expected = inner.encode_query("abc")
    assert again.bm25 == expected.bm25
    assert again.dense is not None
    assert again.colbert is not None
    assert halved.colbert is not None
    np.testing.assert_array_equal(again.dense, np.array([1, 0, 0, 0], np.float32))
    np.testing.assert_array_equal(again.colbert, np.eye(4))
    assert halved.colbert.shape == (2, 4)


def test_encodings_of_other_models_are_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "encodings.sqlite3"
    ours = EncodingCache(path, identity="ours")
    ours.add("text", FakeEncoders().encode_query("text"))
    other = EncodingCache(path, identity="other")

    assert ours.find("text") is not None
    assert other.find("text") is None
    ours.close()
    other.close()


def test_a_known_text_comes_back_near_and_normalised() -> None:
    inner = FakeEncoders()
    noisy = NoisyEncoders(inner, seed=1)

    first, second, third = noisy.encode_documents(["abc"] * 3, advance=lambda: None)

    assert inner.asked == ["abc"]
    assert first.dense is not None
    assert second.dense is not None
    assert third.dense is not None
    np.testing.assert_array_equal(first.dense, [1, 0, 0, 0])
    assert not np.array_equal(second.dense, third.dense)
    for varied in (second, third):
        assert varied.dense is not None
        assert varied.colbert is not None
        assert float(np.linalg.norm(varied.dense)) == pytest.approx(1)
        assert float(varied.dense[0]) > 0.7
        np.testing.assert_allclose(np.linalg.norm(varied.colbert, axis=1), 1, atol=2e-3)


def test_quality_runs_through_the_real_engine(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "quality.json"

    quality_benchmark.main(["--data", str(beir), "--json", str(written)])

    stages, engine = json.loads(written.read_text("utf-8"))["sections"]
    fused = stages["rows"][-1]
    assert [row["ranking"] for row in stages["rows"]] == [
        "dense",
        "BM25",
        "RRF (dense + BM25)",
        "bare rerank",
        "fused (Engine.search)",
    ]
    assert (fused["nDCG@10"], fused["recall@10"], fused["MRR@10"]) == (1, 1, 1)
    assert stages["note"] == "3 queries, 8 documents"
    assert engine["rows"][0]["chunks"] == 8
    assert engine["rows"][0]["bytes per chunk on disk"] > 384 * 4
    assert "fused (Engine.search)" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_sharing_runs_real_servers_and_leaves_no_engine_behind(tmp_path: Path) -> None:
    written = tmp_path / "sharing.json"
    sizes = ["--servers", "2", "--writes", "3", "--kills", "2", "--chunks", "0"]
    places = ["--work", str(tmp_path), "--json", str(written)]

    sharing.main(["--parts", "clients,memory,kills", *sizes, *places])

    clients, memory, kills = json.loads(written.read_text("utf-8"))["sections"]
    (counts,) = clients["rows"]
    assert (counts["servers"], counts["writes"]) == (2, 6)
    assert [counts[name] for name in ("errors", "stale", "lost", "half")] == [0] * 4
    figures = {row["what"]: row["value"] for row in memory["rows"] + kills["rows"]}
    assert figures["processes with models"] == 1
    assert figures["kills"] == 2
    assert figures["acknowledged writes"] > 0
    assert figures["errors seen by clients"] == 0
    assert figures["acknowledged documents lost"] == 0
    assert str(tmp_path) not in written.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [written]
    assert engines_below(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_http_runs_a_real_server_and_leaves_nothing_behind(tmp_path: Path) -> None:
    written = tmp_path / "http.json"
    sizes = ["--quick", "--chunks", "0", "--queries", "3", "--seconds", "1"]
    sizes += ["--store-percents", "50", "--drift-calls", "60", "--drift-rest", "0"]
    places = ["--work", str(tmp_path), "--json", str(written)]

    http.main([*sizes, *places])

    sections = json.loads(written.read_text("utf-8"))["sections"]
    overhead, clients, burst, lines, growth = (section["rows"] for section in sections)
    searches = [row for row in overhead if "search" in row["what"]]
    assert len(searches) == 4 + 3
    assert {row["repetitions"] for row in searches} == {3}
    figures = {row["what"].strip(): row["value"] for row in clients + burst + growth}
    assert figures["errors"] == 0
    assert figures["search p99"] > 0
    assert figures["store p99"] > 0
    assert figures["answered"] + figures["refused"] == 100
    assert figures["ping worst, meanwhile"] > 0
    assert figures["pings without an answer"] == 0
    assert [row["calls"] for row in lines] == [*range(6, 61, 6)]
    assert all(row["engine RSS MB"] > row["server RSS MB"] > 0 for row in lines)
    assert figures["unexpected answers"] == 0
    assert str(tmp_path) not in written.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [written]
    assert engines_below(tmp_path) == []


HEAD = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n"
ERROR = b'{"jsonrpc":"2.0","id":1,"result":{"isError":true,"content":[{"text":"%s"}]}}'


@pytest.mark.parametrize(
    ("status", "header", "body", "outcome"),
    [
        pytest.param(b"200 OK", b"", b'{"result":{}}', "answered", id="result"),
        pytest.param(b"429 X", b"Retry-After: 2\r\n", b"", "refused", id="retry-after"),
        pytest.param(b"429 X", b"", b"", "429 without Retry-After", id="no-time"),
        pytest.param(
            b"200 OK", b"", ERROR % b"Busy: retry in 3 s.", "refused", id="busy-tool"
        ),
        pytest.param(b"503 X", b"", b"overloaded", "503 overloaded", id="no-json"),
    ],
)
def test_a_call_of_a_burst_is_answered_or_refused_with_a_time(
    status: bytes, header: bytes, body: bytes, outcome: str
) -> None:
    assert became(HEAD % (status, len(body), header) + body) == outcome


def test_a_tool_error_that_names_no_time_is_no_refusal() -> None:
    body = ERROR % b"Busy."

    assert became(HEAD % (b"200 OK", len(body), b"") + body).startswith("200 {")


@pytest.mark.parametrize("left", [0, 10, 60])
def test_half_an_answer_of_a_burst_is_neither(left: int) -> None:
    whole = HEAD % (b"200 OK", 13, b"") + b'{"result":{}}'

    assert became(whole[:left]).startswith(f"{left} bytes: ")


def engines_below(directory: Path) -> list[bytes]:
    """Return the command lines of engines that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"HYBRID_SEARCH_DATA_DIR={directory}".encode() in path.read_bytes():
                found.append(path.with_name("cmdline").read_bytes())
    return found
