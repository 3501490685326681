"""An MCP server with nothing in it: the floor of the time to `initialize`."""

from mcp.server import MCPServer

MCPServer("empty").run()
