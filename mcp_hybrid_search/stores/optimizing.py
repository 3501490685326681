"""When an index is optimised: in slices, when nothing else is to do.

A slice is one call of Edge, during which nothing else of the process runs. It must
be short, so it takes few points; and each leaves a segment that every search visits,
so it must not take too few.
"""

import logging
import time

from mcp_hybrid_search.stores.directory import DataDirectory
from mcp_hybrid_search.stores.edge import EdgeIndex, size_bytes

log = logging.getLogger(__name__)

SLICE_POINTS = 4_000
"""New points that make a slice worth while when nothing else is to do."""
SLICE_LIMIT = 5_000
"""New points that do not wait for that: the slice would become too long."""
LONG_POINTS = 2 * SLICE_LIMIT
"""New points whose slice is too long already: an index made before there were slices,
or after none could be run. Edge cannot divide them, so the long slice comes once."""
IDLE_SECONDS = 1.0
"""How long an index was not used before a slice begins."""
LONG_IDLE_SECONDS = 300.0
"""The same for a long slice."""
REST_SECONDS = 3600.0
"""How long an index is left as it is after a slice failed, or for want of space."""
ROOM = 2
"""Free space for a slice, as a multiple of what the index takes."""
ROOM_BYTES = 512 * 1024 * 1024
"""Free space besides: Edge lays out files in advance, and counts their holes."""


class Slices:
    """The slices of one index, and when the next is due."""

    def __init__(self, index: EdgeIndex, directory: DataDirectory) -> None:
        self._index = index
        self._directory = directory
        self._rests_until = 0.0

    def wanted(self) -> bool:
        """Return whether a slice is due as soon as nothing else is to do."""
        resting = time.monotonic() < self._rests_until
        return self._index.unoptimized >= SLICE_POINTS and not resting

    def due(self) -> bool:
        """Return whether a slice is due now."""
        if not self.wanted():
            return False
        idle_seconds = time.monotonic() - self._index.used_at
        if self._index.unoptimized >= LONG_POINTS:
            return idle_seconds >= LONG_IDLE_SECONDS
        return self._index.unoptimized >= SLICE_LIMIT or idle_seconds >= IDLE_SECONDS

    def run(self) -> None:
        """Optimise what came since the last slice, if there is space for it.

        What the index holds must be on the disk; it is so again afterwards.
        """
        try:
            if self._has_room():
                self._index.optimize()
                return
        except Exception:
            # It can be searched as it is, and must not end the caller's thread.
            log.exception("An index could not be optimised.")
        self._rests_until = time.monotonic() + REST_SECONDS

    def _has_room(self) -> bool:
        # Edge maps its files: a full disk would kill the process.
        size = size_bytes(self._index.path)
        return self._directory.has_free(ROOM * size + ROOM_BYTES)
