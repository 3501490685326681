"""Memory and document search for AI assistants, as an MCP server."""

__version__ = "0.1.0"
