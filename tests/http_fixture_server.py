"""The server over both HTTP transports."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from mcp_hybrid_search.opening import opener
from mcp_hybrid_search.server import create_server
from mcp_hybrid_search.settings import load_settings

if __name__ == "__main__":
    port = int(sys.argv[2])
    settings = load_settings()
    opening = opener(settings)
    server = create_server(opening, settings)
    own = [f"127.0.0.1:{port}", f"localhost:{port}"]
    security = TransportSecuritySettings(
        allowed_hosts=own, allowed_origins=[f"http://{host}" for host in own]
    )
    apps = [
        server.streamable_http_app(transport_security=security),
        server.sse_app(transport_security=security),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield
        await opening.aclose()

    routes = [route for app in apps for route in app.routes]
    uvicorn.run(
        Starlette(routes=routes, lifespan=lifespan), port=port, log_level="warning"
    )
