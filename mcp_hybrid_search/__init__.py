"""Memory and document search for AI assistants, as an MCP server."""

import os

# ONNX Runtime reports its use to its maker unless this is set before it is imported:
# nothing leaves the machine.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
