"""Settings come from the environment, and a mistake in one is named."""

from pathlib import Path

import pytest

from mcp_hybrid_search.errors import InvalidInputError
from mcp_hybrid_search.settings import PREFIX, Settings, load_settings


def test_variables_are_read_and_given_values_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{PREFIX}DATA_DIR", str(tmp_path))
    monkeypatch.setenv(f"{PREFIX}COLLECTION", "notes")
    settings = load_settings(collection="other")
    assert (settings.data_dir, settings.collection) == (tmp_path, "other")


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}COLLECTION", "")
    assert load_settings().collection == "documents"


def test_a_mistyped_variable_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"{PREFIX}COLECTION", "x")
    with pytest.raises(
        InvalidInputError,
        match=r"no setting HYBRID_SEARCH_COLECTION\. Did you mean HYBRID_SEARCH_COL",
    ):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CHUNK_TOKENS", "many", "HYBRID_SEARCH_CHUNK_TOKENS: Input should be a valid"),
        ("CHUNK_TOKENS", "1", "HYBRID_SEARCH_CHUNK_TOKENS: Input should be greater"),
        ("COLLECTION", "../x", "HYBRID_SEARCH_COLLECTION: String should match"),
        ("MODELS", "custom", "HYBRID_SEARCH_MODELS=custom needs"),
        ("DENSE_MODEL", "x", "are read only with HYBRID_SEARCH_MODELS=custom"),
    ],
)
def test_a_value_that_does_not_fit_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(PREFIX + variable, value)
    with pytest.raises(InvalidInputError) as caught:
        load_settings()
    assert message in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_settings_are_frozen_and_described() -> None:
    assert Settings.model_config["frozen"]
    assert all(field.description for field in Settings.model_fields.values())
