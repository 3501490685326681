"""Settings, read once at startup from HYBRID_SEARCH_* variables."""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from mcp_hybrid_search.errors import InvalidInputError

PREFIX = "HYBRID_SEARCH_"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"

_OF_ONE_CLIENT = {
    "data_dir",
    "collection",
    "namespace",
    "in_process",
    "engine_idle_seconds",
    "max_line_bytes",
    "max_documents_per_call",
    "log_level",
    "read_only",
    "max_result_bytes",
    "max_calls",
    "max_waiting_calls",
    "max_calls_per_minute",
    "host",
    "port",
    "public_url",
    "json_responses",
    "max_body_bytes",
    "max_sessions",
    "tokens_file",
    "token",
    "oauth_issuer",
    "oauth_audience",
    "oauth_jwks_url",
    "allowed_hosts",
    "allowed_origins",
    "trusted_proxies",
    "tls_cert_file",
    "tls_key_file",
}
"""Settings that each client of one engine may have for itself."""

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _model(name: str) -> str:
    """Return a model's name, or where it is from any working directory."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


# The engine is another process, in another working directory.
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Model = Annotated[str, AfterValidator(_model)]


def _data_dir() -> Path:
    return user_data_path("mcp-hybrid-search", appauthor=False)


class Settings(BaseModel):
    """One flat, frozen object; built in `cli` and passed down by argument."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: AbsolutePath = Field(
        default_factory=_data_dir,
        description="Where documents and their index are kept.",
    )
    collection: Name = Field(
        "documents", description="Collection used where a call names none."
    )
    namespace: Name = Field(
        "default", description="Namespace used where a call names none."
    )
    models: Literal["bundled", "tutorial", "custom"] = Field(
        "bundled",
        description="Model set: `bundled` (no download), `tutorial`, or `custom`.",
    )
    dense_model: Model | None = Field(
        None, description="`custom`: FastEmbed dense model, a name or a directory."
    )
    sparse_model: Model | None = Field(
        None, description="`custom`: FastEmbed sparse model, a name or a directory."
    )
    colbert_model: Model | None = Field(
        None,
        description="`custom`: late-interaction model, a name or a directory.",
    )
    model_cache_dir: AbsolutePath | None = Field(
        None, description="Where downloaded models are kept (default: in data_dir)."
    )
    offline: bool = Field(
        default=False, description="Never download; use only files already here."
    )
    encoder_threads: int | None = Field(
        None, ge=1, le=64, description="Threads per encoder (default: half the cores)."
    )
    chunk_tokens: int = Field(
        480,
        ge=32,
        le=2048,
        description="Largest chunk, title included, in tokens of the model.",
    )
    chunk_overlap_tokens: int = Field(
        24, ge=0, le=256, description="Tokens that neighbouring chunks share."
    )
    token_pooling: int = Field(
        2, ge=1, le=3, description="Late-interaction vectors pooled into one (1: none)."
    )
    token_storage: Literal["float32", "float16", "turbo8"] = Field(
        "turbo8", description="How late-interaction vectors are stored."
    )
    prefetch_limit: int = Field(
        40, ge=10, le=1000, description="Candidates taken from each first ranking."
    )
    max_text_bytes: int = Field(
        1_000_000, ge=1_000, le=10_000_000, description="Largest document, UTF-8."
    )
    max_query_bytes: int = Field(
        32_768, ge=100, le=1_000_000, description="Largest query, UTF-8."
    )
    max_metadata_bytes: int = Field(
        65_536, ge=100, le=1_000_000, description="Largest metadata, as JSON."
    )
    max_line_bytes: int = Field(
        8_388_608, ge=65_536, le=268_435_456, description="Longest message on stdio."
    )
    max_documents_per_call: int = Field(
        1_000, ge=1, le=100_000, description="Documents in one `store-documents`."
    )
    max_result_bytes: int = Field(
        4_000_000, ge=100_000, description="Largest result of a call, UTF-8."
    )
    max_calls: int = Field(
        16, ge=1, le=1_000, description="Calls that one server works on at once."
    )
    max_waiting_calls: int = Field(
        64, ge=0, le=10_000, description="Calls that may wait; more are refused."
    )
    max_calls_per_minute: int = Field(
        0, ge=0, description="Most calls of one token a minute (0: no limit)."
    )
    read_only: bool = Field(
        default=False, description="Offer and accept only tools that change nothing."
    )
    host: str = Field(
        "127.0.0.1", description="Address that HTTP listens on; others need tokens."
    )
    port: int = Field(8000, ge=0, le=65_535, description="Port that HTTP listens on.")
    public_url: str | None = Field(
        None, description="URL that clients reach HTTP by, if not by host and port."
    )
    json_responses: bool = Field(
        default=False,
        description="Answer HTTP with JSON: quicker, but no progress during a call.",
    )
    max_body_bytes: int = Field(
        8_388_608, ge=65_536, le=268_435_456, description="Largest body on HTTP."
    )
    max_sessions: int = Field(
        1_000, ge=1, le=100_000, description="HTTP sessions that are open at once."
    )
    tokens_file: AbsolutePath | None = Field(
        None, description="TOML file of the bearer tokens that HTTP accepts."
    )
    token: SecretStr | None = Field(
        None, description="One bearer token that HTTP accepts, with every right."
    )
    oauth_issuer: str | None = Field(
        None, description="OAuth 2.1: issuer of the access tokens that HTTP accepts."
    )
    oauth_audience: str | None = Field(
        None, description="OAuth 2.1: the audience that names this server in a token."
    )
    oauth_jwks_url: str | None = Field(
        None, description="OAuth 2.1: where the issuer publishes its keys."
    )
    allowed_hosts: str = Field(
        "", description="Further `Host` values that HTTP accepts, between commas."
    )
    allowed_origins: str = Field(
        "", description="Web origins that may call HTTP, between commas."
    )
    trusted_proxies: str = Field(
        "", description="Addresses whose forwarded headers are believed (none)."
    )
    tls_cert_file: AbsolutePath | None = Field(
        None, description="Certificate (PEM) with which HTTP is served as HTTPS."
    )
    tls_key_file: AbsolutePath | None = Field(
        None, description="Private key (PEM) of the certificate."
    )
    in_process: bool = Field(
        default=False,
        description="Run the engine in this process; no other one can share the data.",
    )
    engine_idle_seconds: int = Field(
        600,
        ge=0,
        le=2_592_000,
        description="How long the engine stays after its last client has gone.",
    )
    min_free_bytes: int = Field(
        134_217_728, ge=0, description="Disk space below which nothing is stored."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING", description="What is logged to stderr."
    )

    def engine_values(self) -> dict[str, Any]:
        """Return what everyone who shares an engine must agree on, as JSON."""
        return self.model_dump(mode="json", exclude=_OF_ONE_CLIENT)

    def environment(self) -> dict[str, str]:
        """Return the variables that give another process these settings.

        Without the bearer token: only the server needs it.
        """
        values = self.model_dump(mode="json", exclude_unset=True, exclude={"token"})
        return {
            PREFIX + name.upper(): str(value)
            for name, value in values.items()
            if value is not None
        }

    @model_validator(mode="after")
    def _custom_names_its_models(self) -> "Settings":
        names = (self.dense_model, self.sparse_model, self.colbert_model)
        if self.models == "custom" and None in names:
            msg = (
                f"{PREFIX}MODELS=custom needs {PREFIX}DENSE_MODEL,"
                f" {PREFIX}SPARSE_MODEL and {PREFIX}COLBERT_MODEL."
            )
            raise ValueError(msg)
        if self.models != "custom" and any(names):
            msg = (
                f"{PREFIX}DENSE_MODEL, {PREFIX}SPARSE_MODEL and {PREFIX}COLBERT_MODEL"
                f" are read only with {PREFIX}MODELS=custom."
            )
            raise ValueError(msg)
        return self


def load_settings(**given: Any) -> Settings:
    """Read the settings from the environment; `given` values win over it.

    Raises:
        InvalidInputError: If a variable with our prefix is unknown, or a value
            does not fit.
    """
    return settings_from(os.environ, **given)


def settings_from(environment: Mapping[str, str], **given: Any) -> Settings:
    """Read the settings from the variables of `environment`.

    Raises:
        InvalidInputError: As `load_settings` does.
    """
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    values: dict[str, Any] = {}
    for variable, value in sorted(environment.items()):
        name = variable.upper()
        if name in known:
            # A client that shows a form sends what was left out as nothing.
            values |= {known[name]: value} if value else {}
        # The tests' own variables share the prefix and are no settings.
        elif name.startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_"):
            raise InvalidInputError(_unknown(variable, known))
    try:
        return Settings(**{**values, **given})
    except ValidationError as exc:
        raise InvalidInputError(_explained(exc)) from None


def check_variable(name: str) -> None:
    """Refuse what is not the variable of a setting, as it is written.

    Raises:
        InvalidInputError: It names the nearest one.
    """
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    if name not in known:
        raise InvalidInputError(_unknown(name, known))


def secret_variables() -> set[str]:
    """Return the variables whose values nobody may see."""
    properties = Settings.model_json_schema()["properties"]
    return {
        PREFIX + name.upper()
        for name, schema in properties.items()
        if any(part.get("writeOnly") for part in (schema, *schema.get("anyOf", ())))
    }


def _unknown(variable: str, known: Iterable[str]) -> str:
    name = variable.upper()
    name = name if name.startswith(PREFIX[:6]) else PREFIX + name
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"There is no setting {variable}.{hint} The README lists every setting."


def _explained(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in item["loc"])
        variable = f"{PREFIX}{name.upper()}: " if name else ""
        lines.append(variable + item["msg"].removeprefix("Value error, "))
    return "Settings do not fit. " + " ".join(lines)
