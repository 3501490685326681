"""Encodings on disk, so that a text is encoded once for many measurements."""

import hashlib
import sqlite3
import threading
from pathlib import Path

import numpy as np

from mcp_hybrid_search import models
from mcp_hybrid_search.embeddings import Encoded, SparseVector
from mcp_hybrid_search.settings import Settings

_SCHEMA = """
CREATE TABLE IF NOT EXISTS encodings (
    key BLOB PRIMARY KEY,
    dense BLOB NOT NULL,
    colbert BLOB NOT NULL,
    colbert_dim INTEGER NOT NULL,
    bm25_indices BLOB NOT NULL,
    bm25_values BLOB NOT NULL
) STRICT
"""


def model_identity(settings: Settings) -> str:
    """Name the models of some settings, whatever the settings do with vectors."""
    neutral = settings.model_copy(
        update={
            "chunk_tokens": 240,
            "chunk_overlap_tokens": 0,
            "token_pooling": 1,
            "token_storage": "float16",
        }
    )
    return models.fingerprint(models.model_set(neutral), neutral)


class EncodingCache:
    """Unpooled encodings of one model set by text; safe to use from threads."""

    def __init__(self, path: Path, *, identity: str) -> None:
        """Open or create the cache.

        Args:
            path: One SQLite file, good for any number of model sets.
            identity: As `model_identity` gives it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._identity = identity
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # A lost cache costs time, no truth.
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def find(self, text: str) -> Encoded | None:
        """Return what a text was encoded to, or None."""
        with self._lock:
            row = self._db.execute(
                "SELECT dense, colbert, colbert_dim, bm25_indices, bm25_values"
                " FROM encodings WHERE key = ?",
                (self._key(text),),
            ).fetchone()
        if row is None:
            return None
        dense, colbert, dim, indices, values = row
        return Encoded(
            SparseVector(
                np.frombuffer(indices, np.int64).tolist(),
                np.frombuffer(values, np.float64).tolist(),
            ),
            np.frombuffer(dense, np.float32),
            np.frombuffer(colbert, np.float16).reshape(-1, dim),
        )

    def add(self, text: str, encoded: Encoded) -> None:
        """Keep an encoding that all three models made."""
        if encoded.dense is None or encoded.colbert is None:
            msg = "Only encodings by all three models are kept."
            raise ValueError(msg)
        row = (
            self._key(text),
            encoded.dense.astype(np.float32).tobytes(),
            encoded.colbert.astype(np.float16).tobytes(),
            encoded.colbert.shape[1],
            np.array(encoded.bm25.indices, np.int64).tobytes(),
            np.array(encoded.bm25.values, np.float64).tobytes(),
        )
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO encodings VALUES (?, ?, ?, ?, ?, ?)", row
            )

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._identity}\0{text}".encode()).digest()
