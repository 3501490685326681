"""What storing one large document over stdio takes of the server's memory."""

import shutil
import time

from benchmarks.host import memory
from benchmarks.report import Section, figure, say
from benchmarks.searching import copied, peak_while_storing
from benchmarks.serving import served
from mcp_hybrid_search.settings import Settings


async def memory_section(settings: Settings, text: str, chunks: int) -> Section:
    """Store a document in a copy of a closed store, through the command.

    Args:
        settings: Of the store.
        text: The document.
        chunks: In the store, for the title.
    """
    size_bytes = len(text.encode())
    copy = copied(settings, "memory")
    try:
        async with served(copy) as server:
            await server.call("hybrid-search", query="warm")
            before = memory(server.processes())
            say(f"memory: storing {size_bytes:,} bytes")
            started = time.perf_counter()
            after = await peak_while_storing(server, text)
            seconds = time.perf_counter() - started
    finally:
        shutil.rmtree(copy.data_dir)
    rows = [
        figure("RSS before", [before.rss / 1e6], "MB"),
        figure("peak RSS", [after.peak_rss / 1e6], "MB", target="< 1,200"),
        figure("RSS after", [after.rss / 1e6], "MB"),
        figure("  not mapped from files", [after.anonymous / 1e6], "MB"),
        figure("time to store", [seconds], "s"),
    ]
    title = f"Storing {size_bytes:,} bytes over stdio beside {chunks:,} chunks"
    return Section(title, rows)
