"""Sections of figures, as tables to read and as JSON to keep."""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.host import commit, machine, versions
from mcp_hybrid_search.settings import Settings

RESULTS = Path(__file__).with_name("results")

Cell = str | int | float | None
Row = Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Section:
    """Rows with the same columns, and what a reader must know about them."""

    title: str
    rows: Sequence[Row]
    note: str = ""


def figure(
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    target: str = "",
    percentile: float = 50,
) -> Row:
    """Return a row: a percentile (by default the median) of repeated values."""
    return {
        "what": what,
        "value": float(np.percentile(values, percentile)) if values else None,
        "unit": unit,
        "repetitions": len(values),
        "target": target,
    }


def show(sections: Sequence[Section]) -> None:
    """Print sections as tables."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for section in sections:
        table = Table(title=section.title, title_justify="left", box=box.SIMPLE)
        for column in section.rows[0] if section.rows else ():
            numeric = any(isinstance(row[column], int | float) for row in section.rows)
            table.add_column(column, justify="right" if numeric else "left")
        for row in section.rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)
        if section.note:
            console.print(section.note, style="dim", highlight=False)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def as_json(
    benchmark: str, sections: Sequence[Section], settings: Settings
) -> dict[str, object]:
    """Return everything that is needed to read the figures a year later."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(timezone.utc).isoformat("T", "seconds"),
        "commit": commit(),
        # Names, not places: the results are read on other machines.
        "arguments": [Path(argument).name for argument in sys.argv[1:]],
        "machine": machine(),
        "versions": versions(),
        "settings": settings.model_dump(mode="json", exclude={"data_dir"}),
        "sections": [
            {"title": s.title, "rows": [dict(row) for row in s.rows], "note": s.note}
            for s in sections
        ],
    }


def write(file: Path, contents: Mapping[str, object]) -> Path:
    """Write JSON; a bare file name goes to benchmarks/results/."""
    path = RESULTS / file if file.parent == Path() else file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def say(text: str) -> None:
    """Tell on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def progress(label: str) -> Callable[[float, float, str], Awaitable[None]]:
    """Return a callback for `Engine.store_many` that tells of every tenth done."""
    told = 0

    async def tell(done: float, total: float, what: str) -> None:
        nonlocal told
        tenth = int(done * 10 / total) if total else 0
        if tenth > told:
            told = tenth
            say(f"{label}: {done:,.0f} of {total:,.0f} {what}")

    return tell
