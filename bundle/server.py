"""Starts the server of the bundle.

The package beside this file is no installed distribution, so that hosts need to
build nothing: they install the dependencies of pyproject.toml and run this.
"""

from mcp_hybrid_search.cli import main

if __name__ == "__main__":
    main()
