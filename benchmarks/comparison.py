"""The tutorial's figures beside ours."""

import numpy as np

from benchmarks.report import Section, figure
from benchmarks.searching import Searches
from benchmarks.tutorial import Searched, Task


def tutorial_section(
    title: str, found: Searched, ours: Searches | None, task: Task
) -> Section:
    """Return the tutorial's figures, and ratios to ours if there are any."""
    rows = [
        figure("search p50, in process", found.search_ms, "ms"),
        figure("  its query alone", found.query_ms, "ms"),
        figure("RSS, searching", [found.rss_bytes / 1e6], "MB"),
        figure("reopen", [found.reopen_ms], "ms"),
    ]
    if ours is not None:
        tutorial_ms, query_ms = np.median(found.search_ms), np.median(found.query_ms)
        whole = float(tutorial_ms / np.median(ours.end_to_end()))
        query = float(query_ms / np.median(ours.index))
        reopen = found.reopen_ms / ours.reopen_ms
        rows += [
            figure(
                "tutorial in process / ours over stdio", [whole], "", target=">= 50"
            ),
            figure("tutorial's query / our index query", [query], ""),
            figure("tutorial's reopen / ours", [reopen], ""),
        ]
    note = (
        f"Model set: {task.models}; token vectors not pooled, cut to their first"
        f" {task.token_dim} numbers"
    )
    return Section(title, rows, note)
