# Each target sets up what it needs. `make demo` and `make test` are all that a newcomer has to know.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PROJECTS := $(wildcard plugins/*/pyproject.toml) $(wildcard examples/*/pyproject.toml) $(wildcard benchmarks/*/pyproject.toml)
EDITABLES := $(foreach project,$(PROJECTS),-e $(dir $(project)))
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed

ENGINE ?= llamacpp
MODEL ?=

# ASYNC109: a time limit is part of what a caller of the client says. ASYNC127 is for httpx's sake,
# which runs on trio. ASYNC119, ASYNC101: pytest-trio runs fixtures that yield in tasks of their own.
# ASYNC124: an async method without an await may keep a protocol. 9xx want a checkpoint on every
# path of every function, also where there is nothing to wait for.
ASYNC_RULES := --disable=ASYNC101,ASYNC109,ASYNC114,ASYNC119,ASYNC124,ASYNC127,ASYNC128,ASYNC900,ASYNC910,ASYNC911,ASYNC912,ASYNC913

.DEFAULT_GOAL := help
.PHONY: help install demo test test-interop test-conformance test-embedded test-wheels coverage watch lint fix format typecheck docs load-test bench-queue bench-embeddings bench-batch bench-stream bench-dead-engine clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One pip call installs everything: the build backend is there already, so nothing is built in isolation.
$(INSTALLED): pyproject.toml constraints.txt $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "worker-core needs Python 3.11 or newer; name one: make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(PIP) install -c constraints.txt flit_core
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]' $(EDITABLES)
	@touch $@

install: $(INSTALLED)  ## Set up the virtual environment

demo: $(INSTALLED)  ## Run jobs of every kind on a real model (ENGINE=ollama MODEL=llama3.2 for your own)
	@$(BIN)/worker-core demo --config conf/demo.toml --engine $(ENGINE) $(if $(MODEL),--model $(MODEL))

# Side by side, for most tests wait: for a timer, a process, a reply.
test: $(INSTALLED)  ## Run every test that a fresh machine can
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal --ignore=tests/interop --ignore=tests/conformance -m "not embedded_engine" $(ARGS)

test-interop: $(INSTALLED)  ## Run the tests against real Node BullMQ (needs node and npm)
	$(BIN)/python -m pytest tests/interop $(ARGS)

test-conformance: $(INSTALLED)  ## Match BullMQ's own tests on Redis 7.0 and Valkey (needs node; installs redis-server)
	@tests/conformance/install-redis
	$(BIN)/python -m pytest tests/conformance -q $(ARGS)

test-embedded: $(INSTALLED)  ## Run the tests of the embedded engine on its real model
	$(BIN)/python -m pytest plugins/llamacpp tests/cli/test_demo.py -m embedded_engine $(ARGS)

test-wheels: $(INSTALLED)  ## Install the built wheels into a new environment and run a job
	tests/installed/run $(BIN)/python

coverage: $(INSTALLED)  ## Run the tests and report what they do not reach
	$(BIN)/python -m coverage run -m pytest --ignore=tests/interop --ignore=tests/conformance -m "not embedded_engine" -q
	$(BIN)/python -m coverage report

watch: $(INSTALLED)  ## Run the tests again at each change
	$(BIN)/python -m pytest_watcher . --ignore=tests/interop --ignore=tests/conformance -m "not embedded_engine" -q

lint: $(INSTALLED)  ## Check style, async rules and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/flake8-async $(ASYNC_RULES) $$(git ls-files 'worker_core/*.py' 'plugins/*/worker_core_*/*.py')
	$(BIN)/lint-imports

fix: $(INSTALLED)  ## Mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

format: $(INSTALLED)  ## Format the code
	$(BIN)/ruff format

typecheck: $(INSTALLED)  ## Check types
	$(BIN)/mypy

docs: $(INSTALLED)  ## Hold the documentation against the code
	$(BIN)/python -m pytest tests/docs -q

load-test: $(INSTALLED)  ## Send chat jobs through a worker and print how fast they come out
	$(BIN)/python benchmarks/load.py $(ARGS)

# What draws the results is needed by nothing else.
$(BENCH_INSTALLED): $(INSTALLED)
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench]'
	@touch $@

bench-queue: $(BENCH_INSTALLED)  ## Measure beside Node BullMQ and the official Python worker (ARGS="--quick", --help)
	@$(BIN)/python -m benchmarks.bench_queue $(ARGS)

bench-embeddings: $(INSTALLED)  ## Measure embeddings/s, micro-batched beside one call a job (ARGS="--quick", --help)
	@$(BIN)/python -m benchmarks.bench_embeddings $(ARGS)

bench-batch: $(INSTALLED)  ## Submit, run and fetch 50,000 requests, and measure memory (ARGS="--quick", --help)
	@$(BIN)/python -m benchmarks.bench_batch $(ARGS)

bench-stream: $(INSTALLED)  ## Measure a first token through queue and stream (ARGS="--quick", --help)
	@$(BIN)/python -m benchmarks.bench_stream $(ARGS)

bench-dead-engine: $(INSTALLED)  ## Count what a worker asks of Redis while 10,000 jobs wait for an engine that is gone
	@$(BIN)/python benchmarks/dead_engine.py $(ARGS)

clean:  ## Remove what was set up and built
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/interop/node_modules benchmarks/bench_queue/node/node_modules
