# Each target works first and alone: whatever it needs is installed into .venv, once per change of its inputs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
RUNS := $(VENV)/.runs-$(VERSION)
TESTS := $(VENV)/.tests-$(VERSION)
# Build dependencies follow constraints.txt as well: older pip reads the first variable for them, newer the second.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check
DEMO := runs/demo
# Most of the tests' time is compiling, on one core each. A file stays with one worker, for what its tests share.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

.PHONY: help install demo test nightly lint benchmark clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(TESTS)  ## the package, its report and the tools of development, into .venv

demo: $(RUNS)  ## the whole pipeline on the embedded sample, up to runs/demo/report.html
	$(BIN)/python experiments/pipeline.py --preset demo --run-dir $(DEMO)
	@echo "The report is $(CURDIR)/$(DEMO)/report.html"

test: $(TESTS)  ## the tests, but for the long ones
	$(BIN)/python -m pytest $(WORKERS) --durations 40

nightly: $(TESTS)  ## all tests, with many more examples and programs optimised as for users
	XLA_FLAGS= HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest $(WORKERS) -m ""

lint: $(TESTS)  ## ruff, and mypy on the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(RUNS)  ## every benchmark, one JSON object each on its last line
	@for script in benchmarks/*.py; do echo "$$script" >&2; $(BIN)/python "$$script" || exit; done

clean:  ## remove .venv and caches, keep runs
	rm -rf $(VENV) .jax_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(RUNS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "marljax needs Python 3.11 or newer; name one with make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python$(VERSION) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --editable '.[report]'
	@touch $@

$(TESTS): $(RUNS)
	$(PIP) install --quiet --editable '.[dev,report]'
	@touch $@
