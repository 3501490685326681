"""The tools' parameters, described for the model that fills them in."""

from typing import Annotated, Any

from mcp.types import ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field

from mcp_hybrid_search.documents import IfExists
from mcp_hybrid_search.filters import FILTER_SCHEMA
from mcp_hybrid_search.settings import NAME_PATTERN

_ID = (
    "Your own id, up to 512 bytes. Storing again under it replaces the whole document."
    " Without one, the id is derived from the text."
)
_TITLE = "A short title; it helps to find the document."
_SOURCE = "Where the text comes from: a URL, a file, a person, a conversation."
_METADATA = "JSON object of your own keys; hybrid-search can filter on them."
_COLLECTION = f"Collection, pattern {NAME_PATTERN}; the default one if omitted."
_NAMESPACE = f"Part of the collection, pattern {NAME_PATTERN}; `default` if omitted."
_IF_EXISTS = "If a document with this id exists: replace it, skip this one, or fail."
_TEXT = "The text to keep, exactly as it shall come back."

# A plain `str` with "" for "not given" is deliberate: for a parameter of any other
# type the SDK parses a string that looks like JSON, and a title "null" would vanish.
Text = Annotated[str, Field(description=_TEXT)]
Id = Annotated[str, Field(description=_ID)]
Title = Annotated[str, Field(description=_TITLE)]
Source = Annotated[str, Field(description=_SOURCE)]
Metadata = Annotated[dict[str, Any], Field(description=_METADATA)]
WhatIfExists = Annotated[IfExists, Field(description=_IF_EXISTS)]
CollectionName = Annotated[str, Field(description=_COLLECTION)]
Namespace = Annotated[str, Field(description=_NAMESPACE)]
DocumentId = Annotated[str, Field(description="Id of the document, as hits give it.")]
FilterObject = Annotated[dict[str, Any], Field(json_schema_extra=FILTER_SCHEMA)]

WRITES = ToolAnnotations(
    read_only_hint=False,
    destructive_hint=False,
    idempotent_hint=True,
    open_world_hint=False,
)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
DELETES = ToolAnnotations(
    read_only_hint=False,
    destructive_hint=True,
    idempotent_hint=True,
    open_world_hint=False,
)


class DocumentItem(BaseModel):
    """One document of a list."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description=_TEXT)
    id: str | None = Field(None, description=_ID)
    title: str | None = Field(None, description=_TITLE)
    source: str | None = Field(None, description=_SOURCE)
    metadata: dict[str, Any] | None = Field(None, description=_METADATA)
    collection: str | None = Field(None, description=_COLLECTION)
    namespace: str | None = Field(None, description=_NAMESPACE)
    if_exists: IfExists = Field("replace", description=_IF_EXISTS)
