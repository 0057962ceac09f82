# Needs python3 (3.11 or newer) and make; everything else comes from the package index into .venv
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Many tests wait for processes: three at a time keep two cores busy. Those of one service stay together.
BESIDE := --numprocesses=3 --dist=loadgroup --no-loadscope-reorder
export PYTHONUNBUFFERED = 1
# Hundreds of processes are started: none compiles again what another has
export PYTHONDONTWRITEBYTECODE =

.PHONY: quickstart serve web test check lint types unit docs hooks clean

quickstart: .venv/installed
	@$(BIN)/python flows/quickstart.py

serve: .venv/installed
	@$(BIN)/python flows/serve.py

web: .venv/installed
	@$(BIN)/dnnflow web

test: lint types unit

check: lint types
	$(BIN)/python -m pytest $(BESIDE) -m "not (slow or cluster or browser or database or prefect)"

lint: .venv/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test-installed
	$(BIN)/mypy

unit: .venv/test-installed
	$(BIN)/python -m pytest $(BESIDE) --durations=20

docs: .venv/test-installed
	$(BIN)/python -W ignore docs/make_reference.py
	@echo "open docs/reference/index.html"

hooks: .venv/test-installed
	$(BIN)/pre-commit install

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("dnnflow needs Python 3.11 or newer, got " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the locked packages into .venv (a minute or two)"
	@$(PIP) --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test-installed: .venv/installed requirements-test.lock
	@$(PIP) --requirement requirements-test.lock
	@touch $@

clean:
	rm -rf .venv dnnflow-home docs/reference
