"""`python -m mcp_hybrid_search` is the command."""

from mcp_hybrid_search.cli import main

main()
