"""What is logged: what happened and where, and nobody's texts, queries or keys."""

import logging
import sys
import traceback
from types import TracebackType
from typing import TypeAlias

from typing_extensions import override

TALKATIVE = ("mcp", "sse_starlette", "httpx2", "httpcore2", "asyncio")
"""Loggers of libraries that write messages and arguments if they are let."""

Raised: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None]
    | tuple[None, None, None]
)


class WithoutMessages(logging.Formatter):
    """Shows where an exception was raised, and not its text: it may be somebody's."""

    @override
    def formatException(self, ei: Raised) -> str:
        """Return the exception's type and the lines that led to it."""
        kind, _, where = ei
        lines = traceback.format_tb(where)
        return f"{''.join(lines)}{kind.__name__ if kind else ''}"


def log_to_stderr(level: str, *, form: str = logging.BASIC_FORMAT) -> None:
    """Log to stderr from now on.

    Args:
        level: As the settings name it.
        form: Of one line, as `logging.Formatter` takes it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WithoutMessages(form))
    logging.basicConfig(level=level, handlers=[handler])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
