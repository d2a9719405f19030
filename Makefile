# `make quickstart` and `make test` work on a fresh machine with Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= 2
SHELL = /bin/bash

.PHONY: install quickstart test lint format types unit coverage test-data bench bench-compare notebook picture clean

# Reinstalls when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d: set PYTHON=..." % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(BIN)/rwkvclip-eval quickstart

test: lint types unit

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install
	$(BIN)/mypy

# WORKERS processes share the tests; 0 runs them in one process, in order. A free worker takes tests that wait.
unit: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

# The same tests, counting the lines they reach: takes a third longer and more.
coverage: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term:skip-covered

test-data: install
	RWKVCLIP_TEST_DATA=full $(BIN)/pytest -m data -s --timeout 5400

# Keeps its times in .benchmarks, for `make bench-compare`.
bench: install
	$(BIN)/pytest tests/benchmarks --benchmark-only -m '' -s --benchmark-autosave

# Instructions beside those kept in the tree; times of the pieces beside the last that `make bench` kept here.
bench-compare: install
	$(BIN)/pytest tests/benchmarks/test_instruction_count.py --benchmark-only -m '' -s
	@ls .benchmarks/*/*.json >/dev/null 2>&1 || \
	  { echo "Nothing to compare with: run 'make bench' on another commit first."; exit 2; }
	$(BIN)/pytest tests/benchmarks/test_pieces.py --benchmark-only -m '' \
	  --benchmark-compare --benchmark-compare-fail=median:10%

# Executes docs/results.ipynb and keeps its outputs.
notebook: install
	OMP_NUM_THREADS=1 $(BIN)/python docs/execute.py

# Makes docs/report.png of the quickstart's report; needs Chromium.
picture: install
	test -f runs/quickstart/report/index.html || $(BIN)/rwkvclip-eval quickstart
	$(BIN)/python docs/report_picture.py runs/quickstart/report/index.html

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage build dist
