# make demo   pre-train on generated scenes, evaluate, write a report (7.5 minutes on 2 slow cores, after installing)
# make test   run the tests
# Both make .venv and install what is missing. Needs Python 3.11 or later: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo setup test check test-all bench docs clean

demo: $(VENV)/installed
	$(BIN)/scenewise demo

setup: $(VENV)/installed-test

test: $(VENV)/installed-test
	$(TEST) -m "not slow" --durations 15

test-all: $(VENV)/installed-test
	$(TEST)

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed
	$(BIN)/python benchmarks/run.py --json benchmarks.json

docs: $(VENV)/installed
	$(BIN)/python docs/check_links.py

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache

# Installed once, and again when what is needed changes.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Scenewise needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --editable '.[test]'
	touch $@
