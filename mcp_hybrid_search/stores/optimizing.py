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
IDLE_SECONDS = 1.0
"""How long nothing was searched before a slice begins."""
REST_SECONDS = 3600.0
"""How long an index is left as it is after a slice failed, or for want of space."""
ROOM = 2
"""Free space for a slice, as a multiple of what the index takes."""


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

    def due(self, *, writing: bool) -> bool:
        """Return whether a slice is due now.

        Args:
            writing: Whether something was written a moment ago.
        """
        if not self.wanted():
            return False
        if self._index.unoptimized >= SLICE_LIMIT:
            return True
        searching = time.monotonic() - self._index.searched_at < IDLE_SECONDS
        return not writing and not searching

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
        return self._directory.has_free(ROOM * size_bytes(self._index.path))
