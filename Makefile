# make run        start everything on this machine (ARGS="--port 9000" and whatever else `antiphon up --help` lists)
# make test       lint, types and all quick tests, three at a time: they wait a lot
# make test-all   the slow tests too, among them clients that others wrote, in Python and JavaScript
# make test-containers   images and compose.yaml, run by Docker: answers, scaling, deaths, rolling restarts
# make coverage   the quick tests again, with branch coverage of this process
# make bench      CPU per event and other numbers, as ratios in one run
# make lint       formatting, lint, types, import rules, proto rules
# make clean      remove what these made; the data in .state stays
#
# Needs Python 3.11 or newer and a package index (test-all also one of npm's); PYTHON=python3.12 chooses another interpreter.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := run
.PHONY: coverage run test test-fast test-slow test-containers test-all lint bench model clean

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(shell find protos -name '*.proto') protos/build.py
INSTALL_LOG := $(VENV)/install.log

# $(call install,EXTRA,STAMPS): the project, editable, with that extra; on a failure one line, not pip's pages
define install
	@echo "installing antiphon[$(1)] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[$(1)]' >$(INSTALL_LOG) 2>&1 || { \
		if grep -qi 'No space left' $(INSTALL_LOG); then echo "disk full: no room for $(VENV)"; \
		elif grep -qiE 'connection broken|NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError' $(INSTALL_LOG); then \
			echo "no network: the package index does not answer"; \
		else grep -v '^\[notice\]' $(INSTALL_LOG) | tail -n 5; echo "the installation failed: $(INSTALL_LOG) says more"; \
		fi >&2; exit 1; }
	@touch $(2)
endef

run: $(VENV)/.stack
	@exec $(BIN)/antiphon up --state .state $(ARGS)

test: lint test-fast

test-all: test test-slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos

test-fast: $(VENV)/.dev model
	$(BIN)/pytest -n 3 --dist loadfile

coverage: $(VENV)/.dev model
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report --skip-covered --sort=miss

test-slow: $(VENV)/.judges model
	$(BIN)/pytest -m slow

test-containers: $(VENV)/.dev
	$(BIN)/pytest -m containers tests/containers

bench: $(VENV)/.dev
	$(BIN)/python -m bench

model: $(VENV)/.stack
	@$(BIN)/antiphon pull

clean:
	rm -rf $(VENV) .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find protos -name '*_pb2*.py' -delete -o -name '*_pb2*.pyi' -delete

$(VENV)/.stack: $(BIN)/python pyproject.toml $(PROTOS)
	$(call install,stack,$@)

$(VENV)/.dev: $(BIN)/python pyproject.toml $(PROTOS)
	$(call install,dev,$@ $(VENV)/.stack)

$(VENV)/.judges: $(BIN)/python pyproject.toml $(PROTOS)
	$(call install,judges,$@ $(VENV)/.dev $(VENV)/.stack)

$(BIN)/python:
	@$(if $(PYTHON),,echo "Python 3.11 or newer is needed and none is on the PATH: make PYTHON=/path/to/python" >&2; exit 1)
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1 || echo missing)" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || { \
		rm -rf $(VENV); echo "$(PYTHON) -m venv fails (on Debian: apt install python3-venv)" >&2; exit 1; }
