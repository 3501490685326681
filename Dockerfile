# The server over HTTP, with its models: nothing is downloaded when it runs.
#
#   docker build --tag mcp-hybrid-search .
#   docker run --publish 127.0.0.1:8000:8000 --volume memory:/data \
#     --env HYBRID_SEARCH_TOKEN=… mcp-hybrid-search
#
# Who is reached from other machines asks for tokens; compose.yaml shows the rest.

FROM python:3.13-slim AS build
WORKDIR /src
COPY constraints.txt ./
# Everything is checked against its hash, the tools of development too; only what
# the server needs is installed from it.
RUN python -m pip download --quiet --only-binary :all: --require-hashes --dest /wheels --requirement constraints.txt
RUN python -m pip install --quiet --no-index --find-links /wheels hatchling
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY mcp_hybrid_search ./mcp_hybrid_search
RUN python -m pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels .
RUN python -m venv /opt/venv
RUN /opt/venv/bin/python -m pip install --quiet --no-index --find-links /wheels mcp-hybrid-search

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --home-dir /data --shell /usr/sbin/nologin memory \
    && install --directory --owner memory --group memory --mode 0700 /data
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HYBRID_SEARCH_DATA_DIR=/data \
    HYBRID_SEARCH_OFFLINE=true
USER memory
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["mcp-hybrid-search"]
CMD ["serve", "--transport", "http", "--host", "0.0.0.0", "--port", "8000"]
