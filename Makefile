# `make help` says what there is.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src -name '*.py' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down test test-unit test-guest test-clients test-sdk fuzz chaos scale cli-cases docs check bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.compiled ## install Debian packages (as root) and the virtual environment; does nothing the second time

$(VENV)/.ready: requirements.lock pyproject.toml scripts/packages.txt scripts/setup
	PYTHON=$(PYTHON) scripts/setup
	@touch $@

# Where Python may not write byte code, every start would pay for compiling.
$(VENV)/.compiled: $(VENV)/.ready $(SOURCES)
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q src
	@touch $@

demo: setup ## build and start the example backend (PostgreSQL, Redis, NestJS), and talk to it
	scripts/demo

demo-down: setup ## stop the example backend; its data stays
	cd examples/backend && ../../$(BIN)/berth compose down

test: setup ## all tests; the integration tests need root
	scripts/packages test
	scripts/test $(ARGS)

test-unit: setup ## the fast tests that need neither root nor packages
	$(BIN)/pytest tests/unit

test-guest: setup ## tests in QEMU guests with Debian 12's own kernel: cgroup v2, AppArmor, systemd, quotas (root; more than an hour)
	scripts/packages guest
	scripts/guest-test

test-clients: setup ## testcontainers (Python, Node), python-on-whales, dockerode, devcontainers, docker-compose 1.29 and 2 (root; some minutes; needs node, npm, Go)
	scripts/packages test
	scripts/test-clients $(ARGS)

test-sdk: setup ## the integration tests of Docker's SDK for Python, against dockerd and berthd (root; about ten minutes)
	scripts/packages test
	$(BIN)/pip install -q -r tests/requirements-clients.txt
	$(BIN)/python scripts/sdk_tests.py $(ARGS)

fuzz: setup ## 20,000 requests that nobody would send, to an engine in namespaces of its own (root; about 15 minutes)
	$(BIN)/python scripts/fuzz_api.py $(ARGS)

chaos: setup ## 24 clients do everything at once for three minutes, while the engine is killed every 20 seconds (root)
	$(BIN)/python scripts/chaos.py $(ARGS)

scale: setup ## how the engine's times grow to 1,000 created and 300 running containers, 500 images, 100 networks (root)
	$(BIN)/python -m bench.scale $(ARGS)

cli-cases: setup ## the docker CLI's case list: ARGS="compare PATTERN" against berthd, ARGS="record PATTERN" what Debian's dockerd answers
	scripts/packages test
	$(BIN)/python scripts/cli_cases.py $(ARGS)

docs: setup ## write docs/compatibility.md anew from the tests
	$(BIN)/python scripts/compatibility.py

check: setup ## ruff, mypy --strict, import bands, links in the docs
	$(BIN)/ruff check src tests bench scripts
	$(BIN)/ruff format --check src
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/check_docs.py

bench: setup ## measure against Debian's docker.io on this machine: medians and ratios of one run
	scripts/packages bench
	$(BIN)/python -m bench $(ARGS)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
