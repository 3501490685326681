"""Settings for a trial that must not touch the user's data."""

from pathlib import Path
from typing import Any

from mcp_hybrid_search.settings import Settings


def elsewhere(settings: Settings, directory: Path) -> Settings:
    """Return the settings with another data directory, and no engine left behind.

    What was downloaded is shared: it is large, and the same for everybody.
    """
    update: dict[str, Any] = {"data_dir": directory, "in_process": True}
    if settings.models != "bundled":
        update["model_cache_dir"] = model_cache(settings)
    return settings.model_copy(update=update)


def model_cache(settings: Settings) -> Path:
    """Return where FastEmbed keeps what it downloads."""
    return settings.model_cache_dir or settings.data_dir / "models"
