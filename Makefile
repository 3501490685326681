# On a fresh clone these need Python 3.10 or newer and a package index, nothing else.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NODE := $(VENV)/.node
NODE_PACKAGES := tests/node/node_modules/.ready
EXAMPLES := $(patsubst examples/%.py,$(VENV)/examples/%/.ready,$(wildcard examples/*.py))
UV_VERSION := 0.13.9
MCPB_VERSION := 2.1.2

# The first of these that is new enough; `make PYTHON=...` names another one.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& { echo $$p; exit; }; done; echo python3)

.PHONY: help demo test lint foreign conformance bench-quality bench-speed bench-sharing bench-http crash constraints wheel packages bundle image-steps clean

help:
	@echo "make demo           what reranking changes, with the real server"
	@echo "make test           lint, types, and all tests with their coverage"
	@echo "make lint           ruff and mypy"
	@echo "make foreign        install the clients that were not written here"
	@echo "make conformance    the MCP conformance suite against the HTTP server"
	@echo "make bench-quality  how good the rankings are (DATA=a BEIR directory)"
	@echo "make bench-speed    how fast storing and searching are"
	@echo "make bench-sharing  what several servers on one directory cost (PARTS=a,b,c)"
	@echo "make bench-http     what HTTP adds, clients, bursts, memory (PARTS=a,b,c)"
	@echo "make crash          kill the server again and again, and look for losses"
	@echo "make constraints    resolve constraints.txt again (UPGRADE=1: to the newest)"
	@echo "make wheel          build the wheel into dist/"
	@echo "make packages       write again what registries read, from settings and tools"
	@echo "make bundle         build and try the .mcpb bundle in dist/ (needs Node.js)"
	@echo "make image-steps    try the steps of the Dockerfile without Docker"

# Only what constraints.txt lists is installed, and only wheels with those hashes;
# with --no-build-isolation even the build backend is one of them.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; v = "Python 3.10 or newer is needed; $(PYTHON) is " + v + ". Name another: make PYTHON=python3.12"; sys.exit(v if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--only-binary :all: --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)
	@$(BIN)/mcp-hybrid-search demo

# What is installed for a test is there, or the test fails: none is skipped for it.
test: lint foreign
	FOREIGN_CLIENTS=required $(BIN)/python -m pytest --cov=mcp_hybrid_search --cov-branch --cov-report=term-missing:skip-covered

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

foreign: $(NODE_PACKAGES) $(EXAMPLES)

conformance: $(NODE_PACKAGES)
	FOREIGN_CLIENTS=required $(BIN)/python -m pytest tests/test_conformance.py -rP --no-header

# Node is not among the development dependencies: it is large, and `make demo` needs
# none.
$(NODE): tests/node/requirements.txt $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--only-binary :all: --require-hashes -r $<
	@touch $@

$(NODE_PACKAGES): tests/node/package.json tests/node/package-lock.json $(NODE)
	cd tests/node && PATH="$(abspath $(BIN)):$$PATH" npm ci --loglevel=error
	@touch $@

# Each example's dependencies are its own: not all of them agree with each other's.
$(VENV)/examples/%/.ready: examples/%.requirements.txt $(READY)
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
		--only-binary :all: --require-hashes -r $<
	@touch $@

bench-quality: $(READY)
	@test -n "$(DATA)" || { echo "Name a BEIR directory: make bench-quality DATA=DIR"; exit 2; }
	$(BIN)/python -m benchmarks.quality --data $(DATA)

bench-speed: $(READY)
	$(BIN)/python -m benchmarks.speed $(if $(DATA),--data $(DATA))

bench-sharing: $(READY)
	$(BIN)/python -m benchmarks.sharing $(if $(PARTS),--parts $(PARTS))

bench-http: $(READY)
	$(BIN)/python -m benchmarks.http $(if $(PARTS),--parts $(PARTS))

crash: $(READY)
	$(BIN)/python -m benchmarks.crash

$(VENV)/uv/bin/uv:
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# For every Python and platform at once. Keeps the versions that are there.
COMPILE = $(VENV)/uv/bin/uv pip compile --quiet --universal --python-version 3.10 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate \
	$(if $(UPGRADE),--upgrade)

constraints: $(VENV)/uv/bin/uv
	$(COMPILE) --group dev --output-file constraints.txt pyproject.toml
	$(COMPILE) --output-file tests/node/requirements.txt tests/node/requirements.in
	for name in $(patsubst %.py,%,$(wildcard examples/*.py)); do \
		$(COMPILE) --output-file $$name.requirements.txt $$name.py || exit; done

wheel: $(READY)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --wheel-dir dist .

packages: $(READY)
	$(BIN)/python -m tests.packages

# What is packed is unpacked again and started as its manifest says.
bundle: $(READY) $(VENV)/uv/bin/uv
	$(BIN)/python -m tests.packages --bundle build/bundle
	npx --yes @anthropic-ai/mcpb@$(MCPB_VERSION) validate build/bundle/manifest.json
	@mkdir -p dist
	npx --yes @anthropic-ai/mcpb@$(MCPB_VERSION) pack build/bundle \
		dist/mcp-hybrid-search-$$($(BIN)/python -c 'import mcp_hybrid_search as m; print(m.__version__)').mcpb
	PATH="$(CURDIR)/$(VENV)/uv/bin:$$PATH" $(BIN)/python -m tests.bundle \
		dist/mcp-hybrid-search-*.mcpb

image-steps: $(READY)
	$(BIN)/python -m tests.image

clean:
	rm -rf $(VENV) tests/node/node_modules dist build .coverage .mypy_cache .pytest_cache .ruff_cache
