"""Every command; imported only when one is named."""

from mcp_hybrid_search import document_commands, engine_commands, serving_commands
from mcp_hybrid_search.command_line import app, options
from mcp_hybrid_search.token_commands import app as token_app

__all__ = [
    "app",
    "document_commands",
    "engine_commands",
    "options",
    "serving_commands",
]

app.add_typer(token_app, name="token")
