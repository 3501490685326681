"""Values that JSON cannot carry are refused wherever they come from."""

from typing import Any

import pytest

from mcp_hybrid_search.documents import NewDocument
from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.settings import load_settings
from mcp_hybrid_search.validation import check_document, check_metadata, check_name


def refusal(**given: Any) -> str:
    document = NewDocument(
        **{"text": "x", "collection": "c", "namespace": "n", **given}
    )
    with pytest.raises(InvalidInputError) as caught:
        check_document(document, load_settings())
    return str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"n": [float("nan")]}, "metadata.n[0] is nan, which JSON does not have."),
        ({"n": {"m": float("-inf")}}, "metadata.n.m is -inf"),
        ({"n": -(2**63) - 1}, "metadata.n is beyond 64 bit. Give it as a string."),
        ({"s": "\ud800"}, "metadata.s holds a lone surrogate at character 0"),
        ({"\udfff": 1}, "a key of metadata holds a lone surrogate"),
        ({3: 1}, "metadata has an empty key."),
    ],
)
def test_metadata_that_could_not_come_back_is_refused(
    metadata: dict[Any, Any], message: str
) -> None:
    assert message in refusal(metadata=metadata)


@pytest.mark.parametrize("field", ["text", "title", "source", "document_id"])
def test_lone_surrogates_are_refused_by_name(field: str) -> None:
    name = "id" if field == "document_id" else field
    assert f"{name} holds a lone surrogate at character 2" in refusal(
        **{field: "ab\udcff"}
    )


def test_hostile_nesting_is_refused_without_recursion() -> None:
    metadata: Any = []
    for _ in range(100_000):
        metadata = [metadata]
    with pytest.raises(InvalidInputError, match="nested deeper than 16"):
        check_metadata({"k": metadata}, 65_536)


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), True, None, 0.1, "", [], {}])
def test_ordinary_values_pass(value: Any) -> None:
    check_metadata({"k": value}, 65_536)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "../x",
        "-x",
        ".x",
        "é",
        "x" * 65,
        "x/y",
        "a\n",
        "nul",
        "COM1",
        "aux.x",
        "x.",
    ],
)
def test_names_that_are_not_portable_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="collection"):
        check_name("collection", name)


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "9", "x" * 64, "console"])
def test_portable_names_pass(name: str) -> None:
    check_name("collection", name)
