"""The bundled encoders, and what happens when one is missing."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from fastembed.sparse.bm25 import Bm25
from fastembed.sparse.sparse_embedding_base import SparseEmbedding
from hypothesis import given
from hypothesis import strategies as st

from mcp_hybrid_search import loading, models
from mcp_hybrid_search.embeddings import BATCH_SIZE, FastEmbedEncoders
from mcp_hybrid_search.errors import ModelUnavailableError
from mcp_hybrid_search.models import bundle_directory, bundled
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.stopwords import ENGLISH
from tests.conftest import SharedEncoders


def ignore() -> None:
    """Count nothing."""


def test_dimensions_are_measured_from_vectors(encoders: SharedEncoders) -> None:
    query = encoders.encode_query("whale")
    assert query.dense is not None
    assert query.colbert is not None
    assert encoders.dims == {
        "dense": len(query.dense),
        "colbert": len(query.colbert[0]),
    }


def test_vectors_come_back_in_the_order_of_the_texts(encoders: SharedEncoders) -> None:
    texts = ["a long text about whales and the sea " * 3, "soup", "the moon landing"]
    together = encoders.encode_documents(texts, advance=ignore)
    for text, encoded in zip(texts, together, strict=True):
        (alone,) = encoders.encode_documents([text], advance=ignore)
        assert encoded.bm25 == alone.bm25
        assert encoded.dense is not None
        assert alone.dense is not None
        # int8 activations are scaled by batch, so vectors differ a little.
        assert float(encoded.dense @ alone.dense) > 0.97


def test_every_vector_is_normalised(encoders: SharedEncoders) -> None:
    query = encoders.encode_query("whale")
    (document,) = encoders.encode_documents(["The whale sank."], advance=ignore)
    for vectors in (query.dense, query.colbert, document.dense, document.colbert):
        norms = np.linalg.norm(np.atleast_2d(np.asarray(vectors, np.float32)), axis=1)
        assert norms == pytest.approx(1, abs=2e-3)


def test_a_text_advances_twice_and_raising_stops_both_encoders(
    encoders: SharedEncoders,
) -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    encoders.encode_documents(["one", "two", "three"], advance=count)
    assert calls == 6

    def stop() -> None:
        nonlocal calls
        calls += 1
        raise InterruptedError

    calls = 0
    with pytest.raises(InterruptedError):
        encoders.encode_documents(["text"] * 5 * BATCH_SIZE, advance=stop)
    assert calls == 2


@pytest.fixture(scope="module")
def ours() -> Bm25:
    bm25: Bm25 = loading.load_sparse(bundled().sparse, load_settings())
    return bm25


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Bm25:
    """FastEmbed's own, as its documentation has it made."""
    return Bm25(
        "Qdrant/bm25",
        specific_model_path=".",
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        stopwords=set(ENGLISH),
        avg_len=loading.BM25_AVERAGE_LENGTH,
    )


def bits(embeddings: Iterable[SparseEmbedding]) -> list[tuple[object, ...]]:
    return [
        (e.indices.dtype, e.indices.tobytes(), e.values.dtype, e.values.tobytes())
        for e in embeddings
    ]


def test_bm25_is_fastembeds_for_every_character(ours: Bm25, stock: Bm25) -> None:
    rows = [range(i, i + 512) for i in range(0, sys.maxunicode, 512)]
    texts = [" ".join(map(chr, row)) for row in rows]
    assert bits(ours.embed(texts)) == bits(stock.embed(texts))
    assert bits(ours.query_embed(texts)) == bits(stock.query_embed(texts))


ODD = st.text(
    st.sampled_from("aZé_-—'.«¿‿⁀ß İı Ⅷ٣²½ \ufe4d\uff3f\u017f\u0307\u200b\n\ud800x")
)


@given(st.lists(ODD | st.text() | st.sampled_from(sorted(ENGLISH)), max_size=30))
def test_bm25_is_fastembeds_for_any_text(
    ours: Bm25, stock: Bm25, words: list[str]
) -> None:
    texts = [" ".join(words), "".join(words), *words, "x" * 40, "x" * 41]
    assert bits(ours.embed(texts)) == bits(stock.embed(texts))
    assert bits(ours.query_embed(texts)) == bits(stock.query_embed(texts))


def test_fastembed_is_left_to_the_thread_that_makes_the_encoders() -> None:
    script = "import sys, mcp_hybrid_search.engine; print('fastembed' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed == "False\n"


def test_query_tokens_beyond_the_model_are_counted(encoders: SharedEncoders) -> None:
    assert encoders.query_excess("short") == 0
    assert encoders.query_excess("word " * 600) == 600 - encoders.token_limit


def test_matches_name_the_words_that_agree(encoders: SharedEncoders) -> None:
    matches = encoders.token_matches("blue whale", "The whale is a mammal.")
    best = {match.query_token: match.document_token for match in matches}
    assert set(best) == {"blue", "whale"}
    assert best["whale"] == "whale"
    assert all(-1 <= match.similarity <= 1.001 for match in matches)


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_damaged_model_is_named_with_its_repair_and_leaves_keyword_search(
    tmp_path: Path, damage: str
) -> None:
    copy = tmp_path / "data"
    for folder in ("bge_small_en", "colbert"):
        (copy / folder).mkdir(parents=True)
        for file in (bundle_directory() / folder).iterdir():
            (copy / folder / file.name).symlink_to(file)
    model = copy / "bge_small_en" / "model.onnx"
    model.unlink()
    if damage == "altered":
        model.write_bytes(b"not the model")

    encoders = FastEmbedEncoders(models.bundled(copy), load_settings())

    assert encoders.problem is not None
    assert f"{model} is {damage}" in encoders.problem
    assert models.REPAIR in encoders.problem
    query = encoders.encode_query("whale")
    assert (query.dense, query.colbert) == (None, None)
    assert query.bm25.indices
    with pytest.raises(ModelUnavailableError, match="Repair"):
        encoders.encode_documents(["text"], advance=ignore)
    encoders.close()


def test_the_bundled_weights_can_be_given_as_directories(tmp_path: Path) -> None:
    root = bundle_directory()
    stopwords = tmp_path / "bm25"
    stopwords.mkdir()
    (stopwords / "english.txt").write_text("the\nis\n")
    settings = load_settings(
        models="custom",
        dense_model=str(root / "bge_small_en"),
        sparse_model=str(stopwords),
        colbert_model=str(root / "colbert"),
    )
    encoders = FastEmbedEncoders(models.model_set(settings), settings)
    assert encoders.problem is None
    assert encoders.dims == {"dense": 384, "colbert": 384}
    assert len(encoders.encode_query("the whale is").bm25.indices) == 1
    encoders.close()


def test_the_tutorial_set_is_the_tutorials_trio_and_says_when_the_hub_is_away(
    tmp_path: Path,
) -> None:
    settings = load_settings(models="tutorial", offline=True, model_cache_dir=tmp_path)
    chosen = models.model_set(settings)
    assert [chosen.dense.name, chosen.sparse.name, chosen.colbert.name] == [
        "sentence-transformers/all-MiniLM-L6-v2",
        "Qdrant/bm25",
        "colbert-ir/colbertv2.0",
    ]
    with pytest.raises(
        ModelUnavailableError, match=r"Qdrant/bm25.*HYBRID_SEARCH_MODELS"
    ):
        FastEmbedEncoders(chosen, settings)


def test_fingerprints_differ_by_everything_that_changes_a_vector() -> None:
    base = load_settings()
    prints = {
        models.fingerprint(models.model_set(settings), settings)
        for settings in (
            base,
            load_settings(chunk_tokens=100),
            load_settings(chunk_overlap_tokens=10),
            load_settings(token_pooling=1),
            load_settings(token_storage="float16"),
            load_settings(models="tutorial"),
        )
    }
    assert len(prints) == 6


def test_nobody_is_told_that_the_models_are_used(tmp_path: Path) -> None:
    """ONNX Runtime keeps what it would report in the user's cache directory."""
    code = (
        "from mcp_hybrid_search import models; import sys\n"
        "from mcp_hybrid_search.embeddings import FastEmbedEncoders\n"
        "from mcp_hybrid_search.settings import load_settings\n"
        "settings = load_settings()\n"
        "encoders = FastEmbedEncoders(models.model_set(settings), settings)\n"
        "encoders.encode_query('whale')\n"
    )
    # Where tests run by themselves it would report nothing.
    environment = {k: v for k, v in os.environ.items() if k != "CI"}
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={
            **environment,
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path / ".cache"),
            "ORT_DISABLE_TELEMETRY": "0",
        },
        cwd=Path(__file__).parents[1],
    )
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc gives threads heaps of their own",
)
def test_threads_share_what_they_free(tmp_path: Path) -> None:
    code = (
        "import ctypes, sys, threading\n"
        "from mcp_hybrid_search import models\n"
        "from mcp_hybrid_search.embeddings import FastEmbedEncoders\n"
        "from mcp_hybrid_search.settings import load_settings\n"
        "settings = load_settings()\n"
        "encoders = FastEmbedEncoders(models.model_set(settings), settings)\n"
        "together = threading.Barrier(16)\n"
        "def work():\n"
        "    together.wait()\n"
        "    encoders.encode_documents(['whale'], advance=lambda: None)\n"
        "threads = [threading.Thread(target=work) for _ in range(16)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.fopen.restype = ctypes.c_void_p\n"
        "file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b'w'))\n"
        "libc.malloc_info(0, file), libc.fclose(file)\n"
    )
    heaps = tmp_path / "heaps"
    subprocess.run(
        [sys.executable, "-c", code, str(heaps)],
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert heaps.read_text().count("<heap nr=") <= 2
