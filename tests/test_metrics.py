"""Metrics count, and no client can put a name of its own into them."""

import re

from mcp_hybrid_search.metrics import Metrics, Now

NOW = Now(
    active=1, waiting=2, sessions=3, ready=True, documents=4, chunks=5, size_bytes=6
)


def sample(metrics: Metrics, name: str) -> float:
    text = metrics.text(NOW).decode()
    found = re.search(rf"^hybrid_search_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def test_calls_are_counted_by_tool_and_outcome() -> None:
    metrics = Metrics()
    metrics.know(["hybrid-search"])
    for outcome in ("ok", "ok", "failed", "busy"):
        metrics.called("hybrid-search", outcome, 0.03)
    total = 'calls_total{outcome="%s",tool="hybrid-search"}'
    assert sample(metrics, total % "ok") == 2
    assert sample(metrics, total % "failed") == 1
    assert sample(metrics, total % "busy") == 1
    # What was not let in took no time.
    assert sample(metrics, 'call_seconds_count{tool="hybrid-search"}') == 3


def test_names_that_are_not_ours_are_one_name() -> None:
    metrics = Metrics()
    metrics.know(["hybrid-search"])
    for name in ("canary-1", "canary-2"):
        metrics.called(name, "canary-3", 1)
        metrics.searched({"canary-4": 1})
        metrics.refused("canary-5")
    text = metrics.text(NOW).decode()
    assert "canary" not in text
    assert sample(metrics, 'calls_total{outcome="other",tool="other"}') == 2
    assert sample(metrics, 'http_refusals_total{reason="other"}') == 2


def test_the_stages_of_a_search_are_timed_in_seconds() -> None:
    metrics = Metrics()
    metrics.searched({"encode": 10.0, "index": 5.0, "read": 1.0, "total": 16.0})
    assert sample(metrics, 'search_stage_seconds_sum{stage="encode"}') == 0.01
    assert sample(metrics, 'search_stage_seconds_count{stage="total"}') == 1


def test_how_things_stand_is_told() -> None:
    metrics = Metrics()
    names = ("calls_active", "calls_waiting", "sessions", "documents", "chunks")
    assert [sample(metrics, name) for name in (*names, "bytes")] == [1, 2, 3, 4, 5, 6]
    assert sample(metrics, "ready") == 1


def test_two_servers_in_one_process_count_for_themselves() -> None:
    first, second = Metrics(), Metrics()
    first.refused("host")
    assert sample(first, 'http_refusals_total{reason="host"}') == 1
    assert sample(second, 'http_refusals_total{reason="host"}') == 0
