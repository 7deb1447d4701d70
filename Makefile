# `make up` starts wye, `make test` tests it; both build what they need in .venv.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8484
PYTEST_ARGS ?=

.PHONY: help up test lint types format clean
.DEFAULT_GOAL := help

help:
	@echo "make up      install wye in .venv and serve the embedded pool on http://$(HOST):$(PORT)"
	@echo "make test    install wye for testing in .venv and run the tests"
	@echo "make lint    check format, lint and types (after make test)"
	@echo "make format  format the code"
	@echo "make clean   remove .venv and caches"

up:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "wye: $(PYTHON) is not on this machine. Install Python 3.11 or newer, or name one: make up PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) scripts/bootstrap.py run
	@.venv/bin/wye up --host $(HOST) --port $(PORT)

test:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "wye: $(PYTHON) is not on this machine. Install Python 3.11 or newer, or name one: make test PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) scripts/bootstrap.py test
	@.venv/bin/wye fetch
	@.venv/bin/python -m pytest $(PYTEST_ARGS) || { code=$$?; echo "wye: the suite failed (above). One test alone: make test PYTEST_ARGS='-k NAME'" >&2; exit $$code; }
	@echo "wye: the suite passed. Next: make up"

lint:
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy

types:
	@.venv/bin/mypy

format:
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
